"""The files in deploy/ name options, paths and ports that exist. They are not run here, which would need Docker."""

import re

import pytest
import typer.main
import yaml
from conftest import TESTS

from bge_integrations.cli.app import app
from bge_integrations.serving import ServerSettings, create_app

PROJECT = TESTS.parent
DEPLOY = PROJECT / "deploy"
PATHS = set(create_app(ServerSettings(models=["pocket"])).openapi()["paths"])


def check_arguments(arguments: list[str]) -> None:
    """Parse the arguments of `bge serve` without running it."""
    command = typer.main.get_command(app).get_command(None, "serve")
    command.make_context("serve", list(arguments))


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_dockerfiles(name):
    text = (DEPLOY / name).read_text("utf-8")
    for source in re.findall(r"^COPY (.*) \S+$", text, re.M):
        assert all((PROJECT / each).exists() for each in source.split())
    entrypoint, command = (
        yaml.safe_load(re.search(rf"^{key} (\[.*\])$", text, re.M)[1]) for key in ("ENTRYPOINT", "CMD")
    )
    assert entrypoint[:2] == ["bge", "serve"]
    check_arguments(entrypoint[2:] + command)
    extras = re.search(r"'\.\[([\w,]+)\]'", text)[1].split(",")
    assert all(re.search(rf"^{extra} = ", (PROJECT / "pyproject.toml").read_text("utf-8"), re.M) for extra in extras)


def test_compose():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    check_arguments(services["server"]["command"])
    assert (DEPLOY.parent / services["server"]["build"]["dockerfile"]).is_file()


def test_kubernetes():
    parts = {part["kind"]: part for part in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8"))}
    pod = parts["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    check_arguments(container["args"])
    assert {container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("liveness", "readiness")} <= PATHS
    assert pod["terminationGracePeriodSeconds"] > 5 + 30
    assert parts["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == parts["Deployment"]["metadata"]["name"]

"""CONTRIBUTING's map lists every module and no others, and its recipes name files that exist."""

import re

from conftest import TESTS

PROJECT = TESTS.parent
PAGE = (PROJECT / "CONTRIBUTING.md").read_text("utf-8")
MAP = PAGE.partition("## Code map")[2].partition("\n## ")[0]
PACKAGE = PROJECT / "bge_integrations"


def rooms() -> dict[str, str]:
    """Return {folder: its part of the map}; the package itself is ""."""
    found = {"": MAP}
    for part in re.split(r"\n(?=\*\*|- `\w+/`)", MAP):
        for folder in re.findall(r"`(\w+)/`", part):
            if (PACKAGE / folder).is_dir():
                found.setdefault(folder, part)
    for heading, part in re.findall(r"\*\*`(\w+)/`[^*]*\*\*(.*?)(?=\n\*\*|\Z)", MAP, re.S):
        found[heading] = part
    return found


def modules() -> set[tuple[str, str]]:
    """Return (folder, file name) of each module except the subpackages' `__init__.py`, which only describe them."""
    paths = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    return {
        ("/".join(path.parts[:-1]), path.name) for path in paths if path.parent.name == "" or path.stem != "__init__"
    }


def test_every_module_is_in_the_map():
    parts = rooms()
    missing = [
        f"{folder}/{name}"
        for folder, name in sorted(modules())
        if f"`{name}`" not in parts.get(folder.split("/")[0], "")
    ]
    assert not missing


def test_every_name_in_the_map_exists():
    known = {name for _, name in modules()}
    named = set(re.findall(r"`(\w+\.py)`", MAP))
    assert named <= known


def test_the_recipes_name_files_that_exist():
    paths = re.findall(r"`((?:tests|docs|models|core|adapter_kit|bge_integrations)/[\w/.-]+\.\w+)`", PAGE)
    assert len(paths) > 20
    missing = [path for path in paths if not any((root / path).exists() for root in (PROJECT, PACKAGE))]
    assert [path for path in missing if "NAME" not in path] == []

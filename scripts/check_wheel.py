"""Build the sdist and the wheel, and check that the wheel works without the clone: `make check-wheel`.

The wheel is built from the sdist and installed into an empty environment in a temporary folder, first alone, then with
the `cli` extra. The pocket models and the `bge` command are run from that folder, without access to the model hub.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "bge_integrations"
CONSTRAINTS = PROJECT / "constraints.txt"
RUN_MODELS = """
import sys
from pathlib import Path

import numpy as np

import bge_integrations
from bge_integrations import load_embedder, load_generator, load_reranker
from bge_integrations.generation.needles import needle_document, question

assert Path(bge_integrations.__file__).is_relative_to(sys.prefix), bge_integrations.__file__
question, passages = "What do pandas eat?", ["The giant panda eats bamboo.", "Rome lies on the Tiber."]
with load_embedder("pocket") as embedder:
    query = embedder.encode([question], kind="query").dense
    scores = query @ embedder.encode(passages, kind="passage", dense=True, sparse=True, multi_vector=True).dense.T
assert np.argmax(scores) == 0, scores
with load_reranker("pocket") as reranker:
    scores = reranker.score([(question, passage) for passage in passages])
assert np.argmax(scores) == 0, scores
document = needle_document(sentences=16, facts=1, seed=0)
((name, city),) = document.facts.items()
with load_generator("pocket") as generator:
    answer = generator.generate(question(name), context=generator.read(document.text), max_new_tokens=3)
assert city in answer.text, answer
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "dist", nargs="?", type=Path, help="folder to keep the sdist and the wheel in (default: discard)"
    )
    dist = parser.parse_args().dist
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="check-wheel-") as name:
        folder = Path(name)
        wheel = build(dist or folder / "dist")
        check_contents(wheel)
        check_installed(wheel, folder)
    print(f"==> {wheel.name} works ({time.monotonic() - began:.0f} s)")


def build(dist: Path) -> Path:
    """Build the sdist and, from it, the wheel."""
    step("building the sdist and the wheel")
    run(sys.executable, "-m", "build", "--outdir", str(dist), str(PROJECT))
    wheel = dist / f"bge_integrations-{version()}-py3-none-any.whl"
    if not wheel.is_file():
        sys.exit(f"{wheel} was not built")
    return wheel.resolve()


def check_contents(wheel: Path) -> None:
    """Check that the wheel contains every file of the package and the licences, and nothing else."""
    step(f"checking the contents of {wheel.name}")
    info = f"bge_integrations-{version()}.dist-info"
    expected = {
        file.relative_to(PROJECT).as_posix()
        for file in PACKAGE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    licences = {"LICENSE", "bge_integrations/pocket/README.md", "bge_integrations/demo_documents/SOURCES.md"}
    expected |= {f"{info}/licenses/{file}" for file in licences}
    expected |= {f"{info}/{file}" for file in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    found = set(zipfile.ZipFile(wheel).namelist())
    if missing := expected - found:
        sys.exit(f"the wheel lacks {', '.join(sorted(missing))}")
    if extra := found - expected:
        sys.exit(f"the wheel should not contain {', '.join(sorted(extra))}")


def check_installed(wheel: Path, folder: Path) -> None:
    """Install the wheel into an empty environment in `folder`, and run it there."""
    step("installing the wheel into an empty environment")
    venv.create(folder / "venv", with_pip=True)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = str(scripts / "python")
    install = (python, "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS))
    # torch first, by its exact pin: any other requirement may download gigabytes of CUDA libraries
    run(*install, torch_pin())
    run(*install, str(wheel))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    step("running the pocket models")
    run(python, "-c", RUN_MODELS, cwd=folder, env=environment)
    step("running bge")
    run(*install, f"{wheel}[cli]")
    bge = str(scripts / "bge")
    said = run(bge, "--version", cwd=folder, env=environment, capture_output=True).stdout
    if said.strip() != f"bge {version()}":
        sys.exit(f"bge --version prints {said!r}")
    run(bge, "models", cwd=folder, env=environment)
    (folder / "notes").mkdir()
    (folder / "notes" / "pandas.md").write_text("The giant panda eats bamboo.", "utf-8")
    run(bge, "index", "notes", "--index", "notes-index", "--model", "pocket", cwd=folder, env=environment)
    run(bge, "search", "What do pandas eat?", "--index", "notes-index", cwd=folder, env=environment)


def version() -> str:
    """Return the version of the package."""
    return first(r'^__version__ = "(.+)"$', PACKAGE / "__init__.py")


def torch_pin() -> str:
    """Return the pinned version of torch as a pip requirement."""
    return first(r"^(torch==.+)$", CONSTRAINTS)


def first(pattern: str, file: Path) -> str:
    """Return the first group of the pattern's first match in a file."""
    match = re.search(pattern, file.read_text("utf-8"), re.M)
    if match is None:
        sys.exit(f"{file} has no line like {pattern}")
    return match[1]


def step(doing: str) -> None:
    print(f"==> {doing}", flush=True)


def run(
    *command: str, cwd: Path | None = None, env: dict[str, str] | None = None, capture_output: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command; end this program if it fails."""
    done = subprocess.run(command, cwd=cwd, env=env, stdout=subprocess.PIPE if capture_output else None, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} failed with exit status {done.returncode}")
    return done


if __name__ == "__main__":
    main()

"""No file that is read can run code: no pickle, no eval, no YAML with objects, no code of a checkpoint."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CHECKPOINTS, CLIP, TESTS, VISUALIZED

PACKAGE = TESTS.parent / "bge_integrations"
#: Modules that run what a file says; of pickle, the errors are harmless.
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "runpy", "code", "jsonpickle"}
HARMLESS = {"pickle.UnpicklingError", "pickle.PicklingError"}
#: Functions that do; {name: the argument that makes them safe}.
CALLS = {
    **dict.fromkeys(["eval", "exec", "compile", "__import__", "yaml.load", "yaml.unsafe_load", "torch.jit.load"]),
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}


def unsafe(tree: ast.Module) -> Iterator[str]:
    """Yield what a module uses that could run code from a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in MODULES:
            yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if given.get("trust_remote_code", "False") != "False":
                yield f"{name}(trust_remote_code)"
            if name in CALLS:
                safe = CALLS[name]
                if safe is None or given.get(safe[0]) != str(safe[1]):
                    yield name


def test_no_module_reads_files_that_can_run_code():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        names = set(unsafe(ast.parse(path.read_text("utf-8")))) - HARMLESS
        if names:
            found[str(path.relative_to(PACKAGE))] = sorted(names)
    assert found == {}


@pytest.mark.parametrize(
    "code",
    [
        *("import torch\ntorch.load(f)", "torch.load(f, weights_only=False)", "from pickle import load", "eval(x)"),
        *("import pickle\npickle.loads(x)", "AutoModel.from_pretrained(x, trust_remote_code=True)", "np.load(f)"),
    ],
)
def test_the_check_finds(code):
    assert list(unsafe(ast.parse(code)))


LOAD = """
import sys, warnings
from bge_integrations import load_embedder, load_reranker

warnings.simplefilter("ignore")
events = set()
sys.addaudithook(lambda event, _: events.add(event) if event in ("pickle.find_class", "subprocess.Popen") else None)
for folder in sys.argv[1:]:
    with (load_reranker if "reranker" in folder else load_embedder)(folder) as model:
        model.count_tokens(["a"]) if hasattr(model, "count_tokens") else None
print(sorted(events))
"""


def test_loading_every_kind_of_checkpoint_finds_no_pickled_class():
    folders = [*sorted(path for path in CHECKPOINTS.iterdir() if path.is_dir()), Path(CLIP), Path(VISUALIZED)]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, folders)], capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr

"""The examples in docstrings run as written, each in its own process, with tiny checkpoints in the hub's cache."""

import ast
import doctest
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import bge_integrations

PACKAGE = Path(bge_integrations.__file__).parent
#: Examples that can't run here, and why.
NOT_RUN = {
    "BGECrossEncoder": "downloads mteb's data sets",
    "BGEEncoder": "downloads mteb's data sets",
    "BGEM3Search": "downloads mteb's data sets",
}
RUN_EXAMPLE = """
import doctest, sys

class Checker(doctest.OutputChecker):
    def check_output(self, want, got, optionflags):  # an output is compared if the example states one
        return not want or super().check_output(want, got, optionflags)

docstring, name, file, line = sys.argv[1:]
example = doctest.DocTestParser().get_doctest(docstring, {}, name, file, int(line))
runner = doctest.DocTestRunner(Checker(), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
sys.exit(runner.run(example, out=sys.stderr.write).failed)
"""


class Example(NamedTuple):
    """A docstring with `>>>` lines, and its location."""

    name: str
    docstring: str
    file: Path
    line: int


def examples() -> Iterator[Example]:
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node)
                if docstring and ">>>" in docstring:
                    yield Example(getattr(node, "name", file.stem), docstring, file, getattr(node, "lineno", 0))


EXAMPLES = list(examples())
RUN_HERE = [example for example in EXAMPLES if example.name not in NOT_RUN]
SKIPPED = [example for example in EXAMPLES if example.name in NOT_RUN]


def by_name(example: Example) -> str:
    return example.name


@pytest.mark.parametrize("example", RUN_HERE, ids=by_name)
def test_example(example, run_forked):
    run_forked(RUN_EXAMPLE, example.docstring, example.name, str(example.file), str(example.line))


@pytest.mark.parametrize("example", SKIPPED, ids=by_name)
def test_example_that_is_not_run_can_be_parsed(example):
    for part in doctest.DocTestParser().get_examples(example.docstring):
        ast.parse(part.source)
    pytest.skip(f"{example.file.name}:{example.line}: {NOT_RUN[example.name]}")


def test_examples_that_are_not_run_exist():
    assert RUN_HERE
    assert {example.name for example in SKIPPED} == NOT_RUN.keys()

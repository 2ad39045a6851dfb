"""Errors keep their message and attributes, also in another process, and are all documented."""

import errno
import inspect
import pickle
import re
import runpy

import pytest
from conftest import TESTS

from bge_integrations import errors
from bge_integrations.errors import DiskFullError, InvalidInputError, UnknownArgumentError, WrongKindError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InvalidInputError("no text"), "no text"),
        (
            InvalidInputError("device='tpu' is not supported", argument="device", advice="use 'cpu' or 'cuda'"),
            "device='tpu' is not supported; use 'cpu' or 'cuda'",
        ),
        (UnknownArgumentError("f has no argument x=", argument="x", advice="use y="), "f has no argument x=; use y="),
        (WrongKindError("m is a reranker", "load it with load_reranker('m')", "embedder"), None),
        (DiskFullError(errno.ENOSPC, "9 MB are needed", "index", advice="make room"), None),
    ],
)
def test_an_error_survives_another_process(error, message):
    error.add_note("a note")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), vars(copy)) == (str(error), vars(error))
    assert message in (None, str(error))
    assert str(error) == "; ".join(filter(None, [copy.finding, copy.advice]))


def test_the_table_of_the_docs_lists_every_error():
    """`python scripts/error_table.py` writes it."""
    scripts = runpy.run_path(str(TESTS.parent / "scripts" / "error_table.py"))
    assert f"{scripts['BEGIN']}\n{scripts['table']()}\n{scripts['END']}" in scripts["PAGE"].read_text("utf-8")


def test_every_error_has_its_own_section():
    page = (TESTS.parent / "docs" / "troubleshooting.md").read_text("utf-8")
    kinds = {kind for kind in vars(errors).values() if inspect.isclass(kind) and kind.__module__ == errors.__name__}
    assert {kind.__name__ for kind in kinds} <= set(re.findall(r"^### `(\w+)`$", page, re.M))

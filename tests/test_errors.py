"""Errors keep their message and attributes, also in another process."""

import errno
import pickle

import pytest

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

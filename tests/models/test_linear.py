"""The number of rows that the CPU's linears get: few different ones."""

import shutil
from typing import ClassVar

import pytest
import torch
from conftest import CHECKPOINTS

from bge_integrations import load_embedder
from bge_integrations.models import decoder, encoder, linear
from bge_integrations.models.linear import pad_rows


@pytest.mark.parametrize("rows", [0, 1, 8, 9, 127, 129, 200])
def test_rows_are_filled_up_with_zeros(rows):
    x = torch.arange(rows * 2.0).view(rows, 2) + 1
    filled = pad_rows(x)
    assert torch.equal(filled[:rows], x)
    assert not filled[rows:].any()


def test_there_are_few_numbers_of_rows():
    """oneDNN keeps memory for each of them."""
    assert len({len(pad_rows(torch.ones(rows, 1))) for rows in range(2049)}) <= 60


class Recording:
    """A linear that notes the numbers of rows it gets."""

    sizes: ClassVar[set[int]] = set()

    def __init__(self, *arguments, **options):
        self._linear = linear.linear(*arguments, **options)

    def __call__(self, x):
        self.sizes.add(len(x))
        return self._linear(x)

    def gelu(self, x):
        self.sizes.add(len(x))
        return self._linear.gelu(x)

    def add(self, x, residual):
        self.sizes.add(len(x))
        return self._linear.add(x, residual)


@pytest.mark.parametrize(
    ("module", "checkpoint"),
    [
        (encoder, "bge-base-en-v1.5"),
        (encoder, "bge-m3"),
        (decoder, "bge-multilingual-gemma2"),
    ],
)
def test_models_fill_up_their_rows(tmp_path, monkeypatch, module, checkpoint):
    """Whatever is asked for, and with an instruction that is computed once."""
    monkeypatch.setattr(module, "linear", Recording)
    monkeypatch.setattr(Recording, "sizes", set())
    shutil.copytree(CHECKPOINTS / checkpoint, tmp_path / checkpoint)
    with load_embedder(tmp_path / checkpoint) as embedder:
        everything = {"sparse": embedder.has_sparse, "multi_vector": embedder.has_multi_vector}
        for count in range(1, 12):
            embedder.encode(["a panda " * i for i in range(count)], kind="query")
            embedder.encode(["a panda " * i for i in range(count)], **everything)
    assert len(Recording.sizes) > 2
    assert all(len(pad_rows(torch.ones(size, 1))) == size for size in Recording.sizes)
    assert not any(size % 2 for size in Recording.sizes)

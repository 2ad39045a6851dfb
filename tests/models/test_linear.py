"""The CPU's linear layers: the choice of kernels, and the small number of different row counts."""

import logging
import os
import shutil
import subprocess
import sys
import threading
from typing import ClassVar

import pytest
import torch
from conftest import CHECKPOINTS, assert_close

from bge_integrations import load_embedder
from bge_integrations.errors import InvalidInputError
from bge_integrations.models import decoder, encoder, linear
from bge_integrations.models.linear import Linear, PrepackedLinear, choose_cpu_kernels, kernels_for, pad_rows
from bge_integrations.models.placement import Placement


@pytest.mark.parametrize("rows", [0, 1, 8, 9, 127, 129, 200])
def test_rows_are_padded_with_zeros(rows):
    x = torch.arange(rows * 2.0).view(rows, 2) + 1
    padded = pad_rows(x)
    assert torch.equal(padded[:rows], x)
    assert not padded[rows:].any()


def test_there_are_few_row_counts():
    """oneDNN keeps memory for each row count."""
    assert len({len(pad_rows(torch.ones(rows, 1))) for rows in range(2049)}) <= 60


class Recording:
    """A linear layer that records the row counts it gets."""

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
def test_models_pad_their_rows(tmp_path, monkeypatch, module, checkpoint):
    """This holds for every output, and also for an instruction that is computed once."""
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


@pytest.mark.parametrize(
    ("machine", "is_intel", "has_avx512", "expected"),
    [
        ("x86_64", False, False, "onednn"),
        ("AMD64", False, True, "onednn"),
        ("x86_64", True, True, "onednn"),
        ("x86_64", True, False, "torch"),
        ("aarch64", False, False, "torch"),
    ],
)
def test_the_processor_chooses_the_kernels(machine, is_intel, has_avx512, expected):
    assert kernels_for(machine, is_intel, has_avx512) == expected


def test_an_argument_wins_over_the_variable_and_the_variable_over_the_processor(monkeypatch):
    monkeypatch.setenv("BGE_CPU_KERNELS", "torch")
    assert choose_cpu_kernels() == "torch"
    monkeypatch.setattr(linear, "onednn_works", lambda dtype: True)
    assert choose_cpu_kernels("onednn") == "onednn"
    monkeypatch.setenv("BGE_CPU_KERNELS", "onednn")
    assert choose_cpu_kernels() == "onednn"
    assert choose_cpu_kernels("torch") == "torch"


def test_bad_choices_are_refused_by_their_source(monkeypatch):
    with pytest.raises(InvalidInputError, match=r"^cpu_kernels='mkl' .*'onednn', 'torch'"):
        choose_cpu_kernels("mkl")
    monkeypatch.setenv("BGE_CPU_KERNELS", "fast")
    with pytest.raises(InvalidInputError, match=r"^BGE_CPU_KERNELS='fast'"):
        choose_cpu_kernels()


def test_without_the_private_operators_torch_is_used(monkeypatch):
    monkeypatch.delenv("BGE_CPU_KERNELS", raising=False)
    monkeypatch.setattr(linear, "onednn_works", lambda dtype: False)
    assert choose_cpu_kernels() == "torch"
    with pytest.raises(InvalidInputError, match="cpu_kernels='onednn'"):
        choose_cpu_kernels("onednn")


def test_the_choice_is_logged_once(caplog):
    linear._logged.cache_clear()
    with caplog.at_level(logging.INFO, "bge_integrations.models.linear"):
        for _ in range(3):
            choose_cpu_kernels("torch")
    assert caplog.messages == ["CPU kernels: torch (set by cpu_kernels)"]


@pytest.mark.parametrize(
    ("kernels", "out", "kind"), [("torch", 512, Linear), ("onednn", 512, PrepackedLinear), ("onednn", 8, Linear)]
)
def test_a_linear_uses_the_kernels_it_is_given_unless_it_is_small(kernels, out, kind):
    if kernels == "onednn" and not linear.onednn_works(torch.float32):
        pytest.skip("this build of torch has no prepacked linears")
    made = linear.linear(torch.randn(out, 512), torch.randn(out), Placement(torch.device("cpu"), "float32", kernels))
    assert type(made) is kind


@torch.inference_mode()
def test_both_kernels_compute_the_same():
    if not linear.onednn_works(torch.float32):
        pytest.skip("this build of torch has no prepacked linears")
    torch.manual_seed(0)
    weight, bias, x = torch.randn(512, 512), torch.randn(512), torch.randn(40, 512)
    ours, plain = PrepackedLinear(weight, bias), Linear(weight, bias)
    for epilogue, arguments in (("__call__", ()), ("gelu", ()), ("silu", ()), ("add", (x,)), ("multiply", (x,))):
        assert_close(getattr(ours, epilogue)(x, *arguments), getattr(plain, epilogue)(x, *arguments))


def test_a_text_gets_the_same_bits_in_every_process_even_under_load():
    """Choosing kernels by a benchmark once led to three hashes of one text in five processes."""
    code = """
import hashlib
from bge_integrations import load_embedder
with load_embedder("pocket") as embedder:
    print(hashlib.sha256(embedder.encode(["the giant panda"]).dense.tobytes()).hexdigest())
"""
    done = threading.Event()

    def load_the_machine():
        a = torch.randn(256, 256)
        while not done.is_set():
            a @ a

    def bits(**environment) -> str:
        ran = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=120
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    busy = threading.Thread(target=load_the_machine)
    busy.start()
    try:
        assert len({bits() for _ in range(3)}) == 1
        assert bits(BGE_CPU_KERNELS="torch")
    finally:
        done.set()
        busy.join()

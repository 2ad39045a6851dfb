"""The pocket generator finds facts in documents that it has condensed; a copy of its training gives a usable model."""

import importlib.util
import json

import pytest
from conftest import TESTS

from bge_integrations.generation import load_generator
from bge_integrations.generation.needles import CITIES, NAMES, needle_document, question

POCKET = TESTS.parent / "bge_integrations" / "pocket"


@pytest.mark.parametrize("ratio", [0, 2, 4, 8])
def test_the_pocket_generator_finds_a_fact(ratio):
    found = 0
    with load_generator("pocket", beacon_ratio=ratio) as generator:
        for seed in range(12):
            document = needle_document(sentences=24, facts=1, seed=500 + seed)
            ((name, city),) = document.facts.items()
            context = generator.read(document.text)
            answer = generator.generate(question(name), context=context, max_new_tokens=4)
            found += answer.text.strip() == city and answer.finish_reason == "stop"
    assert found >= 10


def test_the_pocket_generator_is_small():
    files = [file for file in (POCKET / "generator").iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 500_000


def test_a_document_has_its_facts_and_is_repeatable():
    document = needle_document(sentences=30, facts=5, seed=3)
    assert document == needle_document(sentences=30, facts=5, seed=3) != needle_document(30, 5, seed=4)
    assert document.text.count(".") == 30
    assert len(document.facts) == 5
    for name, city in document.facts.items():
        assert f"{name} lives in {city}." in document.text
        assert name in NAMES
        assert city in CITIES
    with load_generator("pocket") as generator:
        assert generator.count_tokens(document.text) == 150


def test_a_training_writes_a_checkpoint(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("train_needle", TESTS.parent / "scripts" / "train_needle.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)  # other tests of the process need theirs
    monkeypatch.setattr("sys.argv", ["train_needle.py", "--folder", str(tmp_path), "--steps", "8"])
    script.main()
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    with load_generator(tmp_path) as generator:
        assert generator.max_length == (512 - 32) * 4 + 32
        assert generator.generate(question("Anna"), max_new_tokens=2).new_tokens <= 2

"""RetroMAE's losses, gradients and steps (tests/oracle/training/README.md), its masks, and `pretrain`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from bge_integrations import load_embedder
from bge_integrations.errors import InvalidInputError, NotSupportedError, UnknownArgumentError
from bge_integrations.models.tokenizer import TextTokenizer
from bge_integrations.training import pretrain, run
from bge_integrations.training.groups import RowSet, Visit
from bge_integrations.training.masked_texts import MaskedTexts, masks, pieces_of
from bge_integrations.training.retromae import RetroMAE
from bge_integrations.training.texts import read_texts

ORACLE = Path(__file__).parents[1] / "oracle"
EXPECTED = json.loads((ORACLE / "training" / "retromae.json").read_text("utf-8"))
BASE = ORACLE / "checkpoints" / "bge-base-en-v1.5"


def load() -> RetroMAE:
    """Return the oracle's model in training mode, without dropout."""
    options = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = RetroMAE(AutoModelForMaskedLM.from_pretrained(BASE, dtype=torch.float32, **options)).train()
    heads = load_file(ORACLE / "training" / "retromae_heads.safetensors")
    names = {name if name.startswith("decoder.") else f"backbone.{name}": value for name, value in heads.items()}
    assert not model.load_state_dict(names, strict=False).unexpected_keys
    return model


def batch() -> dict[str, torch.Tensor]:
    given = EXPECTED["batch"]
    rows = [[[character == "1" for character in row] for row in text] for text in given["decoder_attention_mask"]]
    return {
        "encoder_input_ids": torch.tensor(given["encoder_input_ids"]),
        "attention_mask": torch.tensor(given["encoder_attention_mask"]),
        "encoder_labels": torch.tensor(given["encoder_labels"]),
        "decoder_input_ids": torch.tensor(given["decoder_input_ids"]),
        "decoder_labels": torch.tensor(given["decoder_labels"]),
        "visible": torch.tensor(rows),
    }


def current_name(name: str) -> str:
    return name.replace("lm.", "backbone.", 1).replace("c_head.", "decoder.", 1)


def test_loss_and_gradients():
    model, expected = load(), EXPECTED["cases"]["pretraining"]
    out = model(**batch())
    for part in ("loss", "encoder_loss", "decoder_loss"):
        assert out[part].item() == pytest.approx(expected[part], rel=2e-5)
    out["loss"].backward()
    grads = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    whole = torch.stack([grad.norm() for grad in grads.values()]).norm().item()
    assert whole == pytest.approx(expected["grad_norm"]["all"], rel=1e-4)
    for name, norm in expected["grad_norm"].items():
        if name != "all":
            assert grads[current_name(name)].norm().item() == pytest.approx(norm, rel=1e-4), name


@pytest.mark.parametrize("case", EXPECTED["steps"])
def test_steps(case):
    expected, model, given = EXPECTED["steps"][case], load(), batch()
    options = dict(expected["optimizer"])
    optimizer = getattr(torch.optim, options.pop("name"))(model.parameters(), **options)
    losses = []
    for step in range(4):
        optimizer.zero_grad()
        loss = model(**given)["loss"]
        losses.append(loss.item())
        if step < 3:
            loss.backward()
            optimizer.step()
    assert losses == pytest.approx(expected["losses"], rel=1e-4)
    weights = dict(model.named_parameters())
    for name, after in expected["after"].items():
        first = weights[current_name(name)].flatten()[: len(after["first"])].tolist()
        assert first == pytest.approx(after["first"], rel=1e-3, abs=1e-5)


TEXTS = [*EXPECTED["texts"], "Retrieval of documents.", "a bag of words and a panda, both of them without order"] * 2
SHORT = {"batch_size": 4, "epochs": 2, "learning_rate": 1e-3, "max_length": 24}


def word_starts(ids: list[int]) -> list[int]:
    vocabulary = json.loads((BASE / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    names = {number: name for name, number in vocabulary.items()}
    return [i for i, token in enumerate(ids) if not names[token].startswith("##")]


def test_masks_are_of_whole_words_and_about_as_large_as_asked():
    tokenizer = TextTokenizer(BASE)
    (piece,) = pieces_of([" ".join(TEXTS)], tokenizer, 512)
    drawn = masks(piece.words, 0.5, 200, np.random.default_rng(1))
    assert not drawn[:, [0, -1]].any()  # special tokens
    assert drawn.sum(1).max() <= round(0.5 * len(piece.ids))
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)
    starts = word_starts(piece.ids.tolist())
    assert len(starts) < len(piece.ids) - 10  # there are words of several tokens
    for start, stop in zip(starts, [*starts[1:], len(piece.ids)], strict=True):
        assert (drawn[:, start:stop] == drawn[:, start : start + 1]).all()


def test_masked_texts():
    tokenizer = TextTokenizer(BASE)
    pieces = list(pieces_of([" ".join(TEXTS)], tokenizer, 512))
    dataset = MaskedTexts(pieces, tokenizer, encoder_share=0.3, decoder_share=0.5, seed=1)
    row_set = RowSet([0], 1, 1)
    examples = [dataset[Visit(epoch, 0, row_set)] for epoch in range(40)]
    labelled = np.stack([each.encoder_labels != -100 for each in examples])
    kept = np.stack([each.masked == each.ids for each in examples])
    assert kept[~labelled].all()
    assert np.mean(np.stack([each.masked for each in examples])[labelled] == tokenizer.mask_id) == pytest.approx(
        0.8, abs=0.03
    )
    assert kept[labelled].mean() == pytest.approx(0.1, abs=0.03)
    example, again = examples[0], dataset[Visit(0, 0, row_set)]
    assert all((a == b).all() for a, b in zip(example, again, strict=True))
    assert not example.visible.diagonal().any()
    assert example.visible[1:, 0].all()  # the encoder's state
    assert example.visible.mean() == pytest.approx(0.5, abs=0.05)


def test_long_texts_are_cut_between_words_and_nothing_is_lost():
    tokenizer = TextTokenizer(BASE)
    text = " ".join(TEXTS)
    pieces = list(pieces_of(["", text], tokenizer, 16))
    assert max(len(piece.ids) for piece in pieces) <= 16
    assert [i for piece in pieces for i in piece.ids[1:-1].tolist()] == tokenizer.ids([text])[0].tolist()
    assert all(word_starts(piece.ids[1:].tolist())[0] == 0 for piece in pieces)


def test_pretrain(tmp_path):
    trained = pretrain(TEXTS, BASE, tmp_path / "out", **SHORT)
    assert np.isfinite(trained.losses).all()
    assert trained.losses[-1] < trained.losses[0]
    with load_embedder(str(trained.folder), pooling="cls", device="cpu", query_instruction="") as after:
        vectors = after.encode(TEXTS[:3]).dense
    with load_embedder(str(BASE), device="cpu") as before:
        assert np.abs(before.encode(TEXTS[:3]).dense - vectors).max() > 1e-2
    transformer = AutoModel.from_pretrained(trained.folder).eval()
    ids = AutoTokenizer.from_pretrained(trained.folder)(TEXTS[:3], padding=True, return_tensors="pt")
    states = transformer(**ids).last_hidden_state[:, 0].detach()
    assert torch.nn.functional.normalize(states).numpy() == pytest.approx(vectors, abs=1e-4)
    # its masked language modelling head is kept for the next pre-training
    loaded = AutoModelForMaskedLM.from_pretrained(trained.folder, output_loading_info=True)[1]
    assert not loaded["missing_keys"]


@pytest.mark.parametrize("settings", [{"precision": "bfloat16"}, {"gradient_checkpointing": True}])
def test_pretraining_with_less_memory(settings, tmp_path):
    plain, other = (pretrain(TEXTS, BASE, tmp_path / str(len(s)), **SHORT, **s) for s in ({}, settings))
    assert other.losses == pytest.approx(plain.losses, rel=0.02 if "precision" in settings else 1e-5)


def test_an_interrupted_run_continues_to_the_same_losses(tmp_path, monkeypatch):
    settings = {**SHORT, "checkpoint_steps": 1}
    whole = pretrain(TEXTS, BASE, tmp_path / "whole", **settings)

    class Stopped(run.Watcher):
        def on_step_end(self, args, state, control, **kwargs):
            self._caught.requested = state.global_step == 2
            super().on_step_end(args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(run, "Watcher", Stopped)
        with pytest.raises(KeyboardInterrupt):
            pretrain(TEXTS, BASE, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
    assert pretrain(TEXTS, BASE, tmp_path / "out", **settings).losses == whole.losses


def test_texts_are_read_from_files(tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": " ", "id": 3}\n{"text": "two"}\n')
    (tmp_path / "deeper" / "b.txt").write_text("three\nfour")
    (tmp_path / "c.png").write_bytes(b"\x89")
    assert list(read_texts(tmp_path)) == ["one", "two", "three\nfour"]
    assert list(read_texts(["one", ""])) == ["one"]
    for content in ("no JSON", '["text"]', '{"text": 3}', '{"texts": "x"}'):
        (tmp_path / "a.jsonl").write_text('{"text": "one"}\n' + content)
        with pytest.raises(InvalidInputError, match=r"a\.jsonl, line 2"):
            list(read_texts(tmp_path / "a.jsonl"))
    for name, content in (("a.jsonl", b'{"text": "\xff"}'), ("a.jsonl", b""), ("d.txt", b"\xff")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInputError, match=name):
            list(read_texts(tmp_path / name))


def test_what_does_not_fit_is_refused_before_training(tmp_path):
    (tmp_path / "empty").mkdir()
    for argument, texts, settings in [
        ("texts", [" "], {}),
        ("texts", tmp_path / "missing.jsonl", {}),
        ("texts", tmp_path / "empty", {}),
        ("max_length", TEXTS, {"max_length": 513}),
        ("encoder_mask", TEXTS, {"encoder_mask": 1.0}),
        ("batch_size", TEXTS[:1], {}),
    ]:
        with pytest.raises(InvalidInputError) as caught:
            pretrain(texts, BASE, tmp_path / "out", **settings)
        assert caught.value.argument == argument
    with pytest.raises(UnknownArgumentError):
        pretrain(TEXTS, BASE, tmp_path / "out", group_size=2)
    with pytest.raises(NotSupportedError):
        pretrain(TEXTS, ORACLE / "checkpoints" / "bge-multilingual-gemma2", tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["empty"]

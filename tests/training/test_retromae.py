"""RetroMAE's losses, gradients and steps (tests/oracle/training/README.md), its masks, and `pretrain`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from bge_integrations.training.retromae import RetroMAE

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

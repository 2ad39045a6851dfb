"""Losses, gradients and steps of rerankers, as FlagEmbedding computes them (tests/oracle/training/README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bge_integrations.models.interface import TokenSequence
from bge_integrations.models.profile import reranker_profile
from bge_integrations.models.tokenizer import TextTokenizer
from bge_integrations.training.backbone import with_adapter
from bge_integrations.training.padding import padded
from bge_integrations.training.pairs import PairTokenizer
from bge_integrations.training.reranker_losses import reranking_loss
from bge_integrations.training.reranker_models import TrainableReranker, load_trainable
from bge_integrations.training.reranker_settings import RerankerSettings
from bge_integrations.training.rows import TrainingRow

ORACLE = Path(__file__).parents[1] / "oracle"
EXPECTED = json.loads((ORACLE / "training" / "rerankers.json").read_text("utf-8"))
TEACHER = torch.tensor([group["teacher_scores"] for group in EXPECTED["groups"]]).flatten()
SIZES = [4, 4, 4, 4]
LONGEST_LLM_PAIR = 144
FAMILIES = {
    "reranker": "cross_encoder",
    "reranker_bert": "cross_encoder",
    "llm_reranker": "llm_reranker",
    "layerwise": "layerwise_reranker",
}


def load(part: str, lora: bool = False) -> TrainableReranker:
    """Return the oracle's model in training mode, without dropout."""
    folder = ORACLE / "checkpoints" / EXPECTED[part]["checkpoint"]
    reranker = load_trainable(
        folder, FAMILIES[part], TextTokenizer(folder), RerankerSettings(), precision="float32", lora=False
    )
    if lora:
        adapter = ORACLE / "training" / "reranker-lora"
        reranker = reranker._replace(model=with_adapter(reranker.model, adapter, str(folder)))
    reranker.model.train()
    for module in reranker.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return reranker


def tokenized(part: str) -> list[TokenSequence]:
    folder = ORACLE / "checkpoints" / EXPECTED[part]["checkpoint"]
    query_max_length = EXPECTED[part]["query_max_len"]
    pairs = PairTokenizer(
        TextTokenizer(folder),
        reranker_profile(str(folder), folder, FAMILIES[part]),
        query_max_length,
        query_max_length + EXPECTED[part]["passage_max_len"],
    )
    groups = [(TrainingRow(g["query"], (g["positive"],)), (g["positive"], *g["negatives"])) for g in EXPECTED["groups"]]
    return [sequence for row, passages in groups for sequence in pairs.tokenize(row, passages)[0]]


def batch_of(part: str) -> dict[str, torch.Tensor]:
    """Return the oracle's pairs as a batch."""
    sequences, is_encoder = tokenized(part), FAMILIES[part] == "cross_encoder"
    for sequence, ids in zip(sequences, EXPECTED[part]["pairs"], strict=True):
        # the reference counts an LLM reranker's prompt as part of the pair, inference does not
        if is_encoder or len(ids) < LONGEST_LLM_PAIR:
            assert sequence.ids.tolist() == ids
    if is_encoder:
        return padded(sequences, pad_id=1 if part == "reranker" else 0, side="right")
    return padded([TokenSequence(np.array(ids)) for ids in EXPECTED[part]["pairs"]], pad_id=0, side="left")


def loss_of(reranker: TrainableReranker, batch: dict[str, torch.Tensor], case: str) -> torch.Tensor:
    scores = reranker.score(reranker.model, batch)
    if "all_layers" not in case:
        scores = scores[-1:]
    return reranking_loss(scores, SIZES, TEACHER if "teacher" in case else None)


CASES = [(part, case) for part in FAMILIES for case in EXPECTED[part]["cases"] if case != "merged_group"]
STEPS = [(part, case) for part in FAMILIES for case in EXPECTED[part]["steps"]]


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(("part", "case"), CASES)
def test_loss_and_gradients(part, case):
    expected = EXPECTED[part]["cases"][case]
    reranker = load(part, "lora" in case)
    loss = loss_of(reranker, batch_of(part), case)
    assert loss.item() == pytest.approx(expected["loss"], rel=2e-5)
    loss.backward()
    grads = gradients(reranker.model)
    whole = torch.stack([grad.norm() for grad in grads.values()]).norm().item()
    assert whole == pytest.approx(expected["grad_norm"].pop("all", whole), rel=1e-4)
    for name, norm in expected["grad_norm"].items():
        (grad,) = (grad for key, grad in grads.items() if key.endswith(name))
        assert grad.norm().item() == pytest.approx(norm, rel=1e-4), name


@pytest.mark.parametrize(("part", "case"), STEPS)
def test_steps(part, case):
    expected = EXPECTED[part]["steps"][case]
    reranker, batch = load(part, "lora" in case), batch_of(part)
    options = dict(expected["optimizer"])
    learned = [value for value in reranker.model.parameters() if value.requires_grad]
    optimizer = getattr(torch.optim, options.pop("name"))(learned, **options)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = loss_of(reranker, batch, case)
        losses.append(loss.item())
        loss.backward()
        if len(losses) < 4:
            optimizer.step()
    assert losses == pytest.approx(expected["losses"], rel=1e-4)


@pytest.mark.parametrize("part", FAMILIES)
def test_scores(part):
    reranker = load(part)
    scores = reranker.score(reranker.model, batch_of(part)).detach()
    expected = torch.tensor(EXPECTED[part].get("scores_by_layer") or EXPECTED[part]["scores"])
    torch.testing.assert_close(scores, expected.view_as(scores), rtol=1e-4, atol=2e-5)


def test_ragged_groups_are_the_mean_of_their_own_losses():
    scores, teacher = torch.randn(3, 9, generator=torch.Generator().manual_seed(1)), torch.arange(9.0)
    sizes = [4, 1, 3, 1]
    parts = zip(scores.split(sizes, 1), teacher.split(sizes), strict=True)
    alone = [reranking_loss(part, [part.shape[1]], target) for part, target in parts]
    assert reranking_loss(scores, sizes, teacher).item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-6)
    scores.requires_grad_()
    reranking_loss(scores, sizes).backward()
    assert scores.grad.isfinite().all()
    assert scores.grad[:, [4, 8]].abs().max() == 0  # a positive alone teaches nothing

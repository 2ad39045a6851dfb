"""The losses and gradients of embedders are FlagEmbedding's, on its own token ids."""

import math

import pytest
import torch
from conftest import ORACLE, assert_close
from transformers import AutoModel

from bge_integrations.models.tokenizer import TextTokenizer
from bge_integrations.training.backbone import load_backbone, with_adapter
from bge_integrations.training.embedder_losses import contrastive_loss
from bge_integrations.training.embedder_model import EmbedderModel, LossSettings
from bge_integrations.training.embedder_settings import EmbedderSettings
from bge_integrations.training.m3_model import M3Model, load_heads, sparse_scores

ENCODER = "bge-base-en-v1.5"
DECODER = "bge-multilingual-gemma2"


@pytest.fixture
def backbone(without_dropout):
    """Return a function that loads the backbone of a tiny checkpoint."""

    def load(name):
        return load_backbone(AutoModel, without_dropout(name), EmbedderSettings(), lora=False, precision="float32")

    return load


@pytest.fixture
def batch(embedder_runs):
    """Return a function that returns the arguments of a model's forward."""

    def of(part, teacher=False, own_negatives=False):
        arguments = {
            f"{kind}_{name}": torch.tensor(embedder_runs[part][texts][name])
            for kind, texts in (("query", "queries"), ("passage", "passages"))
            for name in ("input_ids", "attention_mask")
        }
        if teacher:
            arguments["teacher_scores"] = torch.tensor([group["teacher_scores"] for group in embedder_runs["groups"]])
        return {**arguments, "own_negatives": own_negatives}

    return of


def check(model, arguments, case):
    """Compare the loss and the norms of the gradients."""
    model.train()
    loss = model(**arguments)["loss"]
    assert_close(loss.item(), case["loss"])
    if "grad_norm" not in case:
        return
    loss.backward()
    gradients = {
        name.removeprefix("backbone.").removeprefix("base_model.model."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    for name, norm in case["grad_norm"].items():
        if name == "all":
            actual = math.sqrt(sum(gradient.double().square().sum() for gradient in gradients.values()))
        else:
            actual = gradients[name.removeprefix("model.")].norm().item()
        assert_close(actual, norm, 1e-4)


def steps(model, arguments, expected):
    """Compare the losses before each of three updates, and after."""
    model.train()
    options = dict(expected["optimizer"])
    optimizer = getattr(torch.optim, options.pop("name"))(
        [parameter for parameter in model.parameters() if parameter.requires_grad], **options
    )
    losses = []
    for _ in expected["losses"]:
        loss = model(**arguments)["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_close(losses[0], expected["losses"][0])
    assert_close(losses, expected["losses"], 1e-4)


ENCODER_CASES = {
    **{f"in_batch_t{t}": ({"temperature": t}, {}) for t in (0.02, 0.05, 1.0)},
    **{f"own_negatives_t{t}": ({"temperature": t}, {"own_negatives": True}) for t in (0.02, 0.05, 1.0)},
    "in_batch_t0.02_sub_batch_2": ({"sub_batch_size": 2}, {}),
    "in_batch_t0.02_kl_div": ({}, {"teacher": True}),
    "own_negatives_t0.02_kl_div": ({}, {"teacher": True, "own_negatives": True}),
    "in_batch_t0.02_m3_kd_loss": ({"distillation": "m3_kd_loss"}, {"teacher": True}),
    "in_batch_t0.02_matryoshka_64_32_8": ({"matryoshka_dims": (64, 32, 8)}, {}),
    "in_batch_t0.02_matryoshka_64_32_8_kl_div": ({"matryoshka_dims": (64, 32, 8)}, {"teacher": True}),
    "own_negatives_t0.02_matryoshka_64_32_8": ({"matryoshka_dims": (64, 32, 8)}, {"own_negatives": True}),
    "in_batch_t0.02_mean": ({"pooling": "mean"}, {}),
    "in_batch_t0.02_last_token": ({"pooling": "last_token"}, {}),
    "in_batch_t20_not_normalized": ({"temperature": 20, "normalize": False}, {}),
}


@pytest.mark.parametrize("name", ENCODER_CASES)
def test_encoder(embedder_runs, backbone, batch, name):
    settings, arguments = ENCODER_CASES[name]
    pooling = settings.get("pooling", "cls")
    loss = LossSettings(**{key: value for key, value in settings.items() if key != "pooling"})
    model = EmbedderModel(backbone(ENCODER), pooling, loss)
    check(model, batch("embedder", **arguments), embedder_runs["embedder"]["cases"][name])


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("teacher", [False, True])
def test_encoder_steps(embedder_runs, backbone, batch, teacher, optimizer):
    model = EmbedderModel(backbone(ENCODER), "cls", LossSettings())
    name = f"in_batch_t0.02{'_kl_div' if teacher else ''}_{optimizer}"
    steps(model, batch("embedder", teacher), embedder_runs["embedder"]["steps"][name])


def test_m3_kd_loss_with_own_negatives_is_that_of_each_group():
    """FlagEmbedding fails on this with more than one query."""
    scores, teacher = torch.randn(3, 4), torch.randn(3, 4).softmax(-1)
    loss = contrastive_loss(scores, torch.zeros(3, dtype=torch.long), teacher, "m3_kd_loss")
    one_by_one = [
        contrastive_loss(scores[i : i + 1], torch.zeros(1, dtype=torch.long), teacher[i : i + 1], "m3_kd_loss")
        for i in range(3)
    ]
    assert_close(loss, torch.stack(one_by_one).mean())


@pytest.fixture
def m3_model(backbone, without_dropout):
    """Return a function that makes the model of bge-m3 or bge-m3-c16."""

    def make(name, self_distillation=False, start=0, **loss):
        folder = without_dropout(name)
        heads = load_heads(folder, 64, None)
        special = TextTokenizer(folder).special_ids.tolist()
        return M3Model(backbone(name), "cls", LossSettings(**loss), *heads, special, self_distillation, start)

    return make


M3_CASES = {
    "unified": ({}, {}),
    "unified_t0.05": ({"temperature": 0.05}, {}),
    "unified_m3_kd_loss": ({"distillation": "m3_kd_loss"}, {"teacher": True}),
    "unified_kl_div": ({}, {"teacher": True}),
    "unified_self_distill": ({"self_distillation": True}, {}),
    "unified_self_distill_m3_kd_loss": ({"self_distillation": True, "distillation": "m3_kd_loss"}, {"teacher": True}),
    "unified_own_negatives_as_meant": ({}, {"own_negatives": True}),
    "unified_self_distill_own_negatives_as_meant": ({"self_distillation": True}, {"own_negatives": True}),
}


@pytest.mark.parametrize("checkpoint", ["bge-m3", "bge-m3-c16"])
@pytest.mark.parametrize("name", M3_CASES)
def test_m3(embedder_runs, m3_model, batch, checkpoint, name):
    settings, arguments = M3_CASES[name]
    case = embedder_runs[checkpoint.removeprefix("bge-").replace("-", "_")]["cases"][name]
    check(m3_model(checkpoint, **settings), batch("m3", **arguments), case)


@pytest.mark.parametrize("name", ["dense_only", "dense_only_m3_kd_loss", "dense_only_sub_batch_2"])
def test_m3_dense_only(embedder_runs, backbone, batch, name):
    settings = {"distillation": "m3_kd_loss"} if "kd" in name else {"sub_batch_size": 2} if "sub" in name else {}
    model = EmbedderModel(backbone("bge-m3"), "cls", LossSettings(**settings))
    check(model, batch("m3", "kd" in name), embedder_runs["m3"]["cases"][name])


def test_m3_in_pieces_has_the_same_loss_and_gradients(embedder_runs, m3_model, batch):
    """FlagEmbedding fails on this."""
    check(m3_model("bge-m3", sub_batch_size=3), batch("m3"), embedder_runs["m3"]["cases"]["unified"])


def test_m3_with_a_fixed_encoder(embedder_runs, m3_model, batch):
    model = m3_model("bge-m3")
    model.backbone.requires_grad_(False)
    check(model, batch("m3"), embedder_runs["m3"]["cases"]["unified_fixed_encoder"])


def test_m3_self_distillation_starts_later(embedder_runs, m3_model, batch):
    """FlagEmbedding's start step 0 means: from the second batch on."""
    model = m3_model("bge-m3", self_distillation=True, start=1)
    losses = [model(**batch("m3"))["loss"].item() for _ in range(3)]
    assert_close(
        losses, embedder_runs["m3"]["cases"]["unified_self_distill_start_0"]["losses_of_calls_0_1_2_without_update"]
    )


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_m3_steps(embedder_runs, m3_model, batch, optimizer):
    name = f"unified_self_distill_{optimizer}"
    steps(m3_model("bge-m3", self_distillation=True), batch("m3"), embedder_runs["m3"]["steps"][name])


@pytest.fixture
def adapted(backbone, without_dropout):
    """The tiny decoder with the reference's adapter."""
    model = with_adapter(backbone(DECODER), ORACLE / "training" / "embedder-lora", str(without_dropout(DECODER)))
    return lambda **loss: EmbedderModel(model, "last_token", LossSettings(**loss))


def test_decoder(embedder_runs, backbone, batch):
    model = EmbedderModel(backbone(DECODER), "last_token", LossSettings())
    check(model, batch("decoder"), embedder_runs["decoder"]["cases"]["full_in_batch"])


@pytest.mark.parametrize("distillation", [None, "kl_div", "m3_kd_loss"])
def test_lora(embedder_runs, adapted, batch, distillation):
    name = f"lora_in_batch_{distillation}" if distillation else "lora_in_batch"
    model = adapted(distillation=distillation or "kl_div")
    check(model, batch("decoder", distillation is not None), embedder_runs["decoder"]["cases"][name])


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_lora_steps(embedder_runs, adapted, batch, optimizer):
    steps(adapted(), batch("decoder"), embedder_runs["decoder"]["steps"][f"lora_in_batch_{optimizer}"])


def test_merged_adapter(embedder_runs, adapted, batch):
    model = adapted()
    model.backbone = model.backbone.merge_and_unload()
    check(model, batch("decoder"), embedder_runs["decoder"]["cases"]["merged_in_batch"])


def kept_bytes(model, arguments):
    """Return the bytes that a forward pass keeps for the backward pass."""
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(**arguments)["loss"]
    return kept


def test_pieces_keep_no_activations(backbone, batch):
    whole, pieces = (
        kept_bytes(EmbedderModel(backbone(ENCODER), "cls", LossSettings(sub_batch_size=size)), batch("embedder"))
        for size in (None, 2)
    )
    assert pieces < whole / 20


def test_sparse_scores_need_no_memory_for_the_vocabulary():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, (6, 9), generator=generator) * 10**12  # a row of the vocabulary would take terabytes
    weights = torch.rand(6, 9, generator=generator)
    texts = (torch.empty(0), ids, weights)
    words = [{} for _ in range(6)]
    for row in range(6):
        for token, weight in zip(ids[row].tolist(), weights[row].tolist(), strict=True):
            words[row][token] = max(words[row].get(token, 0), weight)
    expected = [[sum(w * b.get(token, 0) for token, w in a.items()) for b in words[2:]] for a in words[:2]]
    queries, passages = (tuple(part[rows] if len(part) else part for part in texts) for rows in (slice(2), slice(2, 6)))
    assert_close(sparse_scores(queries, passages), expected)

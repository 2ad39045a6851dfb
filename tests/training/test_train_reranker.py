"""`train_reranker`: short runs on the tiny checkpoints, and what they leave behind."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bge_integrations import load_reranker
from bge_integrations.errors import InvalidInputError, NotSupportedError, TruncationWarning, UnknownArgumentError
from bge_integrations.training import Trained, TrainingRow, train_reranker

ORACLE = Path(__file__).parents[1] / "oracle"
CHECKPOINTS = ORACLE / "checkpoints"
EXPECTED = json.loads((ORACLE / "training" / "rerankers.json").read_text("utf-8"))
ROWS = [
    TrainingRow(
        query=group["query"],
        pos=(group["positive"],),
        neg=tuple(group["negatives"]),
        pos_scores=tuple(group["teacher_scores"][:1]),
        neg_scores=tuple(group["teacher_scores"][1:]),
    )
    for group in EXPECTED["groups"]
]
RAGGED = [TrainingRow(row.query, row.pos, row.neg[: 1 + i % 3]) for i, row in enumerate(ROWS)]
PAIRS = [(row.query, passage) for row in ROWS[:3] for passage in (*row.pos, *row.neg)]
CROSS_ENCODER, GEMMA, LAYERWISE = "bge-reranker-v2-m3", "bge-reranker-v2-gemma", "bge-reranker-v2-minicpm-layerwise"
BASIC = {"batch_size": 4, "epochs": 3, "learning_rate": 1e-3, "warmup": 0.0, "query_max_length": 16}
CROSS = {**BASIC, "passage_max_length": 32}
LLM = {**BASIC, "query_max_length": 48, "passage_max_length": 96}
pytestmark = pytest.mark.filterwarnings("ignore::bge_integrations.errors.TruncationWarning")


def scores_of(folder: Path, **options) -> np.ndarray:
    with load_reranker(str(folder), device="cpu", **options) as reranker:
        return reranker.score(PAIRS)


def test_a_whole_run_is_the_references(without_dropout, tmp_path):
    expected = EXPECTED["whole_run"]
    trained = train_reranker(
        ROWS,
        without_dropout(CROSS_ENCODER),
        tmp_path / "out",
        **CROSS,
        distillation="kl_div",
        weight_decay=0.01,
        group_size=4,
    )
    assert isinstance(trained, Trained)
    assert list(trained.losses) == pytest.approx(expected["logged_loss"], rel=1e-4)


def test_a_trained_cross_encoder_loads_everywhere(tmp_path):
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = train_reranker(ROWS, CHECKPOINTS / CROSS_ENCODER, tmp_path / "out", **CROSS).folder
    ours = scores_of(folder)
    assert np.abs(ours - scores_of(CHECKPOINTS / CROSS_ENCODER)).max() > 1e-2  # it has learned something
    encoder = CrossEncoder(str(folder), device="cpu", activation_fn=torch.nn.Identity())
    assert encoder.predict(PAIRS) == pytest.approx(ours, abs=1e-4)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")
    assert model(**inputs).logits.detach().numpy().ravel() == pytest.approx(ours, abs=1e-4)


def test_flag_embedding_loads_trained_rerankers(tmp_path):
    from FlagEmbedding import FlagLLMReranker, FlagReranker

    encoder = train_reranker(ROWS, CHECKPOINTS / CROSS_ENCODER, tmp_path / "encoder", **CROSS).folder
    llm = train_reranker(ROWS, CHECKPOINTS / GEMMA, tmp_path / "llm", **LLM, merge_lora=True).folder
    for kind, folder in ((FlagReranker, encoder), (FlagLLMReranker, llm)):
        theirs = kind(str(folder), devices="cpu", use_fp16=False).compute_score(PAIRS)
        assert theirs == pytest.approx(scores_of(folder), abs=1e-4)


def test_ragged_groups_and_a_last_batch_that_is_not_full(tmp_path):
    trained = train_reranker(
        RAGGED, CHECKPOINTS / CROSS_ENCODER, tmp_path / "out", **{**CROSS, "batch_size": 3}, drop_last=False
    )
    assert len(trained.losses) == 6  # two batches an epoch
    assert np.isfinite(trained.losses).all()


@pytest.mark.parametrize(
    ("checkpoint", "family"), [(GEMMA, "llm_reranker"), (LAYERWISE, "layerwise_reranker")], ids=["gemma", "layerwise"]
)
@pytest.mark.parametrize("kind", ["whole", "adapter", "merged"])
def test_llm_rerankers(checkpoint, family, kind, tmp_path):
    settings = {"lora": kind != "whole", "merge_lora": kind == "merged"}
    folder = train_reranker(RAGGED, CHECKPOINTS / checkpoint, tmp_path / "out", **LLM, **settings).folder
    after = scores_of(folder)
    assert np.abs(after - scores_of(CHECKPOINTS / checkpoint, family=family)).max() > 1e-2
    assert (folder / "adapter_config.json").exists() == (kind == "adapter")
    if kind == "adapter":
        further = train_reranker(RAGGED, folder, tmp_path / "further", **LLM, merge_lora=True)
        assert np.abs(after - scores_of(further.folder)).max() > 1e-3


def test_layerwise_training_teaches_all_layers(tmp_path):
    folder = train_reranker(ROWS, CHECKPOINTS / LAYERWISE, tmp_path / "out", **LLM, lora=False).folder
    cutoffs = [2, 3, 4, 5, 6]
    before, after = (scores_of(path, cutoff_layers=cutoffs) for path in (CHECKPOINTS / LAYERWISE, folder))
    assert (np.abs(after - before).max(axis=1) > 1e-2).all()
    assert json.loads((folder / "config.json").read_text("utf-8"))["model_type"] == "minicpm"


def test_a_rows_own_prompt_is_asked(tmp_path):
    rows = [TrainingRow(row.query, row.pos, row.neg, prompt="Is B an answer to A? Yes or No") for row in ROWS]
    settings = {**LLM, "epochs": 1}
    plain = train_reranker(ROWS, CHECKPOINTS / GEMMA, tmp_path / "plain", **settings)
    own = train_reranker(rows, CHECKPOINTS / GEMMA, tmp_path / "own", **settings)
    given = train_reranker(ROWS, CHECKPOINTS / GEMMA, tmp_path / "given", **settings, prompt=rows[0].prompt)
    assert own.losses == given.losses != plain.losses
    with load_reranker(str(given.folder), device="cpu") as reranker:
        assert reranker.prompt == rows[0].prompt


@pytest.mark.parametrize("merge_lora", [False, True])
def test_a_trained_llm_reranker_is_a_cross_encoder(merge_lora, tmp_path):
    from sentence_transformers import CrossEncoder

    prompt = 'Is B an "answer" to A? {{ 答案 }}\n'
    folder = train_reranker(
        ROWS, CHECKPOINTS / GEMMA, tmp_path / "out", **LLM, merge_lora=merge_lora, prompt=prompt
    ).folder
    assert CrossEncoder(str(folder), device="cpu").predict(PAIRS) == pytest.approx(scores_of(folder), abs=1e-4)


@pytest.mark.parametrize("merge_lora", [False, True])
def test_a_cross_encoder_with_lora(merge_lora, tmp_path):
    folder = train_reranker(
        ROWS, CHECKPOINTS / CROSS_ENCODER, tmp_path / "out", **CROSS, lora=True, merge_lora=merge_lora
    ).folder
    assert np.abs(scores_of(folder) - scores_of(CHECKPOINTS / CROSS_ENCODER)).max() > 1e-2


@pytest.mark.parametrize("checkpoint", [CROSS_ENCODER, GEMMA, LAYERWISE])
def test_gradient_checkpointing_changes_nothing(checkpoint, tmp_path):
    settings = {**LLM, "epochs": 2}
    runs = [
        train_reranker(ROWS, CHECKPOINTS / checkpoint, tmp_path / str(on), **settings, gradient_checkpointing=on)
        for on in (False, True)
    ]
    assert runs[1].losses == pytest.approx(runs[0].losses, rel=1e-5)


def test_bfloat16(tmp_path):
    plain, half = (
        train_reranker(ROWS, CHECKPOINTS / LAYERWISE, tmp_path / precision, **LLM, precision=precision)
        for precision in ("float32", "bfloat16")
    )
    assert half.losses == pytest.approx(plain.losses, rel=0.05)


def test_an_interrupted_run_continues_to_the_same_losses(tmp_path, monkeypatch):
    from bge_integrations.training import run

    settings = {**CROSS, "checkpoint_steps": 1, "batch_size": 2}
    whole = train_reranker(RAGGED, CHECKPOINTS / CROSS_ENCODER, tmp_path / "whole", **settings)

    class Stopped(run.Watcher):
        def on_step_end(self, args, state, control, **kwargs):
            self._caught.requested = state.global_step == 3
            super().on_step_end(args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(run, "Watcher", Stopped)
        with pytest.raises(KeyboardInterrupt):
            train_reranker(RAGGED, CHECKPOINTS / CROSS_ENCODER, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
    resumed = train_reranker(RAGGED, CHECKPOINTS / CROSS_ENCODER, tmp_path / "out", **settings)
    assert resumed.losses == whole.losses
    assert scores_of(resumed.folder) == pytest.approx(scores_of(whole.folder), abs=1e-6)


def test_what_does_not_fit_is_refused_before_training(tmp_path):
    def train(rows=ROWS, model=CHECKPOINTS / CROSS_ENCODER, **settings):
        train_reranker(rows, model, tmp_path / "out", **settings)

    no_negatives, no_scores = [TrainingRow("q", ("p",))], [TrainingRow("q", ("p",), ("n",))]
    for argument, attempt in [
        ("data", lambda: train([*ROWS, *no_negatives])),
        ("distillation", lambda: train([*ROWS, *no_scores], distillation="kl_div")),
        ("group_size", lambda: train(group_size=1)),
        ("prompt", lambda: train(prompt="Is it?")),
        ("passage_max_length", lambda: train(passage_max_length=10**6)),
        ("merge_lora", lambda: train(merge_lora=True)),
    ]:
        with pytest.raises(InvalidInputError) as caught:
            attempt()
        assert caught.value.argument == argument
    with pytest.raises(InvalidInputError):
        train([TrainingRow("q", ("p",), ("n",), query_prompt="C: ")], CHECKPOINTS / GEMMA)
    with pytest.raises(UnknownArgumentError):
        train(temperature=0.1)
    with pytest.raises(NotSupportedError):
        train(model=CHECKPOINTS / "bge-reranker-v2.5-gemma2-lightweight")
    assert list(tmp_path.iterdir()) == []


def test_prompts_of_a_cross_encoders_rows(tmp_path):
    rows = [replace(row, prompt="Is it?") for row in ROWS]
    settings = {**CROSS, "epochs": 1}
    plain = train_reranker(ROWS, CHECKPOINTS / CROSS_ENCODER, tmp_path / "plain", **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ignored = train_reranker(rows, CHECKPOINTS / CROSS_ENCODER, tmp_path / "ignored", **settings)
    assert any(each.category is UserWarning for each in caught)
    assert ignored.losses == plain.losses
    begun = [replace(row, query_prompt="Q: ", passage_prompt="P: ") for row in ROWS]
    same = [
        TrainingRow(f"Q: {row.query}", *(tuple(f"P: {text}" for text in texts) for texts in (row.pos, row.neg)))
        for row in ROWS
    ]
    runs = [
        train_reranker(given, CHECKPOINTS / CROSS_ENCODER, tmp_path / name, **settings).losses
        for given, name in ((begun, "begun"), (same, "same"))
    ]
    assert runs[0] == runs[1] != plain.losses


@pytest.mark.filterwarnings("default::bge_integrations.errors.TruncationWarning")
def test_truncated_rows_are_reported(tmp_path):
    with pytest.warns(TruncationWarning) as caught:
        train_reranker(ROWS, CHECKPOINTS / CROSS_ENCODER, tmp_path / "out", **{**CROSS, "epochs": 1})
    (warning,) = (each.message for each in caught if isinstance(each.message, TruncationWarning))
    assert (warning.count, warning.total, warning.limit) == (3, 4, 48)

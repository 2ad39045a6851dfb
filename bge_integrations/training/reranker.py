"""Train a reranker: `train_reranker`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bge_integrations.errors import InvalidInputError
from bge_integrations.models.decoder_heads import first_token
from bge_integrations.optional import needed_by
from bge_integrations.reporting import report_truncation
from bge_integrations.spelling import spelled
from bge_integrations.training.checkpoint_files import copy_small_files
from bge_integrations.training.groups import Group, Groups, RowSet, Visit, check_negatives, check_teacher_scores
from bge_integrations.training.llm_reranker_files import write_cross_encoder_files
from bge_integrations.training.outputs import check_new_folder
from bge_integrations.training.reranker_settings import RerankerSettings
from bge_integrations.training.reranker_source import RerankerSource, locate_source
from bge_integrations.training.row_files import read_rows
from bge_integrations.training.rows import TrainingData, TrainingRow, TrainingRows, rows_digest
from bge_integrations.training.settings import settings_of

with needed_by(__name__, "bge-integrations[train]"):
    from bge_integrations.training.backbone import save_backbone, with_adapter, with_lora
    from bge_integrations.training.pairs import PairTokenizer, collate
    from bge_integrations.training.reranker_models import RerankerModule, load_trainable
    from bge_integrations.training.run import Trained, TrainingRun

#: The highest learning rate of cross-encoders, of whole language models, and of LoRA adapters.
_LEARNING_RATE, _LLM_LEARNING_RATE, _LORA_LEARNING_RATE = 6e-5, 1e-5, 2e-4


def train_reranker(
    data: TrainingData, model: str | os.PathLike[str], output: str | os.PathLike[str], **settings: object
) -> Trained:
    """Fine-tune a reranker, and write the trained model to a folder.

    Cross-encoders, LLM rerankers and layerwise rerankers learn to score a query's positive above its negatives. A pair
    is built exactly as `Reranker.score` builds it. The folder loads in `load_reranker` and, unless it is layerwise, in
    FlagEmbedding and sentence-transformers' CrossEncoder. It appears when the training is complete; until then,
    checkpoints are in `.NAME.training` beside it, and the same call continues an interrupted training to the same
    result.

    Under torchrun or `accelerate launch`, all processes train together.

    Args:
        data: A JSONL file, several files or folders, or rows; see `read_rows`. Each row needs a negative.
        model: The model to start from: a hub id, a folder, or a LoRA adapter, which is then trained further.
        output: The folder to write.
        settings: See `RerankerSettings`.

    Raises:
        TrainingDataError: Rows can't be used; the message names file and line.
        InvalidInputError: An argument is invalid, or does not fit the model or the data. Nothing was computed.
        NotSupportedError: Models of this family can't be trained.
        CheckpointError: A file of the model is missing or damaged.
        NonFiniteError: The loss became NaN or infinite.
        OutOfMemoryError: A batch does not fit into memory.
        KeyboardInterrupt: The training was stopped; a checkpoint was saved.
    """
    chosen = settings_of(RerankerSettings, settings, "train_reranker")
    check_new_folder(output)
    rows = read_rows(data)
    source = locate_source(model, chosen)
    pairs = _pair_tokenizer(source, chosen)
    _check_rows(rows, chosen, pairs)
    lora = source.uses_lora(chosen, by_default=source.is_llm)
    rate = chosen.learning_rate or (
        _LORA_LEARNING_RATE if lora else _LLM_LEARNING_RATE if source.is_llm else _LEARNING_RATE
    )
    run = TrainingRun(output, chosen, rate, {"data": rows_digest(rows), "model": source.digest})
    plan = run.plan([RowSet(range(len(rows)), chosen.batch_size, chosen.group_size)], _pair_lengths(rows, pairs))
    loaded = load_trainable(source.weights, source.profile.family, source.tokenizer, chosen, run.precision, lora)
    backbone = loaded.model
    if source.base is not None:
        backbone = with_adapter(backbone, source.folder, source.base_reference)
    elif lora:
        backbone = with_lora(backbone, source.base_reference, loaded.task, chosen)
    module = RerankerModule(backbone, loaded.score)

    def save(folder: Path) -> None:
        save_backbone(backbone, folder, chosen.merge_lora)
        is_layerwise = source.profile.family == "layerwise_reranker" and (chosen.merge_lora or not lora)
        # transformers describes it as the Granite model that it was trained as
        copy_small_files(source.weights, folder, also=["config.json"] if is_layerwise else ())
        if source.profile.family == "llm_reranker":
            write_cross_encoder_files(folder, source.profile.prompt, first_token(source.tokenizer, "Yes"))

    with_teacher = chosen.distillation is not None
    return run.train(module, RerankerGroups(rows, chosen.seed), plan, partial(collate, pairs, with_teacher), save)


class RerankerGroups(Groups):
    """The groups of the rows; a row with too few negatives makes a smaller group instead of repeating them."""

    def __getitem__(self, visit: Visit) -> Group:
        size = min(visit.row_set.group_size, 1 + len(self._rows[visit.row].neg))
        return super().__getitem__(visit._replace(row_set=replace(visit.row_set, group_size=size)))


def _pair_tokenizer(source: RerankerSource, settings: RerankerSettings) -> PairTokenizer:
    longest = settings.query_max_length + settings.passage_max_length
    if longest > source.longest:
        raise InvalidInputError(
            f"{spelled('query_max_length')} and {spelled('passage_max_length')} add up to {longest}, and {source.name} "
            f"takes {source.longest} tokens",
            argument="passage_max_length",
            advice="shorten one of them",
        )
    return PairTokenizer(source.tokenizer, source.profile, settings.query_max_length, longest)


def _check_rows(rows: TrainingRows, settings: RerankerSettings, pairs: PairTokenizer) -> None:
    """Raise InvalidInputError if a row lacks what the training needs, or has prompts that the model does not take."""
    check_negatives(rows)
    if settings.distillation is not None:
        check_teacher_scores(rows)
    pairs.check(rows)


def _pair_lengths(rows: Sequence[TrainingRow], pairs: PairTokenizer) -> list[int]:
    """Return the number of tokens of each row's longest pair; warn if pairs are truncated."""
    lengths, truncated = [], {}
    for i, row in enumerate(rows):
        sequences, too_long = pairs.tokenize(row, row.pos + row.neg)
        lengths.append(max(map(len, sequences)))
        if too_long:
            truncated[i] = max(too_long.values())
    report_truncation(truncated, len(rows), pairs.max_length)
    return lengths

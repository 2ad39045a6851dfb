"""Train an embedder: `train_embedder`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from bge_integrations import catalog
from bge_integrations.errors import InvalidInputError
from bge_integrations.models.checkpoint import M3_HEADS
from bge_integrations.models.locating import published
from bge_integrations.optional import needed_by
from bge_integrations.reporting import warn_caller
from bge_integrations.spelling import spelled
from bge_integrations.training.checkpoint_files import copy_tokenizer
from bge_integrations.training.embedder_files import write_sentence_transformers_files
from bge_integrations.training.embedder_settings import EmbedderSettings
from bge_integrations.training.embedder_source import EmbedderSource, locate_source
from bge_integrations.training.outputs import check_new_folder
from bge_integrations.training.row_files import read_rows
from bge_integrations.training.rows import TrainingData, TrainingRows, rows_digest
from bge_integrations.training.settings import settings_of

with needed_by(__name__, "bge-integrations[train]"):
    from transformers import AutoModel

    from bge_integrations.training.backbone import load_backbone, save_backbone, with_adapter, with_lora
    from bge_integrations.training.embedder_data import EmbedderCollator, TextFormat, row_sets, text_lengths
    from bge_integrations.training.embedder_model import EmbedderModel, LossSettings
    from bge_integrations.training.groups import Groups, RowSet, check_group_size, check_teacher_scores
    from bge_integrations.training.icl_examples import ExampleWriter, room_for_examples
    from bge_integrations.training.m3_model import M3Model, load_heads
    from bge_integrations.training.run import Trained, TrainingRun

#: The highest learning rate of encoders, and of LoRA adapters.
_LEARNING_RATE, _LORA_LEARNING_RATE = 1e-5, 1e-4


def train_embedder(
    data: TrainingData, model: str | os.PathLike[str], output: str | os.PathLike[str], **settings: Any
) -> Trained:
    """Fine-tune an embedder, and write the trained model to a folder.

    The folder loads in `load_embedder`, sentence-transformers, transformers and FlagEmbedding. It appears when the
    training is complete; until then, checkpoints are in `.NAME.training` beside it, and the same call continues an
    interrupted training to the same result.

    Under torchrun or `accelerate launch`, all processes train together.

    Args:
        data: A JSONL file, several files or folders, or rows; see `read_rows`.
        model: The model to start from: a hub id, a folder, or a LoRA adapter, which is then trained further.
        output: The folder to write.
        settings: See `EmbedderSettings`.

    Raises:
        TrainingDataError: Rows can't be used; the message names file and line.
        InvalidInputError: An argument is invalid, or does not fit the model or the data. Nothing was computed.
        NotSupportedError: Models of this family can't be trained.
        CheckpointError: A file of the model is missing or damaged.
        NonFiniteError: The loss became NaN or infinite.
        OutOfMemoryError: A batch does not fit into memory.
        KeyboardInterrupt: The training was stopped; a checkpoint was saved.
    """
    chosen = settings_of(EmbedderSettings, settings, "train_embedder")
    check_new_folder(output)
    rows = read_rows(data)
    source = locate_source(model, chosen)
    unified, lora = _is_unified(source, chosen), source.uses_lora(chosen, by_default=source.is_decoder)
    sets = _row_sets(rows, chosen)
    rate = chosen.learning_rate or (_LORA_LEARNING_RATE if lora else _LEARNING_RATE)
    run = TrainingRun(output, chosen, rate, {"data": rows_digest(rows), "model": source.digest})
    plan = run.plan(sets, text_lengths(rows))
    collator = EmbedderCollator(
        source.tokenizer,
        _text_format(source, chosen),
        pads_left=source.is_decoder,
        with_teacher=chosen.distillation is not None,
        writer=_example_writer(source, chosen),
    )
    module = _module(source, chosen, run.precision, unified=unified, lora=lora)

    def save(folder: Path) -> None:
        save_backbone(module.backbone, folder, chosen.merge_lora)
        copy_tokenizer(source.weights, folder)
        if isinstance(module, M3Model):
            module.save_heads(folder)
        elif source.profile.family == "m3":
            _copy_heads(source.heads, folder)
        write_sentence_transformers_files(
            folder, source.profile, int(source.config["hidden_size"]), chosen.normalize, source.longest
        )

    return run.train(
        module, Groups(rows, chosen.seed, chosen.shuffle_ratio), plan, collator, save, chosen.sub_batch_size
    )


def _is_unified(source: EmbedderSource, settings: EmbedderSettings) -> bool:
    """Return whether bge-m3's heads are trained."""
    is_m3 = source.profile.family == "m3"
    unified = is_m3 if settings.unified is None else settings.unified
    if unified and not is_m3:
        raise InvalidInputError(
            f"{source.name} has no sparse and multi-vector heads",
            argument="unified",
            advice=f"leave {spelled('unified')} out, or pass {spelled('family', 'm3')} to train new heads on an XLM-R "
            "encoder",
        )
    if unified and settings.matryoshka_dims:
        raise InvalidInputError(
            f"{spelled('matryoshka_dims')} is for dense vectors alone",
            argument="matryoshka_dims",
            advice=f"pass {spelled('unified', False)}, or leave it out",
        )
    if settings.fix_encoder and not unified:
        raise InvalidInputError(
            f"{spelled('fix_encoder', True)} trains only bge-m3's heads, and they are not trained here",
            argument="fix_encoder",
            advice="leave it out",
        )
    has_heads = any((source.heads / name).is_file() for name in M3_HEADS)
    if settings.multi_vector_dim is not None and (has_heads or not unified):
        raise InvalidInputError(
            f"{spelled('multi_vector_dim')} is for new heads, and {source.name} gets none",
            argument="multi_vector_dim",
            advice="leave it out",
        )
    if any(dim > source.config["hidden_size"] for dim in settings.matryoshka_dims):
        raise InvalidInputError(
            f"{source.name} has vectors of {source.config['hidden_size']} dimensions", argument="matryoshka_dims"
        )
    return unified


def _row_sets(rows: TrainingRows, settings: EmbedderSettings) -> list[RowSet]:
    """Check that the rows have what the settings need, and return those that may share a batch."""
    group_size = check_group_size(rows, settings.group_size, own_negatives=not settings.in_batch_negatives)
    if settings.distillation is not None:
        check_teacher_scores(rows)
    for field in () if settings.same_dataset else ("type", "batch_size", "train_group_size"):
        having = next((i for i, row in enumerate(rows) if getattr(row, field) not in (None, "normal")), None)
        if having is not None:
            warn_caller(
                f"rows have a {field}, which counts only with {spelled('same_dataset', True)} (first in "
                f"{rows.locations[having]})",
                UserWarning,
            )
    return row_sets(
        rows,
        settings.batch_size,
        group_size,
        own_negatives=not settings.in_batch_negatives,
        same_dataset=settings.same_dataset,
        small_threshold=settings.small_threshold,
        drop_threshold=settings.drop_threshold,
    )


def _text_format(source: EmbedderSource, settings: EmbedderSettings) -> TextFormat:
    row = published(source.name, source.weights)
    family = catalog.FAMILIES[source.profile.family]
    return TextFormat(
        source.profile.instructions.query,
        source.profile.instructions.passage,
        row.instruction_format if row is not None else family.instruction_format,
        source.profile.query_suffix,
        min(settings.query_max_length, source.longest),
        min(settings.passage_max_length, source.longest),
    )


def _example_writer(source: EmbedderSource, settings: EmbedderSettings) -> ExampleWriter | None:
    """Return what writes in-context examples; None if the model takes none."""
    if not catalog.FAMILIES[source.profile.family].takes_examples or not settings.max_examples:
        return None
    room = room_for_examples(min(settings.query_max_length, source.longest))
    return ExampleWriter(source.tokenizer, source.profile.query_suffix, room, settings.max_examples, settings.seed)


def _module(
    source: EmbedderSource, settings: EmbedderSettings, precision: str, *, unified: bool, lora: bool
) -> EmbedderModel:
    """Load the model that is trained."""
    backbone = load_backbone(AutoModel, source.weights, settings, lora=lora, precision=precision)
    if source.base is not None:
        backbone = with_adapter(backbone, source.folder, source.base_reference)
    elif lora:
        backbone = with_lora(backbone, source.base_reference, "FEATURE_EXTRACTION", settings)
    loss = LossSettings(
        temperature=settings.temperature,
        normalize=settings.normalize,
        distillation=settings.distillation or "kl_div",
        cross_device=settings.cross_device,
        matryoshka_dims=settings.matryoshka_dims,
        sub_batch_size=settings.sub_batch_size,
    )
    if not unified:
        return EmbedderModel(backbone, source.profile.pooling, loss)
    if settings.fix_encoder:
        backbone.requires_grad_(False)
    sparse, multi_vector = load_heads(source.heads, int(source.config["hidden_size"]), settings.multi_vector_dim)
    return M3Model(
        backbone,
        source.profile.pooling,
        loss,
        sparse,
        multi_vector,
        source.tokenizer.special_ids.tolist(),
        settings.self_distillation,
        settings.self_distillation_start,
    )


def _copy_heads(source: Path, folder: Path) -> None:
    """Copy bge-m3's heads, which were not trained."""
    for name in M3_HEADS:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)

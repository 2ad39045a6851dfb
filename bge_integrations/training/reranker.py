"""Train a reranker: `train_reranker`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from bge_integrations.errors import InvalidInputError, NotSupportedError
from bge_integrations.models.adapter import adapted_digest, locate_base
from bge_integrations.models.checkpoint import read_config, weights_digest
from bge_integrations.models.decoder_heads import yes_token
from bge_integrations.models.encoder_config import ENCODER_TYPES, EncoderConfig
from bge_integrations.models.locating import locate, published
from bge_integrations.models.profile import RerankerProfile, check_request, reranker_profile
from bge_integrations.models.tokenizer import TextTokenizer
from bge_integrations.optional import needed_by
from bge_integrations.reporting import report_truncation
from bge_integrations.training.checkpoint_files import copy_small_files
from bge_integrations.training.groups import Group, Groups, RowSet, Visit
from bge_integrations.training.llm_reranker_files import write_cross_encoder_files
from bge_integrations.training.reranker_settings import RerankerSettings
from bge_integrations.training.rows import TrainingData, TrainingRow, TrainingRows, read_rows
from bge_integrations.training.settings import settings_of

with needed_by(__name__, "bge-integrations[train]"):
    from bge_integrations.training.backbone import save_backbone, with_adapter, with_lora
    from bge_integrations.training.pairs import PairTokenizer, collate
    from bge_integrations.training.reranker_models import TRAINED_FAMILIES, RerankerModule, load_trainable
    from bge_integrations.training.run import Trained, TrainingRun

#: The highest learning rate of cross-encoders, of whole language models, and of LoRA adapters.
_LEARNING_RATE, _LLM_LEARNING_RATE, _LORA_LEARNING_RATE = 6e-5, 1e-5, 2e-4


@dataclass(frozen=True)
class _Source:
    """The model to train.

    Attributes:
        name: The hub id, or the folder as given.
        folder: Its folder.
        base: The folder of its base if it is an adapter, else None.
        profile: How it is run.
        tokenizer: Its tokenizer.
    """

    name: str
    folder: Path
    base: Path | None
    profile: RerankerProfile
    tokenizer: TextTokenizer

    @property
    def weights(self) -> Path:
        """The folder of the whole weights and the tokenizer."""
        return self.base or self.folder

    @property
    def is_llm(self) -> bool:
        return bool(self.profile.prompt)

    @property
    def digest(self) -> str:
        """A digest of its weights."""
        return weights_digest(self.folder) if self.base is None else adapted_digest(self.folder, self.base)

    @property
    def longest(self) -> int:
        """Maximum number of tokens that the model takes."""
        config = read_config(self.weights)
        if config.get("model_type") in ENCODER_TYPES:
            return EncoderConfig.read(config).max_length
        return int(config["max_position_embeddings"])

    @property
    def base_reference(self) -> str:
        """What an adapter of this model names as its base: the hub id, or the folder."""
        row = published(self.name, self.folder)
        is_hub_id = self.base is None and row is not None and row.name == self.name
        return self.name if is_hub_id else str(self.weights.resolve())


def train_reranker(
    data: TrainingData, model: str | os.PathLike[str], output: str | os.PathLike[str], **settings: object
) -> Trained:
    """Fine-tune a reranker, and write the trained model to a folder.

    Cross-encoders, LLM rerankers and layerwise rerankers learn to score a query's positive above its negatives. A pair
    is built exactly as `Reranker.score` builds it. The folder loads in `load_reranker`, transformers and FlagEmbedding,
    and in sentence-transformers' CrossEncoder unless it is layerwise. It appears when the training is complete; until
    then, checkpoints are in `.NAME.training` beside it, and the same call continues an interrupted training to the same
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
    rows = read_rows(data)
    source = _locate(model, chosen)
    pairs = _pair_tokenizer(source, chosen)
    _check_rows(rows, chosen, pairs)
    lora = _uses_lora(source, chosen)
    rate = chosen.learning_rate or (
        _LORA_LEARNING_RATE if lora else _LLM_LEARNING_RATE if source.is_llm else _LEARNING_RATE
    )
    run = TrainingRun(output, chosen, rate, {"data": _digest(rows), "model": source.digest})
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
            write_cross_encoder_files(folder, source.profile.prompt, yes_token(source.tokenizer))

    with_teacher = chosen.distillation is not None
    return run.train(module, RerankerGroups(rows, chosen.seed), plan, partial(collate, pairs, with_teacher), save)


class RerankerGroups(Groups):
    """The groups of the rows; a row with too few negatives makes a smaller group instead of repeating them."""

    def __getitem__(self, visit: Visit) -> Group:
        size = min(visit.row_set.group_size, 1 + len(self._rows[visit.row].neg))
        return super().__getitem__(visit._replace(row_set=replace(visit.row_set, group_size=size)))


def _locate(model: str | os.PathLike[str], settings: RerankerSettings) -> _Source:
    """Find the model and how it is run."""
    check_request(model, "reranker", settings.family)
    cache_folder, local_files_only = settings.cache_folder, settings.local_files_only
    name, folder = locate(
        model,
        "reranker",
        revision=settings.revision,
        cache_folder=cache_folder,
        local_files_only=local_files_only,
    )
    base = locate_base(folder, "reranker", cache_folder=cache_folder, local_files_only=local_files_only)
    profile = reranker_profile(name, folder, settings.family, base=base)
    if profile.family not in TRAINED_FAMILIES:
        raise NotSupportedError(
            f"{name} is a {profile.family.replace('_', ' ')}, which can't be trained",
            argument="model",
            advice="train a cross-encoder, bge-reranker-v2-gemma or bge-reranker-v2-minicpm-layerwise",
        )
    if settings.prompt is not None:
        if not profile.prompt:
            raise InvalidInputError(f"{name} takes no prompt", argument="prompt", advice="leave it out")
        profile = replace(profile, prompt=settings.prompt)
    weights = base or folder
    return _Source(name, folder, base, profile, TextTokenizer(weights, int(read_config(weights)["vocab_size"])))


def _pair_tokenizer(source: _Source, settings: RerankerSettings) -> PairTokenizer:
    longest = settings.query_max_length + settings.passage_max_length
    if longest > source.longest:
        raise InvalidInputError(
            f"query_max_length + passage_max_length is {longest}, and {source.name} takes {source.longest} tokens",
            argument="passage_max_length",
            advice="shorten one of them",
        )
    return PairTokenizer(source.tokenizer, source.profile, settings.query_max_length, longest)


def _check_rows(rows: TrainingRows, settings: RerankerSettings, pairs: PairTokenizer) -> None:
    """Refuse rows that lack what the training needs, and warn about those that are truncated."""
    without = [i for i, row in enumerate(rows) if not row.neg]
    if without:
        raise InvalidInputError(
            f"{len(without)} of {len(rows)} rows have no negatives, the first is {rows.locations[without[0]]}",
            argument="data",
            advice="mine negatives with `bge mine`, or leave these rows out",
        )
    without = [i for i, row in enumerate(rows) if row.pos_scores is None]
    if without and settings.distillation is not None:
        raise InvalidInputError(
            f"{len(without)} of {len(rows)} rows have no teacher scores, the first is {rows.locations[without[0]]}",
            argument="distillation",
            advice="add pos_scores and neg_scores with `bge teach`, or leave distillation= out",
        )
    for row, location in zip(rows, rows.locations, strict=True):
        pairs.check(row, str(location))


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


def _uses_lora(source: _Source, settings: RerankerSettings) -> bool:
    """Return whether an adapter is trained."""
    lora = source.is_llm or source.base is not None if settings.lora is None else settings.lora
    if source.base is not None and not lora:
        raise InvalidInputError(
            f"{source.name} is an adapter, and lora=False trains whole models",
            argument="lora",
            advice="leave lora= out to train the adapter further, or merge it first",
        )
    if settings.merge_lora and not lora:
        raise InvalidInputError(
            f"merge_lora=True needs an adapter, and all weights of {source.name} are trained",
            argument="merge_lora",
            advice="pass lora=True, or leave merge_lora= out",
        )
    return lora


def _digest(rows: Sequence[TrainingRow]) -> str:
    digest = sha256()
    for row in rows:
        digest.update(repr(row).encode())
    return digest.hexdigest()

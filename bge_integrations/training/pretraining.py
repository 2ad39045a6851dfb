"""`pretrain`: RetroMAE on one's own texts, before an encoder is fine-tuned."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bge_integrations.errors import InvalidInputError, NotSupportedError
from bge_integrations.models.checkpoint import is_adapter, read_config, weights_digest
from bge_integrations.models.encoder_config import ENCODER_TYPES, EncoderConfig
from bge_integrations.models.locating import locate
from bge_integrations.models.tokenizer import TextTokenizer
from bge_integrations.optional import needed_by
from bge_integrations.training.backbone import load_backbone, save_backbone
from bge_integrations.training.checkpoint_files import copy_small_files
from bge_integrations.training.groups import RowSet
from bge_integrations.training.masked_texts import MaskedTexts, Piece, collate, pieces_of
from bge_integrations.training.outputs import check_new_folder
from bge_integrations.training.retromae import RetroMAE
from bge_integrations.training.run import Trained, TrainingRun
from bge_integrations.training.settings import TrainingSettings, check_number, settings_of
from bge_integrations.training.texts import Texts, read_texts
from bge_integrations.validation import check_whole_number

with needed_by(__name__, "bge-integrations[train]"):
    from transformers import AutoModelForMaskedLM

_LEARNING_RATE = 2e-5
#: The beginnings of the names of the masked language modelling head's weights, which embedding models lack.
_HEADS = ("cls.", "lm_head.")
#: Settings that only fine-tuning has.
_NOT_TAKEN = (
    *("group_size", "query_max_length", "passage_max_length"),
    *("lora", "lora_rank", "lora_alpha", "lora_dropout", "merge_lora"),
)


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings(TrainingSettings):
    """How RetroMAE runs: the settings of every training but group sizes, other lengths and LoRA, and these.

    Attributes:
        max_length: Maximum number of tokens of a text, special tokens included; longer texts are cut into pieces.
        encoder_mask: The share of tokens that the encoder must predict.
        decoder_mask: The share of tokens that the decoder does not see.
    """

    max_length: int = 512
    encoder_mask: float = 0.3
    decoder_mask: float = 0.5

    def __post_init__(self) -> None:
        """Check each value; see `TrainingSettings`."""
        super().__post_init__()
        check_whole_number(self.max_length, "max_length", least=8)
        for name in ("encoder_mask", "decoder_mask"):
            check_number(getattr(self, name), name, above=0, most=0.9)


def pretrain(texts: Texts, model: str | os.PathLike[str], output: str | os.PathLike[str], **settings: Any) -> Trained:
    """Continue the pre-training of an encoder on texts without questions, with RetroMAE.

    The result is the encoder with its masked language modelling head, its tokenizer and its sentence-transformers
    files: `load_embedder` loads it like the original. It is a start for `train_embedder`, not a better embedder by
    itself.

    Args:
        texts: A .jsonl file whose objects have a `text`, a .txt or .md file, a folder of such files, or a list of
            texts.
        model: A BERT, RoBERTa or XLM-R encoder: a hub id or a folder.
        output: The folder to write; it must not exist or be empty. The same call continues an interrupted run.
        settings: Those of `PretrainingSettings`: epochs, batch_size, max_length, seed, …

    Raises:
        InvalidInputError: A line of the texts is wrong, a setting is invalid, there is no text, or the output exists.
        NotSupportedError: The model is of another kind.
        KeyboardInterrupt: It was stopped; the message says how to continue.
    """
    chosen = settings_of(PretrainingSettings, settings, "pretrain", without=_NOT_TAKEN)
    check_new_folder(output)
    name, folder = locate(model, "embedder")
    tokenizer = _check_model(name, folder, chosen.max_length)
    pieces = list(pieces_of(read_texts(texts), tokenizer, chosen.max_length))
    if not pieces:
        raise InvalidInputError("there is no text to train on", argument="texts")
    identity = {"texts": _digest(pieces), "model": weights_digest(folder)}
    run = TrainingRun(output, chosen, chosen.learning_rate or _LEARNING_RATE, identity)
    lengths = [len(piece.ids) for piece in pieces]
    plan = run.plan([RowSet(range(len(pieces)), chosen.batch_size, 1)], lengths)
    backbone = load_backbone(AutoModelForMaskedLM, folder, chosen, lora=False, precision=run.precision, new=_HEADS)

    def save(target: Path) -> None:
        save_backbone(backbone, target, merge_lora=False)
        copy_small_files(folder, target)

    masked = MaskedTexts(pieces, tokenizer, chosen.encoder_mask, chosen.decoder_mask, chosen.seed)
    return run.train(RetroMAE(backbone), masked, plan, partial(collate, tokenizer.pad_id or 0), save)


def _check_model(name: str, folder: Path, max_length: int) -> TextTokenizer:
    """Return the model's tokenizer, or raise if RetroMAE can't train it."""
    if is_adapter(folder):
        raise NotSupportedError(f"{name} is a LoRA adapter", argument="model", advice="pre-train its base model")
    config = read_config(folder)
    if config.get("model_type") not in ENCODER_TYPES:
        raise NotSupportedError(
            f"{name} is of type {config.get('model_type')!r}, and RetroMAE trains encoders",
            argument="model",
            advice=f"use a model of type {', '.join(ENCODER_TYPES)}",
        )
    check_whole_number(max_length, "max_length", most=EncoderConfig.read(config).max_length)
    tokenizer = TextTokenizer(folder)
    if tokenizer.mask_id is None:
        raise InvalidInputError(f"the tokenizer of {name} has no mask token", argument="model")
    return tokenizer


def _digest(pieces: Sequence[Piece]) -> str:
    """Return a digest of the pieces' token ids: SHA-256 in hexadecimal."""
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(len(piece.ids).to_bytes(4, "little") + piece.ids.tobytes())
    return whole.hexdigest()

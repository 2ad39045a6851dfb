"""Weights for a mix from a few examples: the lower a model's loss on them, the higher its weight."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from bge_integrations.core.devices import resolve_devices
from bge_integrations.core.embedder import Embedder
from bge_integrations.core.loading import load_embedder, load_reranker
from bge_integrations.core.reranker import Reranker
from bge_integrations.errors import InvalidInputError, WrongKindError
from bge_integrations.models.locating import locate
from bge_integrations.progress import progress_bar
from bge_integrations.reporting import TruncatedTexts, report_truncation
from bge_integrations.spelling import spelled
from bge_integrations.training.row_files import read_rows
from bge_integrations.training.rows import TrainingData, TrainingRow
from bge_integrations.validation import check_text, check_whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Divides the similarities of embedders, as when they were trained.
_SIMILARITY_TEMPERATURE = 0.05
#: Maximum tokens of an input with its output, unless `max_length` says otherwise.
_LONGEST_TEXT = 2048
_Example = TypeVar("_Example")


@dataclass(frozen=True)
class MixingWeights:
    """Weights for a mix.

    Attributes:
        weights: One weight per model, for `mix`; they sum to 1.
        losses: The mean loss of each model on the examples.
    """

    weights: tuple[float, ...]
    losses: tuple[float, ...]


def weights_from(
    models: Sequence[str | os.PathLike[str] | Embedder | Reranker],
    examples: TrainingData | Sequence[Mapping[str, str]],
    *,
    temperature: float = 5.0,
    batch_size: int = 2,
    negatives: int = 7,
    max_length: int | None = None,
    query_instruction: str | None = None,
    device: str | None = None,
    seed: int = 0,
    cache_folder: str | None = None,
    local_files_only: bool = False,
    show_progress: bool = False,
) -> MixingWeights:
    """Return softmax(-loss / temperature) over the models' losses on a few examples, as LM-Cocktail does.

    Models are loaded one after the other. For training rows, an embedder's loss is the cross-entropy of each query's
    first positive among all passages of its batch, and a reranker's is that of the first positive among the row's
    passages. For inputs with outputs, it is a language model's loss on the tokens of the output.

    Args:
        models: Hub ids, folders or loaded models, as for `mix`.
        examples: Training rows (see `read_rows`), or dicts of "input" and "output", or a .jsonl file of such dicts.
        temperature: The higher, the more equal the weights.
        batch_size: Number of examples per batch; the passages of a batch are negatives for its other queries.
        negatives: Maximum number of negatives per row, sampled if the row has more.
        max_length: Maximum number of tokens of a text, or of a pair for rerankers. None uses the model's maximum, and
            2048 for inputs with outputs.
        query_instruction: Prepended to queries by embedders; None uses each model's own.
        device: As in `load_embedder`.
        seed: For sampling negatives.
        cache_folder, local_files_only: As in `load_embedder`.
        show_progress: Show a progress bar.

    Raises:
        InvalidInputError: An example or an argument is invalid.
        TrainingDataError: A row is invalid; see `read_rows`.
    """
    if not math.isfinite(temperature) or temperature <= 0:
        raise InvalidInputError(f"{spelled('temperature', temperature)} must be above 0", argument="temperature")
    if isinstance(models, (str, os.PathLike)) or not models:
        raise InvalidInputError("models must be a list of models", argument="models")
    check_whole_number(batch_size, "batch_size")
    check_whole_number(negatives, "negatives", least=0)
    loading: dict[str, Any] = {"cache_folder": cache_folder, "local_files_only": local_files_only}
    pairs = _language_examples(examples)
    if pairs is None:
        generator = np.random.default_rng(seed)
        rows = [_sampled(row, negatives, generator) for row in read_rows(examples)]  # type: ignore[arg-type]
        loading |= {"device": device, "max_length": max_length}
        loss_of = partial(
            _retrieval_loss, rows=rows, batch_size=batch_size, query_instruction=query_instruction, loading=loading
        )
    else:
        length = max_length or _LONGEST_TEXT
        loss_of = partial(
            _language_loss, pairs=pairs, batch_size=batch_size, max_length=length, device=device, loading=loading
        )
    losses = []
    with TruncatedTexts(), progress_bar(len(models), "model", show_progress) as bar:
        for model in models:
            losses.append(loss_of(model))
            bar.update()
    scaled = np.exp((min(losses) - np.array(losses)) / temperature)
    return MixingWeights(tuple((scaled / scaled.sum()).tolist()), tuple(losses))


def _language_examples(examples: object) -> list[tuple[str, str]] | None:
    """Return the examples as (input, output); None if they are training rows or files of them."""
    if isinstance(examples, (str, os.PathLike)) and Path(examples).is_file():
        with Path(examples).open(encoding="utf-8-sig") as file:
            try:
                first = json.loads(file.readline())
                if not isinstance(first, dict) or "input" not in first:
                    return None
                examples = [first, *(json.loads(line) for line in file if line.strip())]
            except (ValueError, RecursionError):  # reported by read_rows, with the line
                return None
    if not isinstance(examples, Sequence) or not examples or not isinstance(examples[0], Mapping):
        return None
    pairs = []
    for i, example in enumerate(examples):
        if not isinstance(example, Mapping) or not {"input", "output"} <= example.keys():
            raise InvalidInputError(f"examples[{i}] must have an 'input' and an 'output'", argument="examples")
        for field in ("input", "output"):
            check_text(example[field], f"examples[{i}], {field!r}")
        pairs.append((example["input"], example["output"]))
    return pairs


def _sampled(row: TrainingRow, negatives: int, generator: np.random.Generator) -> TrainingRow:
    """Return the row with its first positive and at most this many of its negatives."""
    neg = row.neg
    if len(neg) > negatives:
        neg = tuple(neg[i] for i in sorted(generator.choice(len(neg), negatives, replace=False)))
    return TrainingRow(row.query, row.pos[:1], neg)


def _retrieval_loss(
    model: str | os.PathLike[str] | Embedder | Reranker,
    *,
    rows: Sequence[TrainingRow],
    batch_size: int,
    query_instruction: str | None,
    loading: dict[str, Any],
) -> float:
    """Return the mean of the batches' losses of an embedder or a reranker."""
    if isinstance(model, Embedder):
        return _mean_of_means(rows, batch_size, partial(_embedder_losses, model))
    if isinstance(model, Reranker):
        return _mean_of_means(rows, batch_size, partial(_reranker_losses, model))
    try:
        with load_embedder(model, query_instruction=query_instruction, **loading) as embedder:
            return _mean_of_means(rows, batch_size, partial(_embedder_losses, embedder))
    except WrongKindError:
        with load_reranker(model, **loading) as reranker:
            return _mean_of_means(rows, batch_size, partial(_reranker_losses, reranker))


def _mean_of_means(examples: Sequence[_Example], batch_size: int, losses: Callable[[Sequence[_Example]], Any]) -> float:
    batches = [examples[start : start + batch_size] for start in range(0, len(examples), batch_size)]
    return float(np.mean([np.mean(losses(batch)) for batch in batches]))


def _embedder_losses(embedder: Embedder, rows: Sequence[TrainingRow]) -> list[float]:
    queries = embedder.encode_dense([row.query for row in rows], kind="query")
    passages = [text for row in rows for text in (*row.pos, *row.neg)]
    scores = queries @ embedder.encode_dense(passages, kind="passage").T / _SIMILARITY_TEMPERATURE
    positives = np.cumsum([0, *(1 + len(row.neg) for row in rows)])
    return [_cross_entropy(scores[i], positives[i]) for i in range(len(rows))]


def _reranker_losses(reranker: Reranker, rows: Sequence[TrainingRow]) -> list[float]:
    groups = [[(row.query, text) for text in (*row.pos, *row.neg)] for row in rows]
    scores = reranker.score([pair for group in groups for pair in group])
    ends = np.cumsum([len(group) for group in groups])
    return [_cross_entropy(group, 0) for group in np.split(scores, ends[:-1])]


def _cross_entropy(scores: NDArray[np.float32], target: int) -> float:
    exact = scores.astype(np.float64)
    return float(np.logaddexp.reduce(exact) - exact[target])


def _language_loss(
    model: str | os.PathLike[str],
    *,
    pairs: Sequence[tuple[str, str]],
    batch_size: int,
    max_length: int,
    device: str | None,
    loading: dict[str, Any],
) -> float:
    """Return the mean of the batches' mean loss per token of the outputs, of a causal language model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from bge_integrations.training.backbone import quiet_transformers

    if not isinstance(model, (str, os.PathLike)):
        raise InvalidInputError(
            "examples with input and output need a model's name or folder, not a loaded model", argument="models"
        )
    _, folder = locate(model, "embedder", **loading)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    chosen_device = resolve_devices(device)[0]
    with quiet_transformers():
        language_model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=torch.float32, local_files_only=True
        )
    language_model.to(chosen_device).eval()
    sequences, truncated = [], {}
    for i, (text, output) in enumerate(pairs):
        ids = [*tokenizer(f"{text} {output}").input_ids, tokenizer.eos_token_id]
        first = len(tokenizer(text).input_ids)
        if first >= max_length:
            raise InvalidInputError(
                f"the input of examples[{i}] has {first} tokens, so {spelled('max_length', max_length)} is too "
                "low for an output",
                argument="examples",
                advice="shorten it, or raise max_length",
            )
        if len(ids) > max_length:
            truncated[i] = len(ids)
        sequences.append((ids[:max_length], first))
    report_truncation(truncated, len(pairs), max_length)

    def losses_of(batch: Sequence[tuple[list[int], int]]) -> list[float]:
        losses: list[float] = []
        for ids, first in batch:
            with torch.inference_mode():
                logits = language_model(torch.tensor([ids], device=chosen_device)).logits[0, first - 1 : -1].float()
            targets = torch.tensor(ids[first:], device=chosen_device)
            losses += torch.nn.functional.cross_entropy(logits, targets, reduction="none").tolist()
        return losses

    return _mean_of_means(sequences, batch_size, losses_of)

"""The batches of an embedder's training: which rows share one, and the token ids of their texts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bge_integrations.core.inputs import tokenize_texts, tokenize_with_examples
from bge_integrations.errors import InvalidInputError, TruncationWarning
from bge_integrations.models.instructions import formatted_instruction
from bge_integrations.reporting import warn_caller
from bge_integrations.spelling import spelled
from bge_integrations.training.groups import Group, RowSet, check_group_size
from bge_integrations.training.padding import padded

if TYPE_CHECKING:
    from bge_integrations.models.interface import TokenSequence
    from bge_integrations.models.tokenizer import TextTokenizer
    from bge_integrations.training.icl_examples import ExampleWriter
    from bge_integrations.training.rows import TrainingRow, TrainingRows

logger = logging.getLogger(__name__)

#: How the name of a file (without its suffix) or of its folder ends if its queries have no in-batch negatives.
_OWN_NEGATIVES = "no_in_batch_neg"


@dataclass(frozen=True)
class TextFormat:
    """The text around queries and passages.

    Attributes:
        query_instruction, passage_instruction: Prepended, as the model was trained.
        instruction_format: How a row's own prompt is put before its query; None: as it is.
        query_suffix: Appended to each query.
        query_max_length, passage_max_length: Maximum number of tokens.
    """

    query_instruction: str
    passage_instruction: str
    instruction_format: str | None
    query_suffix: str
    query_max_length: int
    passage_max_length: int

    def instruction_of(self, row: TrainingRow) -> str:
        """Return what is prepended to a row's query."""
        if row.prompt is None:
            return self.query_instruction
        if row.prompt and self.instruction_format:
            return formatted_instruction(self.instruction_format, row.prompt)
        return row.prompt


class EmbedderCollator:
    """Turns groups into the arguments of `EmbedderModel.forward`.

    Args:
        tokenizer: The model's.
        text_format: The text around queries and passages.
        pads_left: Whether padding comes before the tokens.
        with_teacher: Whether rows have teacher scores.
        writer: Writes in-context examples before queries; None for models that take none.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        text_format: TextFormat,
        pads_left: bool,
        with_teacher: bool,
        writer: ExampleWriter | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._format = text_format
        self._pads_left = pads_left
        self._with_teacher = with_teacher
        self._writer = writer
        self._reported: set[str] = set()

    def __call__(self, groups: list[Group]) -> dict[str, Any]:
        """Tokenise groups of one row set. The first text that is truncated is reported with a TruncationWarning."""
        row_set = groups[0].visit.row_set
        instructions = [self._format.instruction_of(group.row) for group in groups]
        queries = [
            self._query(
                group.row.query, instructions[i], self._writer.examples(groups, instructions, i) if self._writer else ""
            )
            for i, group in enumerate(groups)
        ]
        passages = [sequence for group in groups for sequence in self._passages(group)]
        batch: dict[str, Any] = {
            **self._padded("query", queries),
            **self._padded("passage", passages),
            "own_negatives": row_set.own_negatives,
        }
        if self._with_teacher:
            batch["teacher_scores"] = torch.tensor([group.teacher_scores for group in groups])
        return batch

    def _passages(self, group: Group) -> list[TokenSequence]:
        if group.visit.row_set.is_symmetric:
            instruction = self._format.instruction_of(group.row)
            return [self._query(passage, instruction) for passage in group.passages]
        instruction, length = self._format.passage_instruction, self._format.passage_max_length
        sequences, truncated = tokenize_texts(self._tokenizer, group.passages, instruction, length)
        self._report(truncated, "passage_max_length", length)
        return sequences

    def _query(self, text: str, instruction: str, examples: str = "") -> TokenSequence:
        length, suffix = self._format.query_max_length, self._format.query_suffix
        if suffix:
            sequences, truncated = tokenize_with_examples(
                self._tokenizer, [text], instruction, examples, suffix, length, length
            )
        else:
            sequences, truncated = tokenize_texts(self._tokenizer, [text], instruction, length)
        self._report(truncated, "query_max_length", length)
        return sequences[0]

    def _report(self, truncated: Mapping[int, int], argument: str, limit: int) -> None:
        """Warn about the first text that is truncated; a training meets the others again and again."""
        if not truncated or argument in self._reported:
            return
        self._reported.add(argument)
        longest = max(truncated.values())
        warning = TruncationWarning(
            f"a text of {longest} tokens was truncated to {spelled(argument, limit)}, and other long ones will be, "
            f"without another warning; split them, or raise {spelled(argument)} if the model allows it",
            count=len(truncated),
            total=len(truncated),
            longest=longest,
            limit=limit,
        )
        warn_caller(warning, TruncationWarning)

    def _padded(self, part: str, sequences: Sequence[TokenSequence]) -> dict[str, torch.Tensor]:
        """Return the ids and the mask of queries or passages, by the names of `EmbedderModel.forward`."""
        batch = padded(sequences, self._tokenizer.pad_id or 0, "left" if self._pads_left else "right")
        return {f"{part}_{name}": batch[name] for name in ("input_ids", "attention_mask")}


def row_sets(
    rows: TrainingRows,
    batch_size: int,
    group_size: int,
    *,
    own_negatives: bool,
    same_dataset: bool,
    small_threshold: int,
    drop_threshold: int,
) -> list[RowSet]:
    """Return the rows that may share a batch: all of them, or with `same_dataset` those of one file.

    Small files of a folder are one data set together. A row's `type`, `batch_size` and `train_group_size` and the names
    of files and folders then say how the batches of a data set are made.

    Args:
        rows: The data.
        batch_size, group_size: Of data sets that don't say otherwise.
        own_negatives: Whether queries have no in-batch negatives.
        same_dataset: Whether a batch has rows of one data set only.
        small_threshold: Files with fewer rows are small.
        drop_threshold: Small files that have fewer rows together are left out.

    Raises:
        InvalidInputError: Rows of a data set differ in these fields.
    """
    if not same_dataset:
        return [RowSet(range(len(rows)), batch_size, group_size, own_negatives)]
    datasets: dict[Path | None, list[int]] = {}
    pools: dict[Path, list[int]] = {}
    for file, positions in rows.by_file.items():
        if file is not None and len(positions) < small_threshold:
            pools.setdefault(file.parent, []).extend(positions)
        else:
            datasets[file] = positions
    for folder, positions in pools.items():
        if len(positions) >= drop_threshold:
            datasets[folder] = positions
        else:
            logger.warning("%s: its small files have %d rows together, and are left out", folder, len(positions))
    return [
        _row_set(rows, positions, batch_size, group_size, own_negatives or _has_own_negatives(path))
        for path, positions in datasets.items()
    ]


def _row_set(rows: TrainingRows, positions: list[int], batch_size: int, group_size: int, own_negatives: bool) -> RowSet:
    first = rows[positions[0]]
    for field, position in product(("type", "batch_size", "train_group_size"), positions):
        if getattr(rows[position], field) != getattr(first, field):
            raise InvalidInputError(
                f"{rows.locations[position]} has the {field} {getattr(rows[position], field)!r}, and the first row of "
                f"its data set {getattr(first, field)!r}",
                argument="data",
                advice="put rows that differ in it into different files",
            )
    kind = first.type or "normal"
    if first.batch_size is not None:
        batch_size = first.batch_size
    elif "symmetric" in kind:
        batch_size = max(1, batch_size // 2)
    if kind == "only_1neg":
        group_size = min(2, group_size)
    elif kind == "symmetric_class":
        group_size = min(len(first.neg) + 1, group_size)
    elif first.train_group_size is not None:
        group_size = check_group_size(rows.select(positions), first.train_group_size, own_negatives)
    is_symmetric = kind in ("symmetric_sts", "symmetric_clustering")
    return RowSet(positions, batch_size, group_size, own_negatives, is_symmetric)


def _has_own_negatives(path: Path | None) -> bool:
    return path is not None and (path.stem.endswith(_OWN_NEGATIVES) or path.parent.name.endswith(_OWN_NEGATIVES))


def text_lengths(rows: Sequence[TrainingRow]) -> list[int]:
    """Return the number of characters of each row's longest text."""
    return [max(map(len, (row.query, *row.pos, *row.neg))) for row in rows]

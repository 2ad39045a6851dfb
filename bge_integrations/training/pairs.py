"""Groups of a query and its passages as padded batches of pairs, built as `Reranker.score` builds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bge_integrations.core.inputs import tokenize_pairs, tokenize_prompted_pairs
from bge_integrations.errors import InvalidInputError
from bge_integrations.reporting import warn_caller
from bge_integrations.training.padding import padded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from bge_integrations.models.interface import TokenSequence
    from bge_integrations.models.profile import RerankerProfile
    from bge_integrations.models.tokenizer import TextTokenizer
    from bge_integrations.training.groups import Group
    from bge_integrations.training.rows import TrainingRow, TrainingRows

#: How a pair begins for an LLM reranker, which inference can't change.
_LLM_PREFIXES = ("A: ", "B: ")


@dataclass(frozen=True)
class PairTokenizer:
    """Turns a row's pairs into token ids.

    Attributes:
        tokenizer, profile: The reranker's.
        query_max_length: Maximum number of tokens of a query.
        max_length: Maximum number of tokens of a pair; an LLM reranker's prompt comes on top.
    """

    tokenizer: TextTokenizer
    profile: RerankerProfile
    query_max_length: int
    max_length: int

    def tokenize(self, row: TrainingRow, passages: Sequence[str]) -> tuple[list[TokenSequence], dict[int, int]]:
        """Return the row's query with each passage, and {position of a truncated pair: its whole length}."""
        if self.profile.prompt:
            return tokenize_prompted_pairs(
                self.tokenizer,
                [(row.query, passage) for passage in passages],
                prompt=row.prompt or self.profile.prompt,
                max_length=self.max_length,
                query_max_length=self.query_max_length,
                always_begin=self.profile.always_begin,
            )
        query, before = (row.query_prompt or "") + row.query, row.passage_prompt or ""
        pairs = [(query, before + passage) for passage in passages]
        return tokenize_pairs(self.tokenizer, pairs, self.max_length, self.query_max_length)

    def check(self, rows: TrainingRows) -> None:
        """Refuse or report prompts that the reranker could not be used with afterwards.

        Raises:
            InvalidInputError: An LLM reranker's row replaces what its query or passage begins with.
        """
        if not self.profile.prompt:
            asked = next((i for i, row in enumerate(rows) if row.prompt is not None), None)
            if asked is not None:
                warn_caller(
                    "rows have a prompt, which is ignored: a cross-encoder is asked no question (first in "
                    f"{rows.locations[asked]})",
                    UserWarning,
                )
            return
        for row, location in zip(rows, rows.locations, strict=True):
            given = {"query_prompt": row.query_prompt, "passage_prompt": row.passage_prompt}
            for (field, text), prefix in zip(given.items(), _LLM_PREFIXES, strict=True):
                if text not in (None, prefix):
                    raise InvalidInputError(
                        f"{location} has {field}={text!r}, and an LLM reranker always gets {prefix!r}",
                        argument="data",
                        advice=f"leave {field!r} out, or put the text into the query or passage itself",
                    )


def collate(tokenizer: PairTokenizer, with_teacher: bool, groups: Sequence[Group]) -> dict[str, Tensor]:
    """Return a batch: the pairs' ids, masks and types, the `sizes` of the groups and, if asked for, `teacher` scores.

    Pairs are padded on the right for cross-encoders, and on the left for LLM rerankers, which score the last token.
    """
    sequences = [each for group in groups for each in tokenizer.tokenize(group.row, group.passages)[0]]
    batch = padded(sequences, tokenizer.tokenizer.pad_id or 0, "left" if tokenizer.profile.prompt else "right")
    if tokenizer.profile.prompt:
        batch.pop("token_type_ids", None)  # the parts of the pair, not the model's input
    batch["sizes"] = torch.tensor([len(group.passages) for group in groups])
    if with_teacher:
        batch["teacher"] = torch.tensor([score for group in groups for score in group.teacher_scores or ()])
    return batch

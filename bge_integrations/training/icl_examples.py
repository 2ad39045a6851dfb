"""In-context examples for the queries of bge-en-icl: other rows of the same batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bge_integrations.training.groups import random_for

if TYPE_CHECKING:
    from bge_integrations.models.tokenizer import TextTokenizer
    from bge_integrations.training.groups import Group

#: Maximum number of tokens of an example's query with its instruction, and of its answer.
_QUERY_TOKENS, _ANSWER_TOKENS = 64, 96
#: What examples leave of a query's maximum length to the query itself, in tokens.
_FOR_QUERY = 512


@dataclass(frozen=True)
class ExampleWriter:
    """Writes the examples before a query.

    Attributes:
        tokenizer: The model's.
        suffix: The text between a query and its answer.
        room: Maximum number of tokens of all examples of a query.
        most: Maximum number of examples of a query; it gets from 0 to this many, at random.
        seed: Determines which.
        query_tokens, answer_tokens: Maximum number of tokens of an example's two parts.
    """

    tokenizer: TextTokenizer
    suffix: str
    room: int
    most: int
    seed: int
    query_tokens: int = _QUERY_TOKENS
    answer_tokens: int = _ANSWER_TOKENS

    def examples(self, groups: Sequence[Group], instructions: Sequence[str], query: int) -> str:
        """Return the examples for one of a batch's queries, each a query and its positive; "" for none.

        In data sets of the type symmetric_clustering, the answer is the row's category.
        """
        visit = groups[query].visit
        generator = random_for(self.seed, "examples", visit.epoch, visit.row)
        others = [i for i in range(len(groups)) if i != query]
        text = ""
        for i in generator.sample(others, min(generator.randint(0, self.most), len(others))):
            longer = text + self._example(groups[i], instructions[i])
            if len(self.tokenizer.ids([longer])[0]) > self.room:
                break
            text = longer
        return text

    def _example(self, group: Group, instruction: str) -> str:
        is_cluster = group.row.type == "symmetric_clustering" and group.row.category is not None
        answer = group.row.category if is_cluster else group.passages[0]
        query, _ = self.tokenizer.truncate(instruction + group.row.query, self.query_tokens)
        shortened, _ = self.tokenizer.truncate(answer or "", self.answer_tokens)
        return f"{query}{self.suffix}{shortened}\n\n"


def room_for_examples(query_max_length: int) -> int:
    """Return how many tokens the examples of a query may have."""
    return max(0, query_max_length - _FOR_QUERY)

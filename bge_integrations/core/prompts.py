"""Texts and pairs become token ids: instruction in front, special tokens around, cut to length."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bge_integrations.core.batch import TokenSequence
from bge_integrations.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bge_integrations.models.tokenizer import Template, TextTokenizer


def tokenize_texts(
    tokenizer: TextTokenizer, texts: Sequence[str], instruction: str, max_length: int
) -> tuple[list[TokenSequence], int]:
    """Each text after the instruction, cut to `max_length` tokens; and how many texts were cut."""
    template = tokenizer.text
    room = max_length - template.size
    if room < 1:
        raise InvalidInputError(f"max_length={max_length} leaves no room for text; use at least {template.size + 1}")
    ids = tokenizer.ids([instruction + text for text in texts] if instruction else texts)
    if template.size == 0 and not all(map(len, ids)):
        raise InvalidInputError("an empty text is no input for this tokenizer, which adds no special tokens")
    sequences = [_assemble(template, text[:room]) for text in ids]
    return sequences, sum(len(text) > room for text in ids)


def tokenize_pairs(
    tokenizer: TextTokenizer, pairs: Sequence[tuple[str, str]], max_length: int, query_max_length: int
) -> tuple[list[TokenSequence], int]:
    """Each pair in the pair template: the query cut to `query_max_length` tokens, then the passage to what is left of
    `max_length`; and how many pairs were cut. Queries and passages that occur in several pairs are tokenised once."""
    template = tokenizer.pair
    if max_length - query_max_length - template.size < 1:
        raise InvalidInputError(
            f"max_length={max_length} leaves no room for a passage after a query of query_max_length="
            f"{query_max_length} and {template.size} special tokens; use a longer max_length or a shorter query"
        )
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    ids = dict(zip(texts, tokenizer.ids(texts), strict=True))
    sequences, truncated = [], 0
    for query_text, passage_text in pairs:
        query, passage = ids[query_text][:query_max_length], ids[passage_text]
        room = max_length - template.size - len(query)
        truncated += len(query) < len(ids[query_text]) or len(passage) > room
        sequences.append(_assemble(template, query, passage[:room]))
    return sequences, truncated


def _assemble(template: Template, *texts: np.ndarray) -> TokenSequence:
    ids, types = [template.parts[0]], [template.part_types[0]]
    for text, text_type, part, part_types in zip(
        texts, template.text_types, template.parts[1:], template.part_types[1:], strict=True
    ):
        ids += [text, part]
        types += [np.full(len(text), text_type, dtype=np.int32), part_types]
    all_types = np.concatenate(types)
    return TokenSequence(np.concatenate(ids), all_types if all_types.any() else None)

"""Texts and pairs become token ids: instruction in front, special tokens around, cut to length."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bge_integrations.errors import InvalidInputError
from bge_integrations.models.interface import TokenSequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bge_integrations.models.tokenizer import Template, TextTokenizer


def tokenize_texts(
    tokenizer: TextTokenizer, texts: Sequence[str], instruction: str, max_length: int, shared: str = ""
) -> tuple[list[TokenSequence], int]:
    """Each text after the instruction, cut to `max_length` tokens; and how many texts were cut.

    `shared`: what all of them begin with.
    """
    template = tokenizer.text
    room = max_length - template.size
    if room < 1:
        raise InvalidInputError(
            f"max_length={max_length} leaves no room for text",
            argument="max_length",
            advice=f"use at least {template.size + 1}",
        )
    ids = tokenizer.ids([instruction + text for text in texts] if instruction else texts)
    if template.size == 0 and not all(map(len, ids)):
        raise InvalidInputError("this tokenizer adds no special tokens, so a text must not be empty")
    sequences = [_assemble(template, text[:room]) for text in ids]
    if shared:
        beginning = np.concatenate([template.parts[0], *tokenizer.ids([shared])])
        sequences = [replace(sequence, shared=_same(sequence.ids, beginning)) for sequence in sequences]
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
            f"{query_max_length} and {template.size} special tokens",
            argument="max_length",
            advice="use a longer max_length or a shorter query",
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


def tokenize_with_examples(
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    instruction: str,
    examples: str,
    suffix: str,
    max_length: int,
    longest: int,
) -> tuple[list[TokenSequence], int]:
    """Queries of a model that takes examples: these, the instructed query cut to what `max_length` leaves, the suffix.

    The examples come on top of `max_length`, and leave room for `longest` tokens. Lengths as FlagEmbedding counts them,
    the markers' by their text.
    """
    around = tokenizer.ids([examples, suffix, "<s>", suffix + "</s>"])
    before, after, start, end = (len(ids) for ids in around)
    max_length = min(max_length, longest)
    room = max_length - start - end
    if room < 1:
        raise InvalidInputError(
            f"max_length={max_length} leaves no room for a query",
            argument="max_length",
            advice=f"use at least {start + end + 1}",
        )
    shortened = [tokenizer.shortened(instruction + text, room) for text in texts]
    whole_length = (before + after + max_length + 8) // 8 * 8 + 8
    whole = [examples + query + suffix for query, _ in shortened]
    sequences, too_long = tokenize_texts(tokenizer, whole, "", whole_length, shared=examples + instruction)
    return sequences, max(sum(cut for _, cut in shortened), too_long)


def examples_room(tokenizer: TextTokenizer, examples: str, suffix: str) -> int:
    """How many tokens may come on top of `max_length` in `tokenize_with_examples`; 0 without examples and suffix."""
    return sum(map(len, tokenizer.ids([examples, suffix]))) + 16 if suffix else 0


def tokenize_prompted_pairs(
    tokenizer: TextTokenizer,
    pairs: Sequence[tuple[str, str]],
    prompt: str,
    max_length: int,
    query_max_length: int,
    *,
    always_begin: bool,
) -> tuple[list[TokenSequence], int]:
    """Pairs as LLM rerankers read them: "A: query", "B: passage" and the prompt, a line each; and how many were cut.

    The passage is cut so that query and passage take `max_length` tokens and as many more as the prompt has. The types
    are 0 in the query and its line's end, 1 in the passage, 2 in the prompt.

    Args:
        always_begin: Whether the token that begins a text stands in front even where it is the padding too.
    """
    end_of_line, prompt_ids = tokenizer.ids(["\n", prompt])
    longest = max_length + len(end_of_line) + len(prompt_ids)
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    if not always_begin and tokenizer.bos_id == tokenizer.pad_id:
        begin = []
    queries = list(dict.fromkeys(f"A: {query}" for query, _ in pairs))
    passages = list(dict.fromkeys(f"B: {passage}" for _, passage in pairs))
    ids = dict(zip(queries + passages, tokenizer.ids(queries + passages), strict=True))
    sequences, truncated = [], 0
    for query_text, passage_text in pairs:
        whole_query, whole_passage = ids[f"A: {query_text}"], ids[f"B: {passage_text}"]
        query = np.concatenate([begin, whole_query[:query_max_length], end_of_line]).astype(np.int32)
        passage = whole_passage[:max_length]
        too_many = len(query) + len(passage) - longest
        if 0 < too_many < len(end_of_line) + len(passage):
            passage = passage[: max(0, len(passage) - too_many)]
        truncated += len(whole_query) > query_max_length or len(passage) < len(whole_passage)
        parts = query, passage, np.concatenate([end_of_line, prompt_ids])
        types = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        sequences.append(TokenSequence(np.concatenate(parts), types, shared=len(query)))
    return sequences, truncated


def _same(ids: np.ndarray, beginning: np.ndarray) -> int:
    """How many of the first tokens are those of `beginning`."""
    length = min(len(ids), len(beginning))
    different = ids[:length] != beginning[:length]
    return int(different.argmax()) if different.any() else length


def _assemble(template: Template, *texts: np.ndarray) -> TokenSequence:
    ids, types = [template.parts[0]], [template.part_types[0]]
    for text, text_type, part, part_types in zip(
        texts, template.text_types, template.parts[1:], template.part_types[1:], strict=True
    ):
        ids += [text, part]
        types += [np.full(len(text), text_type, dtype=np.int32), part_types]
    all_types = np.concatenate(types)
    return TokenSequence(np.concatenate(ids), all_types if all_types.any() else None)

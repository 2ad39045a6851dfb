"""Tokenise texts and pairs: prepend the instruction, add special tokens, and truncate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bge_integrations.errors import InvalidInputError
from bge_integrations.models.interface import TokenSequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bge_integrations.catalog import Chat
    from bge_integrations.models.tokenizer import Template, TextTokenizer


def tokenize_texts(
    tokenizer: TextTokenizer, texts: Sequence[str], instruction: str, max_length: int, shared: str = ""
) -> tuple[list[TokenSequence], dict[int, int]]:
    """Tokenise texts, each after the instruction, and truncate them to `max_length` tokens.

    `shared` is the text that all of them begin with. Also return {position of a truncated text: its whole length in
    tokens}, as the other functions here do.
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
        raise InvalidInputError("this tokenizer adds no special tokens, so it can't encode empty texts; leave them out")
    sequences = [_assemble(template, text[:room]) for text in ids]
    if shared:
        beginning = np.concatenate([template.parts[0], *tokenizer.ids([shared])])
        sequences = [replace(sequence, shared=_common_prefix(sequence.ids, beginning)) for sequence in sequences]
    return sequences, {i: len(text) + template.size for i, text in enumerate(ids) if len(text) > room}


def tokenize_pairs(
    tokenizer: TextTokenizer, pairs: Sequence[tuple[str, str]], max_length: int, query_max_length: int
) -> tuple[list[TokenSequence], dict[int, int]]:
    """Tokenise pairs with the pair template; also return the lengths of those that were truncated.

    The query is truncated to `query_max_length` tokens, then the passage to what remains of `max_length`. Texts that
    occur in several pairs are tokenised once.
    """
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
    sequences, truncated = [], {}
    for i, (query_text, passage_text) in enumerate(pairs):
        query, passage = ids[query_text][:query_max_length], ids[passage_text]
        room = max_length - template.size - len(query)
        if len(query) < len(ids[query_text]) or len(passage) > room:
            truncated[i] = len(ids[query_text]) + len(passage) + template.size
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
) -> tuple[list[TokenSequence], dict[int, int]]:
    """Tokenise queries as examples, instruction, query and suffix; also return the lengths of those truncated.

    `max_length` covers the instruction and the query. The examples come on top and leave room for `longest` tokens.
    To truncate where FlagEmbedding does, special tokens are counted by tokenising their text, such as "</s>".
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
    queries = [tokenizer.truncate(instruction + text, room) for text in texts]
    whole_length = (before + after + max_length + 8) // 8 * 8 + 8
    whole = [examples + query + suffix for query, _ in queries]
    sequences, too_long = tokenize_texts(tokenizer, whole, "", whole_length, shared=examples + instruction)
    return sequences, too_long | {i: size + start + end for i, (_, size) in enumerate(queries) if size > room}


def examples_room(tokenizer: TextTokenizer, examples: str, suffix: str) -> int:
    """Return how many tokens `tokenize_with_examples` may add to `max_length`; 0 for models without examples."""
    return sum(map(len, tokenizer.ids([examples, suffix]))) + 16 if suffix else 0


def tokenize_prompted_pairs(
    tokenizer: TextTokenizer,
    pairs: Sequence[tuple[str, str]],
    prompt: str,
    max_length: int,
    query_max_length: int,
    *,
    always_begin: bool,
) -> tuple[list[TokenSequence], dict[int, int]]:
    """Tokenise pairs for LLM rerankers as lines "A: query", "B: passage" and the prompt.

    Also return the lengths of the pairs that were truncated, without the prompt.

    The passage is truncated so that query and passage take at most `max_length` tokens plus the length of the prompt.
    Token types are 0 for the query and its line end, 1 for the passage and 2 for the prompt.

    Args:
        always_begin: Whether to begin with the BOS token even if it is also the padding token.
    """
    end_of_line, prompt_ids = tokenizer.ids(["\n", prompt])
    longest = max_length + len(end_of_line) + len(prompt_ids)
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    if not always_begin and tokenizer.bos_id == tokenizer.pad_id:
        begin = []
    queries = list(dict.fromkeys(f"A: {query}" for query, _ in pairs))
    passages = list(dict.fromkeys(f"B: {passage}" for _, passage in pairs))
    ids = dict(zip(queries + passages, tokenizer.ids(queries + passages), strict=True))
    sequences, truncated = [], {}
    for i, (query_text, passage_text) in enumerate(pairs):
        whole_query, whole_passage = ids[f"A: {query_text}"], ids[f"B: {passage_text}"]
        query = np.concatenate([begin, whole_query[:query_max_length], end_of_line]).astype(np.int32)
        passage = whole_passage[:max_length]
        too_many = len(query) + len(passage) - longest
        if 0 < too_many < len(end_of_line) + len(passage):
            passage = passage[: max(0, len(passage) - too_many)]
        if len(whole_query) > query_max_length or len(passage) < len(whole_passage):
            truncated[i] = len(begin) + len(whole_query) + len(end_of_line) + len(whole_passage)
        parts = query, passage, np.concatenate([end_of_line, prompt_ids])
        types = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        sequences.append(TokenSequence(np.concatenate(parts), types, shared=len(query)))
    return sequences, truncated


def tokenize_chat_pairs(
    tokenizer: TextTokenizer,
    pairs: Sequence[tuple[str, str]],
    chat: Chat,
    prompt: str,
    max_length: int,
    query_max_length: int,
) -> tuple[list[TokenSequence], dict[int, int]]:
    """Tokenise pairs for rerankers that are asked about them in a chat; also return the lengths of those truncated.

    `max_length` covers the whole chat. A query is truncated to `query_max_length` tokens, then the end of the pair.
    """
    before, after, empty = tokenizer.ids(
        [chat.before, chat.after, chat.pair.format(prompt=prompt, query="", passage="")]
    )
    around = len(before) + len(after)
    least = around + tokenizer.text.size + len(empty) + 1
    if max_length < least:
        raise InvalidInputError(
            f"max_length={max_length} leaves no room for a pair in the prompt of {least - 1} tokens",
            argument="max_length",
            advice=f"use at least {least}, or a shorter prompt",
        )
    queries = {query: tokenizer.truncate(query, query_max_length) for query, _ in pairs}
    beginnings = [chat.pair.format(prompt=prompt, query=kept, passage="") for kept, _ in queries.values()]
    shared = {
        query: np.concatenate([before, tokenizer.text.parts[0], ids])
        for query, ids in zip(queries, tokenizer.ids(beginnings), strict=True)
    }
    texts = [chat.pair.format(prompt=prompt, query=queries[query][0], passage=passage) for query, passage in pairs]
    bodies, too_long = tokenize_texts(tokenizer, texts, "", max_length - around)
    sequences, truncated = [], {}
    for i, ((query, _), body) in enumerate(zip(pairs, bodies, strict=True)):
        ids = np.concatenate([before, body.ids, after])
        sequences.append(TokenSequence(ids, shared=_common_prefix(ids, shared[query])))
        cut = max(0, queries[query][1] - query_max_length)
        if cut or i in too_long:
            truncated[i] = around + too_long.get(i, len(body)) + cut
    return sequences, truncated


def _common_prefix(ids: np.ndarray, beginning: np.ndarray) -> int:
    """Return the number of leading tokens that both arrays have in common."""
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

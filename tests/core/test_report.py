"""Reports of calls, and the tokens of texts."""

import asyncio

import pytest
from conftest import BASE

from bge_integrations import load_embedder
from bge_integrations.core import report
from bge_integrations.errors import InvalidInputError, TextTooLongError

LONG = "hello " * 3000
TEXTS = ["a panda", LONG, "a panda", "", LONG]


def test_a_report_counts_repeated_texts_each_time(pocket):
    with report.collect() as collected:
        pocket.encode(TEXTS, on_truncate="ignore")
    lengths = [min(length, pocket.max_length) for length in pocket.count_tokens(TEXTS)]
    assert collected.tokens == sum(lengths)
    assert collected.characters == sum(map(len, TEXTS))
    assert collected.truncated == [1, 4]
    assert collected.computing_seconds > 0


def test_a_report_has_the_positions_that_are_too_long(pocket, pocket_reranker):
    with report.collect() as collected, pytest.raises(TextTooLongError):
        pocket.encode(TEXTS, on_truncate="error")
    assert collected.truncated == [1, 4]
    with report.collect() as collected:
        pocket_reranker.score([("a", "b"), ("a", LONG)], on_truncate="ignore")
    assert collected.truncated == [1]


async def test_tasks_have_reports_of_their_own(pocket):
    async def ask(texts):
        with report.collect() as collected:
            await pocket.aencode(texts)
        return collected.tokens

    counts = await asyncio.gather(*(ask(["panda"] * n) for n in (1, 2, 3)))
    assert counts == [counts[0], 2 * counts[0], 3 * counts[0]]
    assert report.current() is None


def test_tokens_are_those_that_the_model_sees(pocket):
    text = "Pandas eat bamboo."
    (tokens,) = pocket.tokens([text])
    assert (
        len(tokens)
        == pocket.count_tokens([text])[0]
        == len(pocket.encode([text], multi_vector=True).multi_vector[0]) + 1
    )
    assert [token.is_special for token in tokens] == [True] + [False] * (len(tokens) - 2) + [True]
    assert all(token.text == text[token.start : token.stop] for token in tokens if not token.is_special)
    weights = pocket.encode([text], sparse=True).sparse.to_dicts()[0]
    assert set(weights) <= {token.id for token in tokens}
    assert len(pocket.tokens([LONG], max_length=16)[0]) == 16
    assert pocket.tokens([]) == []


def test_tokens_of_the_instruction_have_no_place_in_the_text():
    with load_embedder(BASE) as base:
        (plain,), (instructed,) = base.tokens(["a panda"]), base.tokens(["a panda"], kind="query")
        assert [token for token in instructed if token.start is not None] == plain[1:-1]
        assert len(instructed) == base.count_tokens(["a panda"], kind="query")[0] > len(plain)


def test_decode_returns_a_text_with_the_same_tokens(pocket):
    ids = [token.id for token in pocket.tokens(["Pandas eat bamboo."])[0]]
    assert [token.id for token in pocket.tokens([pocket.decode(ids)])[0]] == ids
    for wrong in (-1, pocket.vocabulary_size, 1.5):
        with pytest.raises(InvalidInputError):
            pocket.decode([wrong])

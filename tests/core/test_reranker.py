"""The contract of `score`: bad input, truncation, shapes."""

import numpy as np
import pytest
from conftest import RERANKER, assert_close

from bge_integrations import load_reranker
from bge_integrations.errors import ClosedError, InvalidInputError, TextTooLongError, TruncationWarning

LONG = "long " * 2000


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("query passage", r"pairs.*\bstr\b"),
        (None, "pairs.*NoneType"),
        (["query", "passage"], r"pairs\[0\].*\bstr\b"),
        ([("query",)], r"pairs\[0\]"),
        ([("q", "p"), ("q", "p", "x")], r"pairs\[1\]"),
        ([("q", None)], r"pairs\[0\]\[1\] must be a str, got NoneType"),
        ([(3, "p")], r"pairs\[0\]\[0\] must be a str, got int"),
        ([("q", "\udfff")], r"pairs\[0\]\[1\] .*lone surrogate"),
        ([{"q": "p", "r": "s"}], r"pairs\[0\]"),
    ],
)
def test_bad_pairs_are_named(reranker, pairs, message):
    with pytest.raises(InvalidInputError, match=message):
        reranker.score(pairs)


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 0},
        {"max_length": 10**6},
        {"max_length": 8},
        {"max_length": 32, "query_max_length": 31},
        {"query_max_length": 513},
        {"query_max_length": 0},
        {"on_truncate": None},
    ],
)
def test_bad_options(reranker, options):
    with pytest.raises(InvalidInputError) as caught:
        reranker.score([("q", "p")], **options)
    assert caught.value.argument == next(iter(options))


def test_shapes_order_and_duplicates(reranker):
    assert reranker.score([]).shape == (0,)
    scores = reranker.score([("q", "a"), ("q", "b b b"), ["q", "a"]])
    assert scores.dtype == np.float32
    assert scores[0] == scores[2] != scores[1]
    assert_close(reranker.score([("q", "b b b"), ("q", "a")]), scores[[1, 0]])


def test_normalised_scores_are_the_sigmoid(reranker):
    pairs = [("q", "a"), ("q", "b b b")]
    assert_close(reranker.score(pairs, normalize=True), 1 / (1 + np.exp(-reranker.score(pairs).astype(float))))


def test_empty_texts_are_scored(reranker):
    assert np.isfinite(reranker.score([("", ""), ("q", ""), ("", "p")])).all()


def test_truncation_is_counted_warned_about_or_refused(reranker):
    with pytest.warns(TruncationWarning, match=r"\b2 of 3\b") as caught:
        reranker.score([("q", LONG), (LONG, "p"), ("q", "p")])
    assert caught[0].message.positions == (0, 1)
    assert caught[0].message.longest > caught[0].message.limit == reranker.max_length
    with pytest.raises(TextTooLongError, match="1 of 1"):
        reranker.score([("q", LONG)], on_truncate="error")


def test_only_the_passage_is_truncated_to_fit_the_query(reranker):
    """Passages that agree up to the truncation point score the same; so do queries up to query_max_length."""
    short = {"max_length": 24, "query_max_length": 10, "on_truncate": "ignore"}
    assert_close(reranker.score([("q", LONG)], **short), reranker.score([("q", LONG + "tail")], **short))
    assert_close(reranker.score([(LONG, "p")], **short), reranker.score([(LONG + "tail", "p")], **short))


def test_lengths_set_at_load_apply_to_calls():
    with load_reranker(RERANKER, max_length=24, query_max_length=10) as short, load_reranker(RERANKER) as plain:
        options = {"max_length": 24, "query_max_length": 10, "on_truncate": "ignore"}
        pair = [(LONG, LONG)]
        assert_close(short.score(pair, on_truncate="ignore"), plain.score(pair, **options))
    with pytest.raises(InvalidInputError, match="query_max_length"):
        load_reranker(RERANKER, max_length=24, query_max_length=30)


async def test_async_twin(reranker):
    pairs = [("q", "a"), ("q", "b b b")]
    assert_close(await reranker.ascore(pairs), reranker.score(pairs))
    assert_close(await reranker.ascore(pairs * 500, normalize=True), reranker.score(pairs * 500, normalize=True))


def test_closed_rerankers_raise():
    loaded = load_reranker(RERANKER)
    with loaded:
        pass
    with pytest.raises(ClosedError):
        loaded.score([("q", "p")])


def test_a_max_length_without_room_is_refused_at_load():
    with pytest.raises(InvalidInputError) as caught:
        load_reranker(RERANKER, max_length=4)
    assert caught.value.argument == "max_length"


def test_a_dict_is_not_a_list_of_pairs(reranker):
    with pytest.raises(InvalidInputError):
        reranker.score({"query": "passage"})

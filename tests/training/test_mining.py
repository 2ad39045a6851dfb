"""Hard negatives and teacher scores: the reference's, the filters, and determinism."""

import json

import numpy as np
import pytest
from conftest import BASE, M3, ORACLE, RERANKER, assert_close

from bge_integrations import load_embedder, load_reranker
from bge_integrations.errors import InvalidInputError
from bge_integrations.index import M3Index
from bge_integrations.scoring import hybrid_scores
from bge_integrations.training import TrainingRow, mine_negatives, read_rows, searching, teacher_scores, write_rows
from bge_integrations.training.choosing import words_of
from bge_integrations.training.texts import read_corpus

EXPECTED = json.loads((ORACLE / "training" / "mine_teach_mix.json").read_text("utf-8"))
ORACLE_MINING, ORACLE_TEACHING = EXPECTED["hard_negatives"], EXPECTED["teacher_scores"]
POOL = ORACLE_MINING["pool"]
#: The passages of the tests that need no oracle, from the pocket model's languages.
CORPUS = [f"{animal} {verb} {food}." for animal in ("Pandas", "Herons", "Cats") for verb in ("eat", "like")
          for food in ("bamboo", "fish", "grass", "milk")]  # fmt: skip
ROWS = [
    TrainingRow("What do pandas eat?", ("Pandas eat bamboo.",)),
    TrainingRow("Which food do herons like?", ("Herons like fish.", "Herons eat fish.")),
]


def rows_of(expected):
    return [TrainingRow(row["query"], tuple(row["pos"]), tuple(row["neg"])) for row in expected["rows"]]


@pytest.fixture(scope="module")
def mine(pocket):
    """Return a function that mines from CORPUS with the pocket model."""

    def run(rows=ROWS, **settings):
        defaults = {"corpus": CORPUS, "rank_range": (0, 30), "negatives": 100, "sampling": "top"}
        return mine_negatives(rows, pocket, **{**defaults, **settings})

    return run


@pytest.mark.parametrize("case", ORACLE_MINING["cases"], ids=lambda case: str(case["range"]))
@pytest.mark.filterwarnings("ignore::bge_integrations.errors.TruncationWarning")
def test_candidates_are_the_reference_s(case, monkeypatch):
    monkeypatch.setattr(searching, "_PASSAGES", 5)
    monkeypatch.setattr(searching, "_QUERIES", 3)
    mined = mine_negatives(
        rows_of(ORACLE_MINING),
        BASE,
        corpus=POOL,
        rank_range=tuple(case["range"]),
        negatives=50,
        query_max_length=ORACLE_MINING["max_length"],
        passage_max_length=ORACLE_MINING["max_length"],
    )
    eligible = [tuple(POOL[i] for i in places) for places in case["eligible_in_rank_order"]]
    assert [row.neg for row in mined.rows] == eligible
    assert mined.short == (0, 1, 2, 3)
    fewer = mine_negatives(rows_of(ORACLE_MINING), BASE, corpus=POOL, rank_range=tuple(case["range"]), negatives=2,
                           query_max_length=64, passage_max_length=64)  # fmt: skip
    for row, texts in zip(fewer.rows, eligible, strict=True):
        assert len(row.neg) == 2
        assert [texts.index(text) for text in row.neg] == sorted(texts.index(text) for text in row.neg)
    assert not fewer.short


@pytest.mark.filterwarnings("ignore::bge_integrations.errors.TruncationWarning")
def test_scores_are_the_reference_s():
    queries = [searching.Query(row.query, None, row.pos, (i,)) for i, row in enumerate(rows_of(ORACLE_MINING))]
    with load_embedder(BASE) as embedder:
        found = searching.search_exactly(
            queries, POOL, {None: embedder}, searching.Scoring("dense"), len(POOL), (64, 64), True, False
        )
    for ranking, scores, order, query in zip(
        found, ORACLE_MINING["scores"], ORACLE_MINING["ranking_by_pool_index"], queries, strict=True
    ):
        assert ranking.passages.tolist() == order
        assert_close(ranking.scores, np.array(scores)[order])
        assert_close(ranking.positives, [scores[POOL.index(text)] for text in query.positives])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.filterwarnings("ignore::bge_integrations.errors.TruncationWarning")
def test_teacher_scores_are_the_reference_s(normalize, tmp_path):
    output = tmp_path / "taught.jsonl"
    rows = teacher_scores(
        rows_of(ORACLE_TEACHING), RERANKER, output, normalize=normalize, max_length=ORACLE_TEACHING["max_length"]
    )
    assert tuple(read_rows(output)) == rows
    for row, expected in zip(rows, ORACLE_TEACHING["normalized" if normalize else "raw"], strict=True):
        assert_close(row.pos_scores, expected["pos_scores"])
        assert_close(row.neg_scores, expected["neg_scores"])


def test_several_teachers_are_averaged(pocket_reranker, reranker, tmp_path):
    rows = [TrainingRow("a panda", ("bamboo", "a bear"), ("fish",), (9.0, 9.0), (9.0,)), TrainingRow("x", ("y",))]
    pairs = [("a panda", "bamboo"), ("a panda", "a bear"), ("a panda", "fish"), ("x", "y")]
    expected = 0.25 * pocket_reranker.score(pairs) + 0.75 * reranker.score(pairs)
    taught = teacher_scores(rows, ["pocket", reranker], weights=[1, 3])
    assert_close([*taught[0].pos_scores, *taught[0].neg_scores, *taught[1].pos_scores], expected)
    assert taught[1].neg_scores == ()
    for wrong in ([1], [1, 0], [1, float("nan")], ["a", "b"]):
        with pytest.raises(InvalidInputError):
            teacher_scores(rows, ["pocket", "pocket"], tmp_path / "none", weights=wrong)
    with pytest.raises(InvalidInputError):
        teacher_scores(rows, [])
    assert not list(tmp_path.iterdir())


def test_hybrid_ranks_by_all_three_scores_of_m3(m3):
    rows = rows_of(ORACLE_MINING)[:2]
    weights = (0.5, 0.2, 0.3)
    kinds = {"sparse": True, "multi_vector": True}
    scores = hybrid_scores(
        m3.encode([row.query for row in rows], kind="query", **kinds),
        m3.encode(POOL, kind="passage", **kinds),
        weights,
    ).hybrid
    mined = mine_negatives(rows, M3, corpus=POOL, weights=weights, rank_range=(0, 9), negatives=9, sampling="top")
    for row, each in zip(mined.rows, scores, strict=True):
        best = [POOL[i] for i in np.argsort(-each)[:9]]
        assert list(row.neg) == [text for text in best if text not in (row.query, *row.pos)]


def test_a_positive_of_any_row_with_the_query_is_no_negative(mine):
    rows = [
        TrainingRow("What do pandas eat?", ("Pandas eat bamboo.",)),
        TrainingRow("what do Pandas eat", ("PANDAS  like bamboo!",), ("old",), (1.0,), (2.0,)),
        TrainingRow("Herons eat fish", ("Herons like fish.",)),
    ]
    corpus = [*CORPUS, "pandas, eat: bamboo", "Cats eat -- milk"]
    mined = mine(rows, corpus=corpus)
    for row in mined.rows[:2]:
        assert not {words_of(text) for text in row.neg} & {"pandas eat bamboo", "pandas like bamboo"}
        assert len(row.neg) == len({words_of(text) for text in row.neg}) == len(CORPUS) - 2
    assert "Herons eat fish." not in mined.rows[2].neg
    assert mined.dropped == {"positive": 7, "duplicate": 4, "query": 1}
    assert mined.rows[1].pos_scores is None
    assert mined.rows[1].neg_scores is None
    assert "old" not in mined.rows[1].neg


def test_margins_and_scores_drop_candidates_near_the_lowest_positive(mine, pocket):
    everything = mine()
    queries = pocket.encode_dense([row.query for row in ROWS], kind="query")
    by_row = [dict(zip(CORPUS, q @ pocket.encode_dense(CORPUS, kind="passage").T, strict=True)) for q in queries]
    for setting, most in (
        ({"margin": 0.1}, lambda lowest: lowest - 0.1),
        ({"margin": -0.1}, lambda lowest: lowest + 0.1),
        ({"relative_margin": 0.3}, lambda lowest: lowest - 0.3 * abs(lowest)),
        ({"max_score": 0.4}, lambda lowest: 0.4),
    ):
        for row, all_of_row, scores in zip(mine(**setting).rows, everything.rows, by_row, strict=True):
            limit = most(min(scores[text] for text in row.pos))
            assert list(row.neg) == [text for text in all_of_row.neg if scores[text] <= limit]
    kept = mine(min_score=0.4).rows
    assert all(scores[text] >= 0.4 for row, scores in zip(kept, by_row, strict=True) for text in row.neg)
    assert any(len(row.neg) < len(full.neg) for row, full in zip(kept, everything.rows, strict=True))
    # a positive that is not in the corpus has no rank, but its score counts
    outside = [TrainingRow("What do pandas eat?", ("Bamboo is what pandas eat.",))]
    assert len(mine(outside, rank_range=(0, len(CORPUS))).rows[0].neg) == len(CORPUS)
    assert 0 < len(mine(outside, margin=0.1).rows[0].neg) < len(CORPUS)


def test_a_judge_drops_what_it_scores_near_the_positive(mine, pocket_reranker):
    everything = mine()
    for margin in (0.0, 1.0):
        judged = mine(judge="pocket", judge_margin=margin)
        for row, full in zip(judged.rows, everything.rows, strict=True):
            scores = pocket_reranker.score([(row.query, text) for text in full.neg])
            limit = pocket_reranker.score([(row.query, text) for text in row.pos]).min() - margin
            assert list(row.neg) == [text for text, score in zip(full.neg, scores, strict=True) if score <= limit]
    # it is asked only until there are enough, and then its candidates are the same
    few = mine(judge=pocket_reranker, negatives=3)
    assert [row.neg for row in few.rows] == [row.neg[:3] for row in mine(judge="pocket").rows]


def test_the_seed_decides_and_nothing_else(mine):
    drawn = mine(negatives=4, sampling="random")
    assert drawn.rows == mine(negatives=4, sampling="random").rows
    assert drawn.rows != mine(negatives=4, sampling="random", seed=1).rows
    assert drawn.rows[:1] == mine(ROWS[:1], negatives=4, sampling="random").rows


def test_short_rows_are_reported_and_filled_only_if_asked(mine):
    short = mine(rank_range=(0, 5), negatives=10)
    assert short.short == (0, 1)
    assert short.filled == 0
    filled = mine(rank_range=(0, 5), negatives=10, fill=True)
    assert filled.short == (0, 1)
    assert filled.filled == sum(10 - len(row.neg) for row in short.rows)
    for row, before in zip(filled.rows, short.rows, strict=True):
        assert len(row.neg) == len(set(row.neg)) == 10
        assert row.neg[: len(before.neg)] == before.neg
        assert not set(row.neg) & set(row.pos)
    everything = mine(fill=True)  # more than there are
    assert [len(row.neg) for row in everything.rows] == [len(CORPUS) - 1, len(CORPUS) - 2]


def test_the_corpus_is_the_rows_texts_or_a_file(pocket, tmp_path):
    rows = [*ROWS, TrainingRow("Tiber", ("Rome lies on the Tiber.",), ("Cats eat milk.",))]
    mined = mine_negatives(rows, pocket, rank_range=(0, 10), sampling="top")
    assert set(mined.rows[0].neg) == {
        "Herons like fish.",
        "Herons eat fish.",
        "Rome lies on the Tiber.",
        "Cats eat milk.",
    }
    file = tmp_path / "corpus.jsonl"
    file.write_text(
        '\ufeff{"text": "a"}\n\n{"_id": "1", "title": "T", "text": "b"}\n{"text": "a"}\n{"text": " "}\n', "utf-8"
    )
    assert read_corpus(file) == ["a", "T b"]
    for content in ("", "[]\n", '{"text": 1}\n', "{\n"):
        file.write_text(content)
        with pytest.raises(InvalidInputError, match=r"corpus\.jsonl"):
            read_corpus(str(file))
    for wrong in (tmp_path / "none", [], ["a", 1]):
        with pytest.raises(InvalidInputError):
            read_corpus(wrong)


def test_a_row_s_prompt_replaces_the_instruction(base):
    """With another prompt, the ranking is that of another instruction."""
    query = ORACLE_MINING["rows"][0]["query"]
    positive = POOL[1]
    rows = [TrainingRow(query, (positive,)), TrainingRow(query, (positive,), prompt="hi panda retrieval: ")]
    settings = {"corpus": POOL, "rank_range": (0, 20), "sampling": "top"}
    mined = mine_negatives(rows, BASE, query_instruction="", **settings)
    passages = base.encode_dense(POOL, kind="passage")
    for row, text in zip(mined.rows, (query, f"hi panda retrieval: {query}"), strict=True):
        scores = passages @ base.encode_dense([text], kind=None)[0]
        ranked = [POOL[i] for i in np.argsort(-scores)]
        assert list(row.neg) == [each for each in ranked if each not in (query, positive)][:15]
    with pytest.raises(InvalidInputError):
        mine_negatives(rows, base, **settings)


def test_an_index_is_mined_in_hybrid_mode(pocket, tmp_path):
    with M3Index.open(tmp_path / "index", model=pocket) as index:
        index.add(CORPUS)
        settings = {"negatives": 50, "sampling": "top", "rank_range": (0, 30)}
        exact = mine_negatives(ROWS, pocket, corpus=CORPUS, mode="hybrid", margin=0.05, **settings)
        found = mine_negatives(ROWS, index, margin=0.05, **settings)
        assert [set(row.neg) for row in found.rows] == [set(row.neg) for row in exact.rows]
        assert found.dropped == exact.dropped
        dense = mine_negatives(ROWS, index, mode="dense", **settings)
        exact = mine_negatives(ROWS, pocket, corpus=CORPUS, **settings)
        assert [set(row.neg) for row in dense.rows] == [set(row.neg) for row in exact.rows]
        for wrong in ({"corpus": CORPUS}, {"fill": True}, {"query_max_length": 8}, {"query_instruction": "q"}):
            with pytest.raises(InvalidInputError) as error:
                mine_negatives(ROWS, index, **wrong)
            assert error.value.argument in wrong
        with pytest.raises(InvalidInputError):
            mine_negatives([TrainingRow("q", ("p",), prompt="x")], index)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank_range": (5, 5)},
        {"rank_range": (-1, 5)},
        {"rank_range": (0.5, 5)},
        {"rank_range": (1000, 2000)},
        {"negatives": 0},
        {"margin": float("nan")},
        {"judge_margin": float("inf")},
        {"sampling": "best"},
        {"mode": "sparse"},
        {"weights": (0, 0, 0)},
        {"mode": "dense", "weights": (1, 1, 1)},
        {"seed": -1},
    ],
)
def test_wrong_arguments_write_nothing(mine, wrong, tmp_path):
    with pytest.raises(InvalidInputError) as error:
        mine(output=tmp_path / "none.jsonl", **wrong)
    assert error.value.argument in (*wrong, None)
    assert not list(tmp_path.iterdir())


def test_outputs_are_not_replaced_unless_asked(mine, base, tmp_path):
    output = tmp_path / "mined.jsonl"
    mined = mine(output=output, negatives=3)
    assert tuple(read_rows(output)) == mined.rows
    with pytest.raises(InvalidInputError):
        mine(output=output, negatives=2)
    assert tuple(read_rows(output)) == mined.rows
    again = mine_negatives(output, base, output, corpus=POOL, rank_range=(0, 9), negatives=2, overwrite=True)
    assert tuple(read_rows(output)) == again.rows
    assert again.rows != mined.rows
    for wrong in (tmp_path, tmp_path / "none" / "file.jsonl", ""):
        with pytest.raises(InvalidInputError):
            teacher_scores(ROWS, "pocket", wrong)
    with pytest.raises(InvalidInputError):
        mine_negatives(ROWS, base, corpus=POOL, mode="hybrid")
    with pytest.raises(InvalidInputError):
        mine_negatives(ROWS, object())
    assert [file.name for file in tmp_path.iterdir()] == ["mined.jsonl"]


def test_rows_keep_their_other_fields(mine, tmp_path):
    row = TrainingRow("What do pandas eat?", ("Pandas eat bamboo.",), type="only_1neg", category="food")
    write_rows([row], tmp_path / "rows.jsonl")
    mined = mine(tmp_path / "rows.jsonl", negatives=1).rows[0]
    assert (mined.query, mined.pos, mined.type, mined.category) == (row.query, row.pos, "only_1neg", "food")
    with load_reranker("pocket") as reranker:
        assert teacher_scores(tmp_path / "rows.jsonl", reranker)[0].category == "food"

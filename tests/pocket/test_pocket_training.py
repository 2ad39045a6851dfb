"""Training the pocket models resumes where it stopped, and never uses a correct passage as a negative."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from pocket_training import loop, teacher
from pocket_training.bag import HIDDEN, Bag, bag_vectors, principal_directions
from pocket_training.batches import Batch, make_pairs
from pocket_training.data import Corpus, sections, with_specials
from pocket_training.embedder import (
    SPARSE_SCALE,
    PocketM3,
    all_scores,
    encode_sorted,
    lexical_weights,
    pad,
    start_from_bag,
    start_heads,
)
from pocket_training.mining import Texts, best_passages, bm25_weights, choose_negatives
from pocket_training.reranker import hybrid_scores, score_pairs
from pocket_training.reranker_start import pair_ids, start_reranker
from pocket_training.work_files import made_once


@pytest.fixture
def progress():
    with Progress(disable=True) as shown:
        yield shown


class Stopped(Exception):
    pass


def trained(state_file, progress, stop_at=None, steps=7):
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss_of(step):
        if step == stop_at:
            raise Stopped
        inputs = torch.from_numpy(np.random.default_rng([0, step]).standard_normal((4, 3)).astype(np.float32))
        loss = (model(inputs) - 1).square().mean()
        return loss, {"loss": loss.item()}

    loop.train(
        "test",
        model,
        [{"params": list(model.parameters()), "lr": 0.1}],
        loop.Schedule(steps, steps, 3),
        loss_of,
        state_file,
        progress,
    )
    return model.state_dict()


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path, progress, monkeypatch):
    monkeypatch.setattr(loop, "SAVED_EVERY", 2)
    straight = trained(tmp_path / "straight.pt", progress)
    with pytest.raises(Stopped):
        trained(tmp_path / "stopped.pt", progress, stop_at=5)
    resumed = trained(tmp_path / "stopped.pt", progress)
    for name, value in straight.items():
        assert torch.equal(resumed[name], value)


def make_corpus(titles, pairs, held_out=()):
    return Corpus(
        titles=list(titles),
        texts=[f"passage {i} of {title}" for i, title in enumerate(titles)],
        queries=[f"query {i}" for i in range(1 + max(query for query, _ in [*pairs, *held_out]))],
        pairs=np.array(pairs),
        held_out=np.array(held_out, dtype=np.int64).reshape(-1, 2),
        sections=sections(list(titles)),
    )


def test_sections_are_runs_of_one_title_and_untitled_passages_stand_alone():
    found = sections(["a", "a", "b", "", "", "a"])
    assert found.tolist() == [[0, 2], [0, 2], [2, 3], [3, 4], [4, 5], [5, 6]]


@pytest.fixture
def few_lessons(monkeypatch):
    """Make lessons of a small corpus."""
    monkeypatch.setattr(teacher, "_words", lambda corpus, folder: ["one", "word"])
    for name, value in (("SPANS", 5), ("JOINED", 3), ("PASSAGES", 6), ("JOINED_WORDS", 9)):
        monkeypatch.setattr(teacher, name, value)
    monkeypatch.setattr("pocket_training.batches.JOINED", 3)
    monkeypatch.setattr("pocket_training.batches.SPAN_PAIRS", 5)
    return lambda corpus, seed: teacher.lessons_of(corpus, Path(), seed)


@pytest.mark.parametrize("seed", range(10))
def test_the_teacher_never_reads_a_held_out_title_or_its_queries(few_lessons, seed):
    corpus = make_corpus("aaabbbcccddd", [(0, 0), (1, 4), (2, 9)], [(3, 6)])
    lessons = few_lessons(corpus, seed)
    assert not any(text.endswith(" c") or text == "query 3" for text in lessons.texts)
    for text, (first, end) in zip(lessons.texts, lessons.rows.tolist(), strict=True):
        assert all(corpus.texts[row] in text or text in corpus.texts[row] for row in range(max(first, 0), max(end, 0)))
        assert len({corpus.titles[row] for row in range(max(first, 0), max(end, 0))}) <= 1


@pytest.mark.parametrize("seed", range(10))
def test_every_pair_has_a_text_that_contains_its_passage(few_lessons, seed):
    corpus = make_corpus("aaabbbcccddd", [(0, 0), (1, 4), (2, 9), (2, 10), (3, 1)])
    lessons = few_lessons(corpus, seed)
    pairs = make_pairs(corpus, lessons, seed)
    known = {(corpus.queries[query], gold) for query, gold in corpus.pairs.tolist()}
    assert len(pairs) > 0
    for query, text, gold in zip(pairs.queries, pairs.texts, pairs.golds, strict=True):
        asked = lessons.texts[query]
        assert (asked, gold) in known or asked in corpus.texts[gold]
        assert corpus.texts[gold] in lessons.texts[text]


def test_a_text_that_contains_the_right_passage_is_not_a_negative():
    batch = Batch(
        queries=np.array([7, 8, 7]),
        texts=np.arange(5),
        golds=np.array([0, 5, 2]),
        rows=np.array([[0, 1], [5, 6], [2, 3], [4, 8], [1, 2]]),
    )
    assert batch.excluded().tolist() == [
        [False, False, True, False, False],  # column 2 answers the same query
        [False, False, False, True, False],  # column 3 is a stretch that contains passage 5
        [True, False, False, False, False],
    ]


def test_negatives_are_never_an_answer_or_its_neighbour():
    found = np.tile(np.arange(10, dtype=np.int32), (3, 1))
    queries, golds = np.array([0, 1, 0]), np.array([0, 6, 9])
    chosen = choose_negatives(list("aaaaaabbbb"), queries, golds, [found], 8, seed=0)
    assert set(chosen[0]) <= {4, 5, 6, 7, 8}
    assert set(chosen[1]) <= {0, 1, 2, 3, 4, 5}
    assert set(chosen[2]) <= {1, 2, 3, 4, 5}


def test_best_passages_add_dense_and_sparse_scores(progress, monkeypatch):
    from pocket_training import mining
    from scipy.sparse import csr_array

    monkeypatch.setattr(mining, "CANDIDATES", 3)
    monkeypatch.setattr(mining, "BLOCK", 2)
    rng = np.random.default_rng(0)
    queries, passages = (rng.standard_normal((n, 4)).astype(np.float32) for n in (5, 9))
    weights, others = (rng.random((n, 6)).astype(np.float32) for n in (5, 9))
    found = best_passages(Texts(queries, csr_array(weights)), Texts(passages, csr_array(others)), progress, "")
    exact = queries @ passages.T + weights @ others.T
    assert found.tolist() == np.argsort(-exact, axis=1)[:, :3].tolist()


def test_a_file_is_written_once_and_never_partially(tmp_path):
    def fail(out):
        out.write(b"half")
        raise Stopped

    with pytest.raises(Stopped):
        made_once(tmp_path / "a.npy", fail)
    assert not (tmp_path / "a.npy").exists()
    kept = made_once(tmp_path / "a.npy", lambda out: out.write(b"whole"))
    assert made_once(kept, fail).read_bytes() == b"whole"


@pytest.fixture(scope="module")
def texts():
    """Token ids of queries, each without repeated tokens, and of three passages per query."""
    generator = np.random.default_rng(0)
    queries = [generator.choice(np.arange(10, 200), 6, replace=False).astype(np.int32) for _ in range(3)]
    passages = [generator.integers(10, 200, size=size).astype(np.int32) for size in (5, 30, 12, 7, 9, 40, 3, 20, 21)]
    return queries, passages


def test_hybrid_scores_are_of_each_query_with_its_own_passages(texts):
    torch.manual_seed(0)
    model = PocketM3().eval()
    queries, passages = texts
    with torch.no_grad():
        query = encode_sorted(model, [with_specials(ids) for ids in queries], 1)
        passage = encode_sorted(model, [with_specials(ids) for ids in passages], 1)
        expected = all_scores(query, passage)["sum"].view(3, 3, 3)[torch.arange(3), torch.arange(3)]
    assert torch.allclose(hybrid_scores(model, queries, passages), expected, atol=1e-6)


def test_lexical_weights_rank_as_bm25_does(texts):
    _, passages = texts
    idf = np.random.default_rng(1).uniform(1, 8, 20_000).astype(np.float32)
    long = [np.tile(passage, 5) for passage in passages]
    weights = lexical_weights(pad(long), idf).numpy()
    exact = bm25_weights(long, idf)
    for row, (ids, own) in enumerate(zip(long, weights, strict=True)):
        expected = exact[[row]].toarray()[0]
        ratio = own[: len(ids)] * np.sqrt(idf[ids]) / expected[ids]
        assert np.ptp(ratio) < 0.35 * ratio.mean()
        assert 0 < ratio.mean() < 3 * SPARSE_SCALE


def test_the_untrained_embedder_returns_the_bags_vectors(texts):
    torch.manual_seed(0)
    bag, model = Bag(), PocketM3().eval()
    with torch.no_grad():
        bag.weight.normal_(std=0.05)
    start_from_bag(model, bag)
    _, passages = texts
    with torch.no_grad():
        vectors = encode_sorted(model, [with_specials(ids) for ids in passages], 1).dense.numpy()
    assert (vectors * bag_vectors(bag, passages)).sum(1).min() > 0.9


def test_principal_directions_keep_cosines_of_vectors_with_few_dimensions():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((500, 100)) @ rng.standard_normal((100, 384))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    turned = vectors @ principal_directions(vectors.astype(np.float32), seed=0)
    assert turned.shape == (500, HIDDEN)
    assert np.allclose(turned @ turned.T, vectors @ vectors.T, atol=1e-4)
    assert np.allclose(turned.mean(1), 0, atol=1e-5)


def test_a_new_reranker_ranks_the_passage_with_the_querys_words_first():
    """It does so before any training, because it starts from the embedder's late interaction."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    model = PocketM3().eval()
    start_from_bag(model, Bag())
    texts = [generator.integers(10, 5000, size=30).astype(np.int32) for _ in range(400)]
    start_heads(model, texts, generator.uniform(2, 8, 20_000).astype(np.float32), seed=0)
    reranker = start_reranker(model, texts, seed=0).eval()
    queries = [generator.choice(text, 5, replace=False) for text in texts[:4]]
    with torch.no_grad():
        logits = score_pairs(reranker, [pair_ids(q, p) for q in queries for p in texts[:4]], 1).view(4, 4)
    assert logits.argmax(1).tolist() == [0, 1, 2, 3]

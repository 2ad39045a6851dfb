"""Training the pocket models resumes where it stopped, and never uses a correct passage as a negative."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from pocket_training import loop
from pocket_training.batches import Batch, crop, stretch
from pocket_training.data import Corpus, Tokens, sections, with_specials
from pocket_training.embedder import PocketM3, all_scores, encode_sorted
from pocket_training.mining import Texts, best_passages, choose_negatives
from pocket_training.reranker import score_pairs, teacher_scores
from pocket_training.reranker_start import pair_ids, start_reranker
from pocket_training.work_files import made_once

import bge_integrations


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


def make_corpus(titles, lengths, pairs, held_out=()):
    texts = [np.arange(length, dtype=np.int32) for length in lengths]
    corpus = Corpus(
        titles=list(titles),
        texts=["" for _ in titles],
        queries=["" for _ in pairs],
        pairs=np.array(pairs),
        held_out=np.array(held_out),
        sections=sections(list(titles)),
    )
    return corpus, Tokens([np.empty(0, np.int32) for _ in titles], texts, [])


def test_sections_are_runs_of_one_title_and_untitled_passages_stand_alone():
    found = sections(["a", "a", "b", "", "", "a"])
    assert found.tolist() == [[0, 2], [0, 2], [2, 3], [3, 4], [4, 5], [5, 6]]


@pytest.mark.parametrize("row", range(6))
def test_a_stretch_holds_its_passage_stays_in_its_article_and_fits(row):
    corpus, tokens = make_corpus("aaaabb", [10, 20, 30, 40, 50, 60], [(0, 0)])
    for seed in range(20):
        first, end = stretch(row, corpus, tokens, 65, np.random.default_rng(seed))
        assert first <= row < end
        assert len(set(corpus.titles[first:end])) == 1
        assert end - first == 1 or sum(map(len, tokens.texts[first:end])) <= 65


def test_a_crop_and_the_rest_are_the_passage():
    ids = np.arange(50)
    for seed in range(20):
        query, rest = crop(ids, np.random.default_rng(seed))
        assert np.array_equal(np.unique(np.concatenate([query, rest])), ids)
        assert len(rest) in (len(ids), len(ids) - len(query))


def test_a_text_that_contains_the_right_passage_is_not_a_negative():
    batch = Batch(
        query_ids=[],
        passage_ids=[],
        queries=np.array([7, 8, 7]),
        golds=np.array([0, 5, 2]),
        firsts=np.array([0, 5, 2, 4, 1]),
        ends=np.array([1, 6, 3, 8, 2]),
    )
    assert batch.excluded().tolist() == [
        [False, False, True, False, False],  # column 2 answers the same query
        [False, False, False, True, False],  # column 3 is a stretch that contains passage 5
        [True, False, False, False, False],
    ]


def test_negatives_are_never_an_answer_or_its_neighbour():
    corpus, _ = make_corpus("aaaaaabbbb", [1] * 10, [(0, 0), (1, 6), (0, 9)])
    found = np.tile(np.arange(10, dtype=np.int32), (3, 1))
    chosen = choose_negatives(corpus, corpus.pairs, [found], 8, seed=0)
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


def test_the_teacher_scores_each_query_with_its_own_passages(texts):
    torch.manual_seed(0)
    teacher = PocketM3().eval()
    queries, passages = texts
    with torch.no_grad():
        query = encode_sorted(teacher, [with_specials(ids) for ids in queries], 1)
        passage = encode_sorted(teacher, [with_specials(ids) for ids in passages], 1)
        expected = all_scores(query, passage)["sum"].view(3, 3, 3)[torch.arange(3), torch.arange(3)]
    assert torch.allclose(teacher_scores(teacher, queries, passages), expected, atol=1e-6)


def test_a_new_reranker_ranks_the_passage_with_the_querys_words_first():
    """It does so before any training, because it starts from the weights of the bundled embedder."""
    model = PocketM3().eval()
    folder = Path(bge_integrations.__file__).parent / "pocket" / "embedder"
    model.trunk.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    for name in ("colbert_linear", "sparse_linear"):
        getattr(model, name).load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def ids(text):
        return np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    queries = ["what do giant pandas eat", "height of mount everest", "who founded rome"]
    passages = [
        "The giant panda lives in the mountains of China and eats bamboo, up to 38 kilograms of it a day.",
        "Mount Everest, the highest mountain above sea level, has a height of 8,849 metres.",
        "Rome was founded, legend says, by Romulus in 753 BC, on the banks of the Tiber.",
    ]
    tokens = Tokens([], [ids(text) for text in passages], [])
    reranker = start_reranker(model, tokens, seed=0).eval()
    with torch.no_grad():
        logits = score_pairs(reranker, [pair_ids(ids(q), ids(p)) for q in queries for p in passages], 1).view(3, 3)
    assert logits.argmax(1).tolist() == [0, 1, 2]

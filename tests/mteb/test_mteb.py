"""`mteb.evaluate` runs the adapters on tasks made of the bundled documents, without a network."""

import json
import shutil
import socket
from importlib import resources
from typing import ClassVar

import mteb
import numpy as np
import pytest
from conftest import BASE, CHECKPOINTS, M3, assert_close
from datasets import Dataset, DatasetDict
from mteb import ResultCache
from mteb._create_dataloaders import create_dataloader
from mteb.abstasks import AbsTaskClassification, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import CrossEncoderProtocol, EncoderProtocol, SearchProtocol
from mteb.types import PromptType

from bge_integrations import load_embedder, load_reranker
from bge_integrations.errors import InvalidInputError, TextTooLongError
from bge_integrations.mteb import BGECrossEncoder, BGEEncoder, BGEM3Search, m3_search
from bge_integrations.mteb.tasks import known_task
from bge_integrations.scoring import hybrid_scores

DEMO = resources.files("bge_integrations") / "demo_documents"
MODES = ["dense", "sparse", "multi_vector", "hybrid"]


def read(name):
    return [json.loads(line) for line in (DEMO / f"{name}.jsonl").read_text("utf-8").splitlines()]


#: Every question's answers, and enough other passages for a search to go wrong.
QUESTIONS = read("questions")
ANSWERS = {answer for question in QUESTIONS for answer in question["answer_ids"]}
PASSAGES = [p for i, p in enumerate(read("passages")) if p["id"] in ANSWERS or i % 4 == 0]
IDS = [passage["id"] for passage in PASSAGES]
TEXTS = [f"{passage['title']} {passage['text']}".strip() for passage in PASSAGES]
QUERY_TEXTS = [question["question"] for question in QUESTIONS]


def metadata(name, kind, main_score, **changes):
    return TaskMetadata(
        name=name,
        type=kind,
        main_score=main_score,
        **{
            "description": "Made of the bundled documents.",
            "dataset": {"path": "nowhere", "revision": "1"},
            "category": "t2t",
            "eval_langs": ["eng-Latn"],
            **changes,
        },
    )


class Questions(AbsTaskRetrieval):
    metadata = metadata("Questions", "Retrieval", "ndcg_at_10")
    instructions: ClassVar[dict[str, list[str]]] = {}

    def candidates(self):
        return None

    def load_data(self, num_proc=None, **kwargs):
        ids = [str(i) for i in range(len(QUESTIONS))]
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list([{k: p[k] for k in ("id", "title", "text")} for p in PASSAGES]),
                    "queries": Dataset.from_dict({"id": ids, "text": QUERY_TEXTS, **self.instructions}),
                    "relevant_docs": {
                        i: dict.fromkeys(q["answer_ids"], 1) for i, q in zip(ids, QUESTIONS, strict=True)
                    },
                    "top_ranked": self.candidates(),
                }
            }
        }
        self.data_loaded = True


class RerankedQuestions(Questions):
    """A reranking task: each question's answers and a few other passages."""

    metadata = metadata("RerankedQuestions", "Reranking", "map_at_1000")

    def candidates(self):
        found = {}
        for i, question in enumerate(QUESTIONS):
            others = [identifier for identifier in IDS[i::7] if identifier not in question["answer_ids"]][:12]
            found[str(i)] = [*others, *question["answer_ids"]]
        return found


class InstructedQuestions(Questions):
    metadata = metadata("InstructedQuestions", "InstructionRetrieval", "ndcg_at_10")
    instructions: ClassVar = {"instruction": ["Only about islands."] * len(QUESTIONS)}


class Pictures(Questions):
    metadata = metadata("Pictures", "Any2AnyRetrieval", "ndcg_at_10", category="i2i", modalities=["image"])


class Similar(AbsTaskSTS):
    metadata = metadata("Similar", "STS", "cosine_spearman")
    first: ClassVar = ["The giant panda eats bamboo.", "Rome lies on the Tiber.", "Iceland has no army.", "A volcano."]
    second: ClassVar = ["Pandas live on bamboo.", "Rome is a city in Italy.", "Bread is baked.", "An army."]
    scores: ClassVar = [5.0, 3.5, 0.5, 0.0]

    def load_data(self, num_proc=None, **kwargs):
        data = {"sentence1": self.first, "sentence2": self.second, "score": self.scores}
        self.dataset = DatasetDict({"test": Dataset.from_dict(data)})
        self.data_loaded = True


class Countries(AbsTaskClassification):
    metadata = metadata("Countries", "Classification", "accuracy")
    samples_per_label = 4
    n_experiments = 2

    def load_data(self, num_proc=None, **kwargs):
        texts = [
            f"{country} {words}" for country in ("Iceland", "Nepal") for words in ("coast", "people", "law", "sea")
        ]
        data = Dataset.from_dict({"text": texts, "label": [0] * 4 + [1] * 4})
        self.dataset = DatasetDict({"train": data, "test": data})
        self.data_loaded = True


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fail the test on any connection, even if a library would handle the error."""
    tried = []

    def refuse(self, address):
        tried.append(address)
        raise OSError(f"no network in this test: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert tried == []


def scores_of(model, task, **arguments):
    return evaluate(model, task, **arguments).task_results[0].scores["test"][0]


def evaluate(model, task, cache=None, **arguments):
    return mteb.evaluate(model, task, cache=cache, co2_tracker=False, show_progress_bar=False, **arguments)


def predictions(model, task, folder):
    evaluate(model, task, prediction_folder=folder)
    return json.loads((folder / task.prediction_file_name).read_text("utf-8"))["default"]["test"]


def ndcg_at_10(scores):
    """Compute nDCG@10 of (queries, passages) scores by definition: Σ relevance / log2(rank + 1) over the maximum."""
    found = []
    for row, question in zip(scores, QUESTIONS, strict=True):
        ranking = np.argsort(-row, kind="stable")[:10]
        gain = sum(1 / np.log2(rank + 2) for rank, i in enumerate(ranking) if IDS[i] in question["answer_ids"])
        found.append(gain / sum(1 / np.log2(rank + 2) for rank in range(min(10, len(question["answer_ids"])))))
    return float(np.mean(found))


def expected_scores(embedder, mode, weights=(1.0, 1.0, 1.0)):
    queries = embedder.encode(QUERY_TEXTS, kind="query", sparse=True, multi_vector=True)
    passages = embedder.encode(TEXTS, kind="passage", sparse=True, multi_vector=True)
    return getattr(hybrid_scores(queries, passages, weights), mode)


def loader(dataset, prompt_type=None, task=Questions, **arguments):
    return create_dataloader(dataset, task_metadata=task.metadata, prompt_type=prompt_type, **arguments)


def encode(model, texts, prompt_type, task=Questions):
    data = Dataset.from_dict({"id": [str(i) for i in range(len(texts))], "text": texts})
    return model.encode(
        loader(data, prompt_type), task_metadata=task.metadata, hf_split="test", hf_subset="", prompt_type=prompt_type
    )


def test_the_adapters_implement_mtebs_protocols(pocket, pocket_reranker):
    encoder, search, cross = BGEEncoder(pocket), BGEM3Search(pocket), BGECrossEncoder(pocket_reranker)
    protocols = (EncoderProtocol, SearchProtocol, CrossEncoderProtocol)
    assert [[isinstance(model, p) for p in protocols] for model in (encoder, search, cross)] == np.eye(3).tolist()


def test_retrieval_agrees_with_the_embedders_own_vectors(pocket):
    scores = expected_scores(pocket, "dense")
    assert scores_of(BGEEncoder(pocket), Questions())["ndcg_at_10"] == pytest.approx(ndcg_at_10(scores), abs=2e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk", [7, 2048])
def test_search_agrees_with_the_scoring_module(pocket, mode, chunk, monkeypatch, tmp_path):
    monkeypatch.setattr(m3_search, "_CHUNK_DOCUMENTS", chunk)
    monkeypatch.setattr(m3_search, "_BLOCK_QUERIES", 4)
    weights = (1.0, 0.25, 2.0)
    model = BGEM3Search(pocket, mode=mode, weights=weights if mode == "hybrid" else None)
    expected = expected_scores(pocket, mode, weights)
    arguments = {"encode_kwargs": {"batch_size": 5, "show_progress_bar": False}}
    found = scores_of(model, Questions(), **arguments)["ndcg_at_10"]
    assert found == pytest.approx(ndcg_at_10(expected), abs=2e-5)
    ranked = predictions(model, Questions(), tmp_path)
    for i, row in enumerate(expected):
        assert_close([ranked[str(i)][identifier] for identifier in IDS], row, 1e-5)


def test_modes_rank_differently(pocket):
    rankings = [tuple(np.argsort(-expected_scores(pocket, mode)[0]).tolist()) for mode in MODES]
    assert len(set(rankings)) == len(MODES)


@pytest.mark.parametrize(("mode", "top_k"), [("hybrid", 3), ("sparse", 100)])
def test_top_k_keeps_the_best_of_all_chunks(pocket, mode, top_k, monkeypatch):
    monkeypatch.setattr(m3_search, "_CHUNK_CHARACTERS", 2000)
    found = search(BGEM3Search(pocket, mode=mode), Questions(), top_k=top_k)
    expected = expected_scores(pocket, mode)
    assert mode != "sparse" or any(np.sort(row)[-100] == np.sort(row)[-101] for row in expected)  # some scores are tied
    for i, row in enumerate(expected):
        assert list(found[str(i)]) == [IDS[place] for place in np.argsort(-row, kind="stable")[:top_k]]


def search(model, task, *, top_k, **arguments):
    task.load_data()
    split = task.dataset["default"]["test"]
    about = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default", "num_proc": None}
    about["encode_kwargs"] = {"show_progress_bar": False}
    model.index(split["corpus"], **about)
    return model.search(split["queries"], top_k=top_k, **about, **arguments)


def test_scores_without_weight_are_not_computed(pocket, monkeypatch):
    asked = []
    encode = type(pocket).encode
    monkeypatch.setattr(type(pocket), "encode", lambda *args, **kwargs: asked.append(kwargs) or encode(*args, **kwargs))
    search(BGEM3Search(pocket, weights=(1, 0.3, 0)), Questions(), top_k=5)
    assert {(kwargs["dense"], kwargs["sparse"], kwargs["multi_vector"]) for kwargs in asked} == {(True, True, False)}


def test_each_document_is_encoded_once_and_the_corpus_is_released(pocket, monkeypatch):
    seen = []
    encode = type(pocket).encode

    def watched(self, texts, **kwargs):
        seen.extend(texts if kwargs["kind"] == "passage" else [])
        return encode(self, texts, **kwargs)

    monkeypatch.setattr(type(pocket), "encode", watched)
    model = BGEM3Search(pocket, mode="sparse")
    search(model, Questions(), top_k=5)
    assert seen == TEXTS
    split = {"task_metadata": Questions.metadata, "hf_split": "test", "hf_subset": "default"}
    with pytest.raises(InvalidInputError, match=r"index\(\)"):
        model.search(Dataset.from_dict({"id": ["1"], "text": ["x"]}), top_k=1, encode_kwargs={}, **split)


@pytest.mark.parametrize("mode", MODES)
def test_search_reranks_the_candidates_only(pocket, mode, monkeypatch, tmp_path):
    monkeypatch.setattr(m3_search, "_CHUNK_DOCUMENTS", 32)
    task = RerankedQuestions()
    expected, ranked = expected_scores(pocket, mode), predictions(BGEM3Search(pocket, mode=mode), task, tmp_path)
    for i, candidates in RerankedQuestions().candidates().items():
        assert set(ranked[i]) == set(candidates)
        chosen = [IDS.index(identifier) for identifier in ranked[i]]
        assert_close(list(ranked[i].values()), expected[int(i)][chosen], 1e-5)


def test_a_reranking_search_keeps_top_k_and_accepts_queries_without_candidates(pocket):
    candidates = {"0": IDS[:9] * 2, "2": []}  # a duplicate candidate counts once
    found = search(BGEM3Search(pocket, mode="dense"), Questions(), top_k=4, top_ranked=candidates)
    row = expected_scores(pocket, "dense")[0][:9]
    assert list(found["0"]) == [IDS[place] for place in np.argsort(-row)[:4]]
    assert [len(found[str(i)]) for i in range(1, len(QUESTIONS))] == [0] * (len(QUESTIONS) - 1)


def test_a_candidate_that_is_not_in_the_corpus_is_refused(pocket):
    with pytest.raises(InvalidInputError, match="'x'"):
        search(BGEM3Search(pocket), Questions(), top_k=4, top_ranked={"0": ["x", IDS[0]]})


@pytest.mark.parametrize("kind", ["encoder", "cross-encoder"])
def test_reranking(pocket, pocket_reranker, kind, tmp_path):
    model = BGEEncoder(pocket) if kind == "encoder" else BGECrossEncoder(pocket_reranker)
    ranked = predictions(model, RerankedQuestions(), tmp_path)
    candidates = RerankedQuestions().candidates()["3"]
    places = [IDS.index(identifier) for identifier in candidates]
    if kind == "encoder":
        expected = expected_scores(pocket, "dense")[3][places]
    else:
        expected = pocket_reranker.score([(QUERY_TEXTS[3], TEXTS[place]) for place in places])
    assert_close([ranked["3"][identifier] for identifier in candidates], expected, 1e-5)


def test_a_reranker_takes_the_results_of_a_search(pocket, pocket_reranker, tmp_path):
    found = predictions(BGEM3Search(pocket), Questions(), tmp_path / "found")
    candidates = Questions().convert_to_reranking(tmp_path / "found", top_k=5)
    ranked = predictions(BGECrossEncoder(pocket_reranker), candidates, tmp_path / "reranked")
    for i, query in enumerate(QUERY_TEXTS):
        assert set(ranked[str(i)]) == set(list(found[str(i)])[:5])
        pairs = [(query, TEXTS[IDS.index(identifier)]) for identifier in ranked[str(i)]]
        assert_close(list(ranked[str(i)].values()), pocket_reranker.score(pairs), 1e-5)


def test_each_side_gets_its_instruction_and_other_tasks_none():
    texts = ["Where do pandas live?", "hi"]
    with load_embedder(BASE, passage_instruction="Passage: ") as embedder:
        model = BGEEncoder(embedder)
        assert embedder.query_instruction
        vectors = {}
        for prompt_type, kind in ((PromptType.query, "query"), (PromptType.document, "passage"), (None, None)):
            vectors[kind] = encode(model, texts, prompt_type)
            assert_close(vectors[kind], embedder.encode(texts, kind=kind).dense)
        assert not np.allclose(vectors["query"], vectors[None], atol=1e-3)
        assert not np.allclose(vectors["passage"], vectors[None], atol=1e-3)


@pytest.mark.parametrize("folder", ["bge-multilingual-gemma2", "bge-en-icl"])
def test_a_model_that_is_told_the_task_gets_each_tasks_instruction(folder):
    texts = ["Where do pandas live?", "hi"]
    tasks = [
        ("NFCorpus", "Retrieval", "NFCorpus"),
        ("TwentyNewsgroupsClustering.v2", "Clustering", "TwentyNewsgroupsClustering"),
        ("OurOwnPairs", "STS", "sts"),
        ("OurOwnQuestions", "Retrieval", "web_search"),
    ]
    with load_embedder(CHECKPOINTS / folder) as embedder, load_embedder(CHECKPOINTS / folder, task="sts") as fixed:
        model = BGEEncoder(embedder)
        for name, kind, instructed in tasks:
            about = type("Task", (), {"metadata": metadata(name, kind, "accuracy")})
            expected = embedder.for_task(instructed)
            is_symmetric = kind != "Retrieval"
            for prompt_type in [None] if is_symmetric else [PromptType.query, PromptType.document]:
                text_kind = "passage" if prompt_type == PromptType.document else "query"
                found = encode(model, texts, prompt_type, about)
                assert_close(found, expected.encode(texts, kind=text_kind).dense)
        unknown = type("Task", (), {"metadata": metadata("OurOwnTopics", "Clustering", "accuracy")})
        assert_close(encode(model, texts, None, unknown), embedder.encode(texts).dense)
        own = encode(BGEEncoder(fixed), texts, PromptType.query)
        assert_close(own, fixed.encode(texts, kind="query").dense)
        told, untold = (BGEEncoder(e).mteb_model_meta.experiment_kwargs for e in (embedder, fixed))
        assert told["task_instructions"] is True
        assert "task_instructions" not in untold


@pytest.mark.parametrize(
    ("task", "subset", "known"),
    [("BrightRetrieval", "biology", "biology"), ("BrightLongRetrieval", "pony", "pony_long")],
)
def test_brights_subsets_are_tasks_of_their_own(task, subset, known):
    assert known_task(metadata(task, "Retrieval", "ndcg_at_10"), subset) == known


def test_a_search_gets_the_instructions_too(tmp_path):
    with load_embedder("pocket", query_instruction="Find the country: ", passage_instruction="A fact: ") as embedder:
        ranked = predictions(BGEM3Search(embedder), Questions(), tmp_path)
        expected = expected_scores(embedder, "hybrid")
    assert_close([ranked["0"][identifier] for identifier in IDS], expected[0], 1e-5)


@pytest.mark.parametrize("make", [BGEEncoder, BGEM3Search])
def test_a_querys_own_instruction_follows_the_query(pocket, make, tmp_path):
    model = make(pocket) if make is BGEEncoder else make(pocket, mode="dense")
    ranked = predictions(model, InstructedQuestions(), tmp_path)
    query = pocket.encode([f"{QUERY_TEXTS[0]} Only about islands."], kind="query").dense[0]
    expected = pocket.encode(TEXTS, kind="passage").dense @ query
    assert_close([ranked["0"][identifier] for identifier in IDS], expected, 1e-5)


def test_sts_is_computed_without_an_instruction():
    with load_embedder("pocket", query_instruction="Find: ", passage_instruction="Fact: ") as embedder:
        found = scores_of(BGEEncoder(embedder), Similar())
        first, second = embedder.encode(Similar.first).dense, embedder.encode(Similar.second).dense
    cosines = np.einsum("ij,ij->i", first, second)
    assert found["cosine_pearson"] == pytest.approx(np.corrcoef(cosines, Similar.scores)[0, 1], abs=1e-4)
    assert found["pearson"] == pytest.approx(found["cosine_pearson"], abs=1e-4)


def test_classification(pocket):
    assert scores_of(BGEEncoder(pocket), Countries())["accuracy"] > 0.8


def test_models_and_modes_never_share_cached_results(pocket, tmp_path):
    cache = ResultCache(tmp_path)
    short = load_embedder("pocket", truncate_dim=16)
    told = load_embedder("pocket", query_instruction="Find: ")
    models = [BGEEncoder(embedder) for embedder in (pocket, short, told)]
    models += [BGEM3Search(pocket, mode=mode) for mode in MODES]
    models += [BGEM3Search(pocket, weights=(0, 1, 0)), BGEM3Search(told)]
    results = [evaluate(model, Questions(), cache=cache) for model in models]
    files = list(tmp_path.rglob("Questions.json"))
    assert len(files) == len(models)
    names = [(result.model_name, result.model_revision) for result in results]
    assert len(set(names[3:-1])) == len(names[3:-1])  # each mode and each weighting has its own name
    scores = [result.task_results[0].get_score() for result in results]
    for model, score in zip(models, scores, strict=True):
        kept = evaluate(model, Questions(), cache=cache, overwrite_strategy="only-cache")
        assert kept.task_results[0].get_score() == score
    assert len(set(scores)) > 3
    short.close()
    told.close()


def test_the_settings_name_all_that_a_large_models_results_depend_on():
    examples = [{"query": "hi", "response": "hello"}]
    layerwise = "bge-reranker-v2-minicpm-layerwise"
    lightweight = {"cutoff_layers": 5, "compress_layers": [3]}
    metas = []
    for load, name, settings in [
        (load_embedder, "bge-en-icl", {}),
        (load_embedder, "bge-en-icl", {"examples": examples}),
        (load_embedder, "bge-en-icl", {"examples": examples, "task": "sts"}),
        (load_reranker, layerwise, {}),
        (load_reranker, layerwise, {"cutoff_layers": 3}),
        (load_reranker, layerwise, {"cutoff_layers": 3, "prompt": "Is B about A?"}),
        (load_reranker, "bge-reranker-v2.5-gemma2-lightweight", {"compress_ratio": 2, **lightweight}),
        (load_reranker, "bge-reranker-v2.5-gemma2-lightweight", {"compress_ratio": 4, **lightweight}),
    ]:
        with load(CHECKPOINTS / name, **settings) as loaded:
            adapter = BGEEncoder if load is load_embedder else BGECrossEncoder
            metas.append(adapter(loaded).mteb_model_meta)
    names = [(meta.name, meta.revision, meta.experiment_name) for meta in metas]
    assert len(set(names)) == len(names)


def test_a_reranker_with_several_cutoffs_is_refused():
    with (
        load_reranker(CHECKPOINTS / "bge-reranker-v2-minicpm-layerwise", cutoff_layers=[3, 6]) as reranker,
        pytest.raises(InvalidInputError, match="3, 6"),
    ):
        BGECrossEncoder(reranker)


def test_the_metadata_of_a_model(pocket, pocket_reranker, base):
    meta = BGEEncoder(base).mteb_model_meta
    assert meta.name == "BAAI/bge-base-en-v1.5"
    assert meta.revision == base.weights_digest  # a folder, not the hub's cache
    assert (meta.embed_dim, meta.max_tokens, meta.languages) == (base.dimension, base.max_length, ["eng-Latn"])
    assert (meta.use_instructions, meta.training_datasets, meta.n_parameters) == (True, None, None)
    meta = BGEM3Search(pocket, weights=(0.4, 0.2, 0.4)).mteb_model_meta
    assert meta.name == "bge_integrations/pocket-embedder-hybrid-0.4-0.2-0.4"
    assert (meta.model_type, meta.use_instructions) == (["hybrid"], False)
    meta = BGECrossEncoder(pocket_reranker).mteb_model_meta
    assert meta.name == "bge_integrations/pocket-reranker"
    assert meta.is_cross_encoder


def test_mteb_can_read_every_meta_back(pocket, pocket_reranker):
    models = [BGEEncoder(pocket), BGECrossEncoder(pocket_reranker), *(BGEM3Search(pocket, mode=mode) for mode in MODES)]
    for model in models:
        written = json.dumps(model.mteb_model_meta.to_dict(), default=str)
        fields = {k: v for k, v in json.loads(written).items() if k != "is_cross_encoder"}
        assert type(model.mteb_model_meta).model_validate(fields).name == model.mteb_model_meta.name


def test_a_local_folder_is_named_by_its_last_part(tmp_path):
    with load_embedder(shutil.copytree(M3, tmp_path / "mine")) as embedder:
        assert BGEEncoder(embedder).mteb_model_meta.name == "local/mine"


def test_inputs_without_text_are_refused(pocket, pocket_reranker):
    images = [{"image": [object()]}]
    about = {"task_metadata": Questions.metadata, "hf_split": "test", "hf_subset": "default"}
    with pytest.raises(InvalidInputError, match="image"):
        BGEEncoder(pocket).encode(images, **about)
    with pytest.raises(InvalidInputError, match="image"):
        BGECrossEncoder(pocket_reranker).predict([{"text": ["hi"]}], images, **about)


@pytest.mark.parametrize("make", [BGEEncoder, BGEM3Search])
def test_a_task_of_images_is_refused(pocket, make):
    with pytest.raises(ValueError, match="none overlap"):
        evaluate(make(pocket), Pictures())


@pytest.mark.parametrize("make", [BGEEncoder, BGEM3Search])
def test_an_encode_kwarg_that_would_do_nothing_is_refused(pocket, make):
    with pytest.raises(InvalidInputError, match="precision"):
        evaluate(make(pocket), Questions(), encode_kwargs={"precision": "int8"})


def test_a_reranker_refuses_such_an_encode_kwarg_too(pocket_reranker):
    about = {"task_metadata": Questions.metadata, "hf_split": "test", "hf_subset": "default"}
    with pytest.raises(InvalidInputError, match="precision"):
        BGECrossEncoder(pocket_reranker).predict([{"text": ["hi"]}], [{"text": ["hi"]}], precision="int8", **about)


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize("make", [BGEEncoder, BGEM3Search])
def test_the_bar_is_shown_unless_told_otherwise(pocket, make, shown, capfd):
    evaluate(make(pocket), Questions(), encode_kwargs={} if shown else {"show_progress_bar": False})
    assert ("bge:" in capfd.readouterr().err) is shown


def test_texts_that_are_too_long_can_be_refused():
    with load_embedder("pocket", max_length=8) as embedder:
        for model in (BGEEncoder(embedder, on_truncate="error"), BGEM3Search(embedder, on_truncate="error")):
            with pytest.raises(TextTooLongError):
                evaluate(model, Questions())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "lexical"}, "mode='lexical'"),
        ({"weights": (1, 1)}, "three numbers"),
        ({"weights": (0, 0, 0)}, "three numbers"),
        ({"mode": "dense", "weights": (1, 1, 1)}, "mode='dense'"),
        ({"weights": (1, -1, 1)}, "three numbers"),
        ({"on_truncate": "cut"}, "on_truncate"),
    ],
)
def test_bad_arguments(pocket, arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        BGEM3Search(pocket, **arguments)


def test_a_dense_model_has_no_other_modes(base):
    assert BGEM3Search(base, mode="dense").mteb_model_meta.name == "BAAI/bge-base-en-v1.5-dense"
    with pytest.raises(InvalidInputError, match=r"bge-base-en-v1.5.*dense"):
        BGEM3Search(base)


def test_a_model_from_the_hub_has_its_name_and_commit(run_as_user):
    run_as_user("""
from bge_integrations import load_embedder, load_reranker
from bge_integrations.mteb import BGECrossEncoder, BGEEncoder, BGEM3Search
m3, commit = load_embedder("BAAI/bge-m3"), "0" * 40
metas = [model.mteb_model_meta for model in (BGEEncoder(m3), BGEM3Search(m3, mode="sparse"))]
metas.append(BGECrossEncoder(load_reranker("BAAI/bge-reranker-v2-m3")).mteb_model_meta)
assert [meta.name for meta in metas] == ["BAAI/bge-m3", "BAAI/bge-m3-sparse", "BAAI/bge-reranker-v2-m3"]
assert {meta.revision for meta in metas} == {commit}
assert {meta.reference for meta in metas[:2]} == {"https://huggingface.co/BAAI/bge-m3"}
""")


def test_the_package_does_not_import_mteb(run_as_user):
    run_as_user("import sys, bge_integrations; bge_integrations.load_embedder; assert 'mteb' not in sys.modules")
    run_as_user(
        "import sys; sys.modules['mteb'] = None\n"
        "try:\n    import bge_integrations.mteb\n"
        "except ImportError as error:\n    assert 'pip install' in str(error)\n"
        "else:\n    raise AssertionError"
    )

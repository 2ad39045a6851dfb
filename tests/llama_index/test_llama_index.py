"""The LlamaIndex adapters: the contract, real stores, caches, copies, async."""

import copy
import pickle
import shutil
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from conftest import BASE, M3, RERANKER, assert_close
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index_contract import EmbeddingContract, NodePostprocessorContract
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from bge_integrations.core.residency import models_in_memory
from bge_integrations.errors import CheckpointNotFoundError, InvalidInputError, UnknownModelError
from bge_integrations.llama_index import BGEEmbedding, BGERerank, BGESparseEmbedding
from bge_integrations.models.encoder_model import EncoderModel

TEXTS = [
    "Pandas live in the bamboo forests of China.",
    "BM25 ranks documents by their words.",
    "hi",
    "A dense retriever compares vectors.",
]


class TestEmbeddingContract(EmbeddingContract):
    changes: ClassVar = {
        "model_name": M3,
        "query_instruction": "Represent: ",
        "text_instruction": "Represent: ",
        "normalize": False,
        "max_length": 8,
        "truncate_dim": 16,
        "pooling": "mean",
        "dtype": "bfloat16",
    }
    with_query_instruction: ClassVar = {}
    without_query_instruction: ClassVar = {"query_instruction": ""}

    def make(self, **fields):
        return BGEEmbedding(**{"model_name": BASE, **fields})


class TestRerankContract(NodePostprocessorContract):
    def make(self, **fields):
        return BGERerank(**{"model": RERANKER, **fields})


@pytest.fixture(scope="module")
def embedding():
    return BGEEmbedding(model_name=BASE)


@pytest.fixture(scope="module")
def rerank():
    return BGERerank(model=RERANKER)


def nodes(**fields):
    return [NodeWithScore(node=TextNode(text=text, id_=str(i), **fields), score=0.5) for i, text in enumerate(TEXTS)]


def test_defaults():
    assert BGEEmbedding.model_fields["model_name"].default == "BAAI/bge-base-en-v1.5"
    assert BGERerank.model_fields["model"].default == "BAAI/bge-reranker-v2-m3"
    assert BGERerank.model_fields["top_n"].default == 2


def test_vectors_are_the_cores(embedding, base):
    assert_close(embedding.get_text_embedding_batch(TEXTS), base.encode(TEXTS, kind="passage").dense)
    assert_close(embedding.get_query_embedding("hi"), base.encode(["hi"], kind="query").dense[0])
    short = BGEEmbedding(model_name=BASE, truncate_dim=16, text_instruction="Represent: ", normalize=False)
    expected = base.encode(["Represent: hi"], normalize=False).dense[:, :16]
    assert_close(short.get_text_embedding_batch(["hi"]), expected)


def test_a_local_folder_gets_the_models_instruction_and_none_is_none(embedding):
    assert embedding.get_query_embedding("hi") != embedding.get_text_embedding("hi")
    off = BGEEmbedding(model_name=BASE, query_instruction="")
    assert_close(off.get_query_embedding("hi"), off.get_text_embedding("hi"))
    m3 = BGEEmbedding(model_name=M3)
    assert_close(m3.get_query_embedding("hi"), m3.get_text_embedding("hi"))


def test_changed_settings_take_effect():
    changed = BGEEmbedding(model_name=BASE)
    before = changed.get_query_embedding("hi")
    changed.query_instruction = ""
    assert changed.get_query_embedding("hi") != before


def test_mistakes_fail_when_the_object_is_made():
    with pytest.raises(UnknownModelError, match="Did you mean"):
        BGEEmbedding(model_name="bge-bas-en")
    with pytest.raises(CheckpointNotFoundError, match="no folder"):
        BGEEmbedding(model_name="./nowhere")
    with pytest.raises(ValidationError, match="trust_remote_code"):
        BGEEmbedding(model_name=BASE, trust_remote_code=True)
    with pytest.raises(ValidationError, match="at least 1, or None"):
        BGERerank(model=RERANKER, top_n=0)
    with pytest.raises(ValidationError, match="score_threshold=nan"):
        BGERerank(model=RERANKER, score_threshold=float("nan"))
    with pytest.raises(InvalidInputError, match="is an embedder"):
        BGERerank(model=BASE)


def test_bad_texts_name_their_place(embedding):
    with pytest.raises(InvalidInputError, match=r"texts\[1\]"):
        embedding.get_text_embedding_batch(["fine", "\ud800"])
    with pytest.raises(InvalidInputError, match="one str"):
        embedding.get_query_embedding(["hi"])


def test_a_cache_tells_two_models_in_the_same_place_apart(tmp_path):
    """The settings are equal; the weights under the path are not."""
    model = tmp_path / "model"
    shutil.copytree(BASE, model)
    store = SimpleKVStore()
    settings = {"model_name": str(model), "family": "encoder", "pooling": "cls", "embeddings_cache": store}
    before = BGEEmbedding(**settings).get_text_embedding("hi")
    weights = load_file(model / "model.safetensors")
    save_file({name: weight * 1.1 for name, weight in weights.items()}, tmp_path / "new")
    (tmp_path / "new").replace(model / "model.safetensors")
    after = BGEEmbedding(**settings).get_text_embedding("hi")
    assert np.abs(np.subtract(before, after)).max() > 1e-3


def test_a_cache_serves_queries_with_text_vectors_where_they_are_the_same():
    store = SimpleKVStore()
    m3 = BGEEmbedding(model_name=M3, embeddings_cache=store)
    m3.get_text_embedding("hi")
    m3.get_query_embedding("hi")
    assert len(store.get_all("embeddings")) == 1


def test_a_cache_refuses_bad_texts_as_the_model_does():
    cached = BGEEmbedding(model_name=BASE, embeddings_cache=SimpleKVStore())
    for text in (None, 3, b"a", ["a"]):
        with pytest.raises(InvalidInputError, match="must be a str"):
            cached.get_query_embedding(text)
        with pytest.raises(InvalidInputError, match="must be a str"):
            cached.get_text_embedding_batch([text])


def test_a_cache_is_right_while_a_setting_changes():
    cached = BGEEmbedding(model_name=BASE, embeddings_cache=SimpleKVStore())
    plain = {text: BGEEmbedding(model_name=BASE, text_instruction=text) for text in ("", "Represent: ")}
    stop = threading.Event()

    def change():
        while not stop.is_set():
            cached.text_instruction = "" if cached.text_instruction else "Represent: "

    changing = threading.Thread(target=change)
    changing.start()
    texts = [f"text {i}" for i in range(50)]
    for text in texts:
        cached.get_text_embedding(text)
    stop.set()
    changing.join()
    for instruction, model in plain.items():
        cached.text_instruction = instruction
        assert_close([cached.get_text_embedding(text) for text in texts], model.get_text_embedding_batch(texts))


def test_a_copy_with_other_settings_does_not_take_turns_in_loading(monkeypatch):
    loads = []
    original = EncoderModel.__init__
    monkeypatch.setattr(EncoderModel, "__init__", lambda self, *given: loads.append(given) or original(self, *given))
    first = BGEEmbedding(model_name=BASE)
    second = first.model_copy(update={"model_name": M3})
    vectors = [first.get_query_embedding("hi"), second.get_query_embedding("hi")]
    before = len(loads)
    for _ in range(3):
        assert [first.get_query_embedding("hi"), second.get_query_embedding("hi")] == vectors
    assert len(loads) == before


def test_a_cache_after_a_change_does_not_load_for_every_call(model_uses):
    cached = BGEEmbedding(model_name=BASE, embeddings_cache=SimpleKVStore())
    cached.model_name = M3
    for model in (cached, copy.deepcopy(cached)):
        model.get_text_embedding("hi")
        model_uses.clear()
        for i in range(3):
            model.get_text_embedding(f"text {i}")
            model.get_query_embedding("hi")
        assert not model_uses


def test_changes_of_the_embedding_are_checked():
    changed = BGEEmbedding(model_name=BASE)
    changed.model_name = Path(M3)
    assert changed.to_dict()["model_name"] == M3
    with pytest.raises(ValidationError):
        changed.embed_batch_size = 0


@pytest.mark.parametrize("changed", [{"top_n": 0}, {"top_n": "many"}, {"score_threshold": float("nan")}])
def test_a_bad_change_of_the_reranker_is_refused(changed):
    rerank = BGERerank(model=RERANKER)
    ((field, value),) = changed.items()
    with pytest.raises(ValidationError):
        setattr(rerank, field, value)
    assert len(rerank.postprocess_nodes(nodes(), query_str="pandas")) == 2


@pytest.mark.parametrize("make", [BGEEmbedding, BGERerank, BGESparseEmbedding])
def test_model_dump_makes_a_twin(make):
    made = make(model=Path(RERANKER)) if make is BGERerank else make(model_name=Path(M3))
    assert make(**made.model_dump()).model_dump() == made.model_dump()


def test_in_an_ingestion_pipeline_with_processes(embedding):
    """The transformation is pickled to workers, each of which loads the model."""
    documents = [Document(text=text, id_=str(i)) for i, text in enumerate(TEXTS)]
    pipeline = IngestionPipeline(transformations=[embedding], disable_cache=True)
    found = pipeline.run(documents=documents, num_workers=2)
    by_text = {node.text: node.embedding for node in found}
    assert_close([by_text[text] for text in TEXTS], embedding.get_text_embedding_batch(TEXTS))


def test_the_ingestion_cache_answers_until_a_setting_changes(monkeypatch):
    computed = []
    batch = BGEEmbedding._get_text_embeddings
    monkeypatch.setattr(BGEEmbedding, "_get_text_embeddings", lambda self, t: computed.append(t) or batch(self, t))
    cache = IngestionCache()

    def run(**fields):
        documents = [Document(text=text, id_=str(i)) for i, text in enumerate(TEXTS)]
        pipeline = IngestionPipeline(transformations=[BGEEmbedding(model_name=BASE, **fields)], cache=cache)
        return [node.embedding for node in pipeline.run(documents=documents)]

    assert run() == run()
    assert len(computed) == 1
    assert run(text_instruction="Represent: ") != run()
    assert len(computed) == 2


async def test_retrieve_and_rerank(embedding, rerank, base, reranker):
    index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS], embed_model=embedding)
    found = await index.as_retriever(similarity_top_k=4).aretrieve("where do pandas live?")
    query = base.encode(["where do pandas live?"], kind="query").dense[0]
    expected = {text: float(score) for text, score in zip(TEXTS, base.encode(TEXTS).dense @ query, strict=True)}
    assert_close([node.score for node in found], [expected[node.text] for node in found])
    best = await rerank.apostprocess_nodes(found, query_str="where do pandas live?")
    scores = reranker.score([("where do pandas live?", text) for text in TEXTS])
    assert [node.text for node in best] == [TEXTS[i] for i in np.argsort(-scores)[:2]]


def test_thresholds_and_normalisation(reranker):
    scores = sorted(reranker.score([("pandas", text) for text in TEXTS]).tolist(), reverse=True)

    def kept(**fields):
        found = BGERerank(model=RERANKER, **fields).postprocess_nodes(nodes(), query_str="pandas")
        return [node.score for node in found]

    assert_close(kept(), scores[:2])
    assert_close(kept(top_n=None), scores)
    between = (scores[1] + scores[2]) / 2
    assert_close(kept(top_n=None, score_threshold=between), scores[:2])
    assert kept(score_threshold=1e9) == []
    normalised = kept(top_n=None, normalize=True)
    assert_close(normalised, 1 / (1 + np.exp(-np.array(scores))))
    assert len(kept(top_n=None, normalize=True, score_threshold=(normalised[0] + normalised[1]) / 2)) == 1


def test_metadata_mode_chooses_the_text(reranker):
    given = nodes(metadata={"title": "A title", "page": 3}, excluded_embed_metadata_keys=["page"])
    for mode, text in (
        (MetadataMode.NONE, TEXTS[0]),
        (MetadataMode.EMBED, f"title: A title\n\n{TEXTS[0]}"),
        (MetadataMode.ALL, f"title: A title\npage: 3\n\n{TEXTS[0]}"),
    ):
        found = BGERerank(model=RERANKER, top_n=None, metadata_mode=mode).postprocess_nodes(given[:1], query_str="q")
        assert_close([found[0].score], reranker.score([("q", text)]))


@pytest.mark.parametrize("mode", list(MetadataMode))
def test_a_kept_score_is_the_retrievers_and_never_read(mode):
    rerank = BGERerank(model=RERANKER, top_n=None, keep_retrieval_score=True, metadata_mode=mode)
    once = rerank.postprocess_nodes(nodes(metadata={"title": "A title"}), query_str="pandas")
    twice = rerank.postprocess_nodes(once, query_str="pandas")
    assert [node.score for node in twice] == [node.score for node in once]
    assert {node.metadata["retrieval_score"] for node in twice} == {0.5}
    assert twice[0].node.excluded_embed_metadata_keys == ["retrieval_score"]


def test_a_retrieval_score_of_the_users_own_is_text_as_any_other(reranker):
    given = nodes(metadata={"retrieval_score": "high"})
    found = BGERerank(model=RERANKER, top_n=None).postprocess_nodes(given[:1], query_str="q")
    assert_close([found[0].score], reranker.score([("q", f"retrieval_score: high\n\n{TEXTS[0]}")]))


def test_settings_embed_model_and_a_query_engine(monkeypatch):
    from llama_index.core.llms import MockLLM

    monkeypatch.setattr(Settings, "_embed_model", BGEEmbedding(model_name=M3))
    engine = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS]).as_query_engine(
        llm=MockLLM(), similarity_top_k=4, node_postprocessors=[BGERerank(model=RERANKER, top_n=2)]
    )
    assert len(engine.query("where do pandas live?").source_nodes) == 2


def test_ten_adapters_hold_one_copy_of_the_weights():
    from bge_integrations.chroma import BGEEmbeddingFunction
    from bge_integrations.core.session import Session
    from bge_integrations.langchain import BGEEmbeddings, BGEM3Retriever, BGEMilvusSparseEmbeddings, BGESparseEmbeddings

    loaded = []
    original = Session.__init__

    def recorded(self, *arguments):
        original(self, *arguments)
        loaded.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "__init__", recorded)
        adapters = [
            BGEEmbedding(model_name=M3),
            BGEEmbedding(model_name=M3, query_instruction="Find: "),
            BGESparseEmbedding(model_name=M3),
            pickle.loads(pickle.dumps(BGESparseEmbedding(model_name=M3))),
            BGEEmbeddings(model=M3),
            BGEEmbeddings(model=M3, max_length=64),
            BGESparseEmbeddings(model=M3),
            BGEMilvusSparseEmbeddings(model=M3),
            BGEEmbeddingFunction(model_name=M3),
            BGEM3Retriever.from_texts(TEXTS, model=M3),
        ]
        adapters[3].get_query_embedding("hi")
    assert len(loaded) >= len(adapters)
    assert len({id(session.model) for session in loaded}) == 1
    assert sum(key == loaded[0].key for key in models_in_memory()) == 1

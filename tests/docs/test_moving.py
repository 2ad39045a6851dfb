"""docs/moving.md: both blocks of each section run, and what the page says about vectors and scores is true."""

import ast
import re
import shutil

import pytest
from conftest import IMAGES, ORACLE, TESTS, VISUALIZED

PAGE = (TESTS.parent / "docs" / "moving.md").read_text("utf-8")
SECTIONS = {
    section.split("\n", 1)[0]: re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    for section in re.split(r"^## ", PAGE, flags=re.M)[1:]
}
PREAMBLE = """
import importlib.metadata, json, sys
import numpy as np
from pathlib import Path
from types import SimpleNamespace

def run(code):
    names = {}
    exec(code, names)
    return SimpleNamespace(**names)

def distance(found, expected):
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return np.abs(found - expected).max() / np.abs(expected).max()

def same(found, expected):
    assert distance(found, expected) < 1e-5, distance(found, expected)

def other(found, expected):
    assert distance(found, expected) > 1e-3, distance(found, expected)

QUESTION = "Represent this question for searching relevant passages: "
SENTENCE = "Represent this sentence for searching relevant passages: "
TEXTS = ["the giant panda eats bamboo.", "rome lies on the tiber.", "a"]  # all letters are in the tiny vocabularies
QUERY = "What do pandas eat?"
before, after, oracle = run(sys.argv[1]), run(sys.argv[2]), Path(sys.argv[3])
"""
IMAGE_MODEL = """
stored = json.loads((oracle / "vision" / "expected.json").read_text("utf-8"))
expected, images, texts = stored["models"][NAME], oracle / "vision" / "images", stored["texts"]
same(after.image, expected["image"]["shapes.png"]["emb"])
same(after.model.encode(texts).dense, expected["text"]["emb"])
found = after.model.encode([{"image": images / name} for name in expected["image"]]).dense
same(found, [each["emb"] for each in expected["image"].values()])
composed = [{"image": images / each["image"], "text": texts[each["text"]]} for each in expected["composed"]]
same(after.model.encode(composed).dense, [each["emb"] for each in expected["composed"]])
assert after.both.dtype == np.float32 and after.both.shape == after.text.shape == after.image.shape
"""
#: Sections whose old code can't run here, and what lets their new code run on the tiny checkpoints: (text, other text).
NOT_RUN = {
    "LayerWiseFlagLLMReranker": [("cutoff_layers=28", "cutoff_layers=4")],
    "LightWeightFlagLLMReranker": [("cutoff_layers=28", "cutoff_layers=5"), ("[24]", "[3]")],
    "Visualized_BGE": [("BAAI/bge-visualized-base-en-v1.5", VISUALIZED)],
    "AutoModel for BGE-VL": [],
}
LANGCHAIN = """
from bge_integrations.langchain import BGEEmbeddings
same(after.embeddings.embed_documents(TEXTS), before.embeddings.embed_documents(TEXTS))
other(after.embeddings.embed_query(QUERY), before.embeddings.embed_query(QUERY))
"""
LLAMA_INDEX_RERANKER = """
from llama_index.core.schema import NodeWithScore, TextNode
def nodes():
    return [NodeWithScore(node=TextNode(text=text, id_=text), score=0.5) for text in TEXTS]
given = nodes()
found = after.reranker.postprocess_nodes(given, query_str=QUERY)
expected = before.reranker.postprocess_nodes(nodes(), query_str=QUERY)
assert [node.node_id for node in found] == [node.node_id for node in expected]
same([node.score for node in found], [node.score for node in expected])
assert {node.score for node in given} == {0.5}
assert {type(node.score) for node in found} == {float}
"""
#: Each section's claims, as code that checks the results of its two blocks, `before` and `after`.
CLAIMS = {
    "HuggingFaceEmbeddings": LANGCHAIN
    + """
plain = BGEEmbeddings(model="BAAI/bge-small-en-v1.5", query_instruction="")
same(plain.embed_query(QUERY), before.embeddings.embed_query(QUERY))
from langchain_huggingface import HuggingFaceEmbeddings
told = HuggingFaceEmbeddings(model_name="BAAI/bge-small-en-v1.5", query_encode_kwargs={"prompt": SENTENCE})
same(after.embeddings.embed_query(QUERY), told.embed_query(QUERY))
wrong = HuggingFaceEmbeddings(model_name="BAAI/bge-small-en-v1.5", encode_kwargs={"prompt": SENTENCE})
other(after.embeddings.embed_documents(TEXTS), wrong.embed_documents(TEXTS))
""",
    "LlamaIndex's own BGEM3Index": """
assert [node.text for node in after.nodes] == [node.text for node in before.nodes] and len(after.nodes) == 2
for found, expected in zip(after.nodes, before.nodes):
    assert abs(found.score - expected.score) < 1e-3, (found.score, expected.score)
exact = type(after.index).from_documents(after.documents, weights=(0.4, 0.2, 0.4), multi_vectors="float32")
found = exact.as_retriever(similarity_top_k=2).retrieve("what do pandas eat?")
same([node.score for node in found], [node.score for node in before.nodes])
try:
    before.index.insert(before.documents[0])
except NotImplementedError:
    pass
else:
    raise AssertionError("it inserts now; say so")
after.index.delete_ref_doc("1")
assert list(after.index.ref_doc_info) == ["2"]
""",
    "HuggingFaceBgeEmbeddings": LANGCHAIN
    + """
from langchain_community.embeddings import HuggingFaceBgeEmbeddings
as_before = BGEEmbeddings(model="BAAI/bge-small-en-v1.5", query_instruction=QUESTION)
same(as_before.embed_query(QUERY), before.embeddings.embed_query(QUERY))
m3 = HuggingFaceBgeEmbeddings(model_name="BAAI/bge-m3")
same(BGEEmbeddings(model="BAAI/bge-m3").embed_documents(TEXTS), m3.embed_documents(TEXTS))
other(BGEEmbeddings(model="BAAI/bge-m3").embed_query(QUERY), m3.embed_query(QUERY))
same(BGEEmbeddings(model="BAAI/bge-m3", query_instruction=QUESTION).embed_query(QUERY), m3.embed_query(QUERY))
""",
    "HuggingFaceEmbedding": """
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from bge_integrations.llama_index import BGEEmbedding
old, new = before.embed_model, after.embed_model
same(new.get_text_embedding_batch(TEXTS), old.get_text_embedding_batch(TEXTS))
other(new.get_query_embedding(QUERY), old.get_query_embedding(QUERY))
as_before = BGEEmbedding(model_name="BAAI/bge-small-en-v1.5", query_instruction=QUESTION)
same(as_before.get_query_embedding(QUERY), old.get_query_embedding(QUERY))
empty = HuggingFaceEmbedding(model_name="BAAI/bge-small-en-v1.5", query_instruction="")
same(empty.get_query_embedding(QUERY), old.get_query_embedding(QUERY))
from huggingface_hub import snapshot_download
folder = snapshot_download("BAAI/bge-small-en-v1.5")
local = HuggingFaceEmbedding(model_name=folder)
same(local.get_query_embedding(QUERY), local.get_text_embedding(QUERY))
fields = ("model_name device max_length query_instruction text_instruction normalize cache_folder embed_batch_size "
          "num_workers show_progress_bar callback_manager")
assert set(fields.split()) <= set(BGEEmbedding.model_fields)
""",
    "FlagEmbeddingReranker": LLAMA_INDEX_RERANKER,
    "SentenceTransformerRerank": LLAMA_INDEX_RERANKER,
    "CrossEncoderReranker": """
from langchain_core.documents import Document
documents = [Document(text) for text in TEXTS]
found = after.reranker.compress_documents(documents, QUERY)
expected = before.reranker.compress_documents(documents, QUERY)
assert [document.page_content for document in found] == [document.page_content for document in expected]
scores = before.model.score([(QUERY, document.page_content) for document in found])
same([document.metadata["relevance_score"] for document in found], scores)
assert "relevance_score" not in expected[0].metadata
from bge_integrations.langchain import BGEReranker
long = [(QUERY, "word " * 300)]
longer = BGEReranker(model="BAAI/bge-reranker-v2-m3", normalize=True, max_length=1024)
same(longer.score(long), before.model.score(long))
""",
    "FlagModel": """
same(after.queries, before.queries)
same(after.passages, before.passages)
from FlagEmbedding import FlagModel
rounded = FlagModel("BAAI/bge-base-en-v1.5").encode_corpus(TEXTS)
exact = after.model.encode(TEXTS).dense
if importlib.metadata.version("FlagEmbedding") >= "1.4":
    assert 1e-5 < distance(rounded, exact) < 1e-2, distance(rounded, exact)
untold = FlagModel("BAAI/bge-base-en-v1.5", use_fp16=False).encode_queries([QUERY])
same(after.model.encode([QUERY]).dense, untold)
""",
    "FlagAutoModel": """
same(after.queries, before.queries)
same(after.passages, before.passages)
from FlagEmbedding import FlagAutoModel
plain = FlagAutoModel.from_finetuned("BAAI/bge-base-en-v1.5", use_fp16=False)
same(after.model.encode([QUERY]).dense, plain.encode_queries([QUERY]))
m3 = FlagAutoModel.from_finetuned("BAAI/bge-m3", use_fp16=False)
from bge_integrations import load_embedder
long = ["word " * 200]
old = m3.encode(long)["dense_vecs"]
same(load_embedder("BAAI/bge-m3").encode(long, max_length=512, on_truncate="ignore").dense, old)
other(load_embedder("BAAI/bge-m3").encode(long).dense, old)
""",
    "FlagLLMModel": """
same(after.queries, before.queries)
same(after.passages, before.passages)
from bge_integrations import load_embedder
own = load_embedder("BAAI/bge-multilingual-gemma2", query_instruction=before.instruction)
same(own.encode([QUERY], kind="query").dense, before.queries)
from FlagEmbedding import FlagLLMModel
plain = FlagLLMModel("BAAI/bge-multilingual-gemma2", use_fp16=False).encode_queries([QUERY])
same(load_embedder("BAAI/bge-multilingual-gemma2", query_instruction="").encode([QUERY], kind="query").dense, plain)
""",
    "FlagICLModel": """
same(after.queries, before.queries)
same(after.passages, before.passages)
from bge_integrations import load_embedder
instruct = before.examples[0]["instruct"]
own = load_embedder("BAAI/bge-en-icl", query_instruction=instruct, examples=before.examples)
same(own.encode([QUERY], kind="query").dense, before.queries)
""",
    "BGEM3FlagModel": """
same(after.dense, before.dense)
same(after.scores, before.scores)
same(after.colbert[0], before.colbert[0])
theirs = {int(token): float(weight) for token, weight in before.sparse[0].items()}
assert after.sparse[0].keys() == theirs.keys()
same([after.sparse[0][token] for token in theirs], list(theirs.values()))
long = ["word " * 200]
old = before.model.encode(long)["dense_vecs"]
same(after.model.encode(long, max_length=512, on_truncate="ignore").dense, old)
other(after.model.encode(long).dense, old)
""",
    "FlagReranker": """
pairs = [(QUERY, text) for text in TEXTS]
same(after.reranker.score(pairs), before.reranker.compute_score(pairs))
same(after.reranker.score(pairs, normalize=True), before.reranker.compute_score(pairs, normalize=True))
""",
    "FlagAutoReranker": """
pairs = [(QUERY, text) for text in TEXTS]
same(after.reranker.score(pairs), before.reranker.compute_score(pairs))
same(after.reranker.score(pairs[:1]), before.reranker.compute_score(pairs[0]))
""",
    "FlagLLMReranker": """
same(after.scores, before.scores)
pairs = [(QUERY, text) for text in TEXTS]
same(after.reranker.score(pairs, normalize=True), before.reranker.compute_score(pairs, normalize=True))
""",
    "LayerWiseFlagLLMReranker": """
from bge_integrations import load_reranker
stored = json.loads((oracle / "expected.json").read_text("utf-8"))
pairs, cases = stored["pairs"], {name: case["values"] for name, case in stored["cases"].items()}
same(after.reranker.score(pairs, on_truncate="ignore"), cases["layerwise"]["raw"])
several = load_reranker("BAAI/bge-reranker-v2-minicpm-layerwise", cutoff_layers=[3, 6])
same(several.score(pairs, on_truncate="ignore"), cases["layerwise_multi"]["raw"])
""",
    "LightWeightFlagLLMReranker": """
from bge_integrations import load_reranker
stored = json.loads((oracle / "expected.json").read_text("utf-8"))
pairs, cases = stored["pairs"], {name: case["values"] for name, case in stored["cases"].items()}
same(after.reranker.score(pairs, on_truncate="ignore"), cases["lightweight_c2"]["raw"])
plain = load_reranker("BAAI/bge-reranker-v2.5-gemma2-lightweight", cutoff_layers=5)
same(plain.score(pairs, on_truncate="ignore"), cases["lightweight"]["raw"])
""",
    "Visualized_BGE": IMAGE_MODEL.replace("NAME", "'visualized-base'"),
    "AutoModel for BGE-VL": IMAGE_MODEL.replace("NAME", "'bge-vl-clip'"),
    "Chroma's SentenceTransformerEmbeddingFunction": """
from bge_integrations.chroma import BGEEmbeddingFunction
assert after.collection.count() == 2
stored = after.collection.get(["1", "2"], include=["embeddings"])["embeddings"]
texts = after.collection.get(["1", "2"])["documents"]
function = BGEEmbeddingFunction(model_name="BAAI/bge-small-en-v1.5")
same(function(texts), stored)
other(function.embed_query([QUERY]), before.SentenceTransformerEmbeddingFunction("BAAI/bge-small-en-v1.5")([QUERY]))
plain = BGEEmbeddingFunction(model_name="BAAI/bge-small-en-v1.5", query_instruction="")
same(plain.embed_query([QUERY]), before.SentenceTransformerEmbeddingFunction("BAAI/bge-small-en-v1.5")([QUERY]))
assert after.collection.query(query_texts=[QUERY], n_results=1)["ids"]
try:
    after.client.get_collection("documents", embedding_function=function)
except ValueError as error:
    assert "already exists" in str(error)
else:
    raise AssertionError("the old collection can be opened by another function after all")
""",
}


def test_every_section_has_its_claims():
    assert SECTIONS.keys() == CLAIMS.keys()
    assert {len(blocks) for blocks in SECTIONS.values()} == {2}


@pytest.mark.parametrize("section", SECTIONS)
def test_moving_from(section, run_forked, tmp_path):
    shutil.copy(IMAGES / "shapes.png", tmp_path / "picture.png")
    before, after = SECTIONS[section]
    if section in NOT_RUN:
        ast.parse(before)
        before = ""
    for text, other in NOT_RUN.get(section, ()):
        assert text in after
        after = after.replace(text, other)
    run_forked(PREAMBLE + CLAIMS[section], before, after, str(ORACLE))

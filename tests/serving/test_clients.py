"""The clients that people use with other servers get from ours what the core computes."""

import asyncio
import base64

import cohere
import numpy as np
import openai
import pytest
from conftest import assert_close
from huggingface_hub import InferenceClient
from langchain_huggingface import HuggingFaceEndpointEmbeddings
from langchain_openai import OpenAIEmbeddings
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

TEXTS = ["Pandas eat bamboo.", "Rome lies on the Tiber.", ""]
QUERY = "What do pandas eat?"
PASSAGES = ["Rome lies on the Tiber.", "The giant panda eats bamboo.", "It rains."]
INSTRUCTED = "bge-base-en-v1.5"


@pytest.fixture(scope="module")
def dense(pocket) -> np.ndarray:
    return pocket.encode(TEXTS).dense


@pytest.fixture(scope="module")
def scores(pocket_reranker) -> np.ndarray:
    return pocket_reranker.score([(QUERY, passage) for passage in PASSAGES], normalize=True)


@pytest.fixture(scope="module")
def openai_client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        yield client


@pytest.mark.parametrize("encoding", [openai.omit, "float", "base64"])
def test_openai(openai_client, dense, encoding):
    answer = openai_client.embeddings.create(model="pocket", input=TEXTS, encoding_format=encoding)
    rows = [row.embedding for row in answer.data]
    if encoding == "base64":
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    assert_close(rows, dense)
    assert [row.index for row in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(TEXTS)


def test_openai_shortens_vectors(openai_client, pocket):
    answer = openai_client.embeddings.create(model="pocket", input=TEXTS[0], dimensions=16)
    expected = pocket.encode(TEXTS[:1]).dense[0, :16]
    assert_close(answer.data[0].embedding, expected / np.linalg.norm(expected))


def test_openai_tells_queries_by_the_name_of_the_model(openai_client, base):
    as_query = openai_client.embeddings.create(model=f"{INSTRUCTED}:query", input=QUERY).data[0].embedding
    as_passage = openai_client.embeddings.create(model=f"{INSTRUCTED}:passage", input=QUERY).data[0].embedding
    assert_close(as_query, base.encode([QUERY], kind="query").dense[0])
    assert_close(as_passage, base.encode([QUERY], kind="passage").dense[0])


def test_openai_lists_the_models(openai_client):
    assert {model.id for model in openai_client.models.list()} == {"pocket", INSTRUCTED, "text-embedding-3-small"}


def test_openai_async(server, dense):
    async def embed() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            answer = await client.embeddings.create(model="text-embedding-3-small", input=TEXTS)
        return [row.embedding for row in answer.data]

    assert_close(asyncio.run(embed()), dense)


def test_openai_raises_its_own_errors(openai_client):
    with pytest.raises(openai.NotFoundError) as caught:
        openai_client.embeddings.create(model="unknown", input="text")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        openai_client.embeddings.create(model="pocket", input=[])
    with pytest.raises(openai.UnprocessableEntityError) as unprocessable:
        openai_client.embeddings.create(model="pocket", input=[[5, 6, 7]])
    assert unprocessable.value.code == "invalid_tokens"


def test_cohere(server, base, pocket_reranker, scores):
    client = cohere.ClientV2(api_key="none", base_url=server.url)
    for kind, input_type in (("query", "search_query"), ("passage", "search_document")):
        found = client.embed(model=INSTRUCTED, texts=TEXTS, input_type=input_type, embedding_types=["float"])
        assert_close(found.embeddings.float_, base.encode(TEXTS, kind=kind).dense)
    ranked = client.rerank(model="pocket", query=QUERY, documents=PASSAGES, top_n=2)
    assert [result.index for result in ranked.results] == np.argsort(-scores).tolist()[:2]
    assert_close([result.relevance_score for result in ranked.results], np.sort(scores)[::-1][:2])


def test_cohere_number_formats(server, dense):
    formats = ["float", "int8", "uint8", "binary", "ubinary"]
    found = cohere.ClientV2(api_key="none", base_url=server.url).embed(
        model="pocket", texts=TEXTS, input_type="clustering", embedding_types=formats
    )
    int8, ubinary = np.array(found.embeddings.int8), np.array(found.embeddings.ubinary)
    assert_close(int8 / 127, dense, 0.03)
    assert (np.array(found.embeddings.uint8) - 128 == int8).all()
    assert (np.unpackbits(ubinary.astype(np.uint8), axis=1)[:, : dense.shape[1]] == (dense > 0)).all()
    assert (np.array(found.embeddings.binary) == ubinary - 128).all()


def test_langchain_openai(server, dense):
    embeddings = OpenAIEmbeddings(
        model="pocket", base_url=f"{server.url}/v1", api_key="none", check_embedding_ctx_length=False
    )
    assert_close(embeddings.embed_documents(TEXTS), dense)
    assert_close(embeddings.embed_query(TEXTS[0]), dense[0])


def test_langchain_huggingface(server, dense):
    embeddings = HuggingFaceEndpointEmbeddings()
    embeddings.client = InferenceClient(model=server.url)  # the constructor takes no URL
    assert_close(embeddings.embed_documents(TEXTS), dense)
    assert_close(embeddings.embed_query(TEXTS[0]), dense[0])


def test_inference_client(server, dense):
    client = InferenceClient(model=server.url)
    assert_close(client.feature_extraction(TEXTS[0]), dense[:1])
    assert_close(client.sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:]), dense[1:] @ dense[0])


def test_llama_index_openai(server, dense):
    embeddings = OpenAILikeEmbedding(model_name="pocket", api_base=f"{server.url}/v1", api_key="none")
    assert_close(embeddings.get_text_embedding_batch(TEXTS[:2]), dense[:2])


def test_llama_index_tei(server, pocket):
    embeddings = TextEmbeddingsInference(
        model_name="pocket", base_url=server.url, query_instruction="", text_instruction=""
    )
    # this client puts spaces around texts
    expected = pocket.encode([text.strip() for text in TEXTS[:2]]).dense
    assert_close(embeddings.get_text_embedding_batch(TEXTS[:2]), expected)
    assert_close(embeddings.get_query_embedding(TEXTS[0]), expected[0])


def test_llama_index_tei_rerank(server, scores):
    reranker = TextEmbeddingInference(base_url=server.url, top_n=2)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in PASSAGES]
    ranked = reranker.postprocess_nodes(nodes, QueryBundle(QUERY))
    assert [node.text for node in ranked] == [PASSAGES[i] for i in np.argsort(-scores)[:2]]

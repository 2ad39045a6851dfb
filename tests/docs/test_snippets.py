"""The snippets promised to users run as written; the test only supplies texts, a question and an LLM."""

import pytest

GIVEN = """
import ast, asyncio, sys
from llama_index.core import Document, Settings
from llama_index.core.llms import MockLLM

texts = ["Pandas eat bamboo.", "Rome lies on the Tiber.", "BM25 ranks by words.", "A retriever finds passages."]
documents, q = [Document(text=text) for text in texts], "What do pandas eat?"
Settings.llm = MockLLM()
names = {"texts": texts, "documents": documents, "q": q}
running = eval(compile(sys.argv[1], "snippet", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
if running:
    asyncio.run(running)
"""
SNIPPETS = {
    "rerank": """
from langchain_core.vectorstores import InMemoryVectorStore
from bge_integrations.langchain import BGEEmbeddings, BGEReranker
store = InMemoryVectorStore.from_texts(texts, BGEEmbeddings(model="BAAI/bge-small-en-v1.5"))
docs = BGEReranker(top_n=3).wrap(store.as_retriever(search_kwargs={"k": 20})).invoke(q)
docs[0].metadata["relevance_score"]
""",
    "qdrant": """
from langchain_qdrant import QdrantVectorStore, RetrievalMode
from bge_integrations.langchain import BGEEmbeddings
from bge_integrations.langchain import BGESparseEmbeddings
QdrantVectorStore.from_texts(texts, embedding=BGEEmbeddings(model="BAAI/bge-m3"),
    sparse_embedding=BGESparseEmbeddings(), retrieval_mode=RetrievalMode.HYBRID, location=":memory:")
""",
    "m3": """
from bge_integrations.langchain import BGEM3Retriever
docs = await BGEM3Retriever.from_texts(texts, k=5).ainvoke(q)
assert len(docs) == 4
""",
    "llama_index": """
from llama_index.core import Settings, VectorStoreIndex
from bge_integrations.llama_index import BGEEmbedding, BGERerank
Settings.embed_model = BGEEmbedding(model_name="BAAI/bge-m3")
engine = VectorStoreIndex.from_documents(documents).as_query_engine(
    similarity_top_k=20, node_postprocessors=[BGERerank(top_n=5)])
assert len(engine.query(q).source_nodes) == 4
""",
    "chroma": """
import chromadb
from bge_integrations.chroma import BGEEmbeddingFunction
chromadb.PersistentClient("db").get_or_create_collection("docs",
    embedding_function=BGEEmbeddingFunction(model_name="BAAI/bge-m3"))
""",
}


@pytest.mark.parametrize("name", SNIPPETS)
def test_snippet(name, run_forked):
    run_forked(GIVEN, SNIPPETS[name])

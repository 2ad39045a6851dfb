"""RAG pipelines in LlamaIndex: dense, hybrid and parent retrieval with reranking, chat, cited answers.

To run them: `python -m bge_integrations.pipelines.llama_index FOLDER "question"`. The LangChain version is
`langchain.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from bge_integrations.pipelines.command import Options, interrupted, left_out, missing, run

try:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.chat_engine.types import BaseChatEngine
    from llama_index.core.indices.vector_store import VectorIndexRetriever
    from llama_index.core.llms import LLM
    from llama_index.core.schema import IndexNode, NodeWithScore, QueryBundle, TextNode
    from llama_index.core.vector_stores import MetadataFilters
    from llama_index.vector_stores.chroma import ChromaVectorStore

    from bge_integrations.llama_index import BGEEmbedding, BGEM3Index, BGERerank
    from bge_integrations.pipelines.llama_index_engines import (
        CONDENSE_PROMPT,
        AnswerEngine,
        CitedResponse,
        CitingChatEngine,
        EarlierQuestionsChatEngine,
    )
except ImportError as error:
    raise missing(error, __name__) from error
except KeyboardInterrupt:
    raise interrupted(__name__) from None

from bge_integrations import load_reranker
from bge_integrations.documents.sync import sync
from bge_integrations.errors import UnreadableFileError
from bge_integrations.pipelines.answers import Answer
from bge_integrations.pipelines.extractive_answers import sentences
from bge_integrations.pipelines.passages import check_ids, passages_of
from bge_integrations.pipelines.stores import ChromaStore, IndexStore, index_folder, open_chroma

__all__ = [
    "AnswerEngine",
    "CitedResponse",
    "CitingChatEngine",
    "EarlierQuestionsChatEngine",
    "RerankedRetriever",
    "answer_engine",
    "chat_engine",
    "dense_retriever",
    "hybrid_retriever",
    "parent_retriever",
    "read_nodes",
]


def read_nodes(
    path: str | Path | None,
    model: str = "BAAI/bge-base-en-v1.5",
    on_unreadable: Callable[[UnreadableFileError], None] | None = None,
) -> list[TextNode]:
    """Return the passages of a file or folder as nodes; for arguments and errors see `passages.passages_of`.

    The models see only the text, not the metadata.
    """
    return [
        TextNode(
            id_=passage.id,
            text=passage.text,
            metadata=passage.metadata,
            excluded_embed_metadata_keys=list(passage.metadata),
            excluded_llm_metadata_keys=list(passage.metadata),
        )
        for passage in passages_of(path, model, on_unreadable)
    ]


def dense_retriever(
    nodes: Sequence[TextNode],
    folder: str | Path,
    *,
    model: str = "BAAI/bge-base-en-v1.5",
    reranker: str = "BAAI/bge-reranker-v2-m3",
    k: int = 20,
    top_n: int = 5,
    filters: MetadataFilters | None = None,
) -> BaseRetriever:
    """Return a retriever that searches dense vectors in Chroma and reranks the results.

    The folder is synced with the nodes: only new and changed ones are encoded, and those that are gone are deleted.

    Args:
        nodes: The nodes to search, with unique ids that stay the same from run to run.
        folder: Folder for Chroma's files; created if needed.
        model: Embedding model: hub id, folder, or "pocket".
        reranker: Reranker: hub id, folder, or "pocket".
        k: Number of nodes to rerank.
        top_n: Number of nodes to return.
        filters: Metadata filters, with operators that Chroma supports.

    Raises:
        InvalidInputError: There are no nodes, or two have the same id.
        WrongModelError: The folder contains the vectors of another model.
    """
    loaded = BGERerank(model=reranker, top_n=top_n)
    index = _chroma_index(nodes, folder, "llama-index-passages", model)
    retriever = VectorIndexRetriever(index, similarity_top_k=k, filters=filters)
    return RerankedRetriever(retriever, loaded)


@contextmanager
def hybrid_retriever(
    nodes: Sequence[TextNode],
    folder: str | Path,
    *,
    model: str = "BAAI/bge-m3",
    reranker: str = "BAAI/bge-reranker-v2-m3",
    k: int = 20,
    top_n: int = 5,
    filters: MetadataFilters | None = None,
) -> Iterator[BaseRetriever]:
    """Return a retriever that searches a BGEM3Index by bge-m3's three scores and reranks; `with` closes the index.

    Arguments and errors are the same as for `dense_retriever`, but the model must be of the bge-m3 family.

    Raises:
        IndexLockedError: The index is open in another process.
    """
    ids = check_ids([node.node_id for node in nodes])
    loaded = BGERerank(model=reranker, top_n=top_n)
    with BGEM3Index(path=index_folder(folder) / "llama-index-m3", model=model) as index:
        sync(IndexStore(index.m3_index, index.insert_nodes), zip(ids, nodes, strict=True))
        retriever = index.as_retriever(similarity_top_k=k, filters=filters)
        yield RerankedRetriever(retriever, loaded)


def parent_retriever(
    nodes: Sequence[TextNode],
    folder: str | Path,
    *,
    model: str = "BAAI/bge-base-en-v1.5",
    reranker: str = "BAAI/bge-reranker-v2-m3",
    k: int = 40,
    top_n: int = 5,
    filters: MetadataFilters | None = None,
) -> BaseRetriever:
    """Return a retriever that searches sentences in Chroma, and returns and reranks the nodes they are from.

    LlamaIndex's retrievers replace an `IndexNode` with the node it points to. Arguments and errors are the same as for
    `dense_retriever`, but k is the number of sentences.
    """
    parents = dict(zip(check_ids([node.node_id for node in nodes]), nodes, strict=True))
    loaded = BGERerank(model=reranker, top_n=top_n)
    parts = [
        IndexNode.from_text_node(node.model_copy(update={"id_": f"{parent}/{number}", "text": sentence}), parent)
        for parent, node in parents.items()
        for number, sentence in enumerate(sentences(node.text))
    ]
    index = _chroma_index(parts, folder, "llama-index-sentences", model)
    retriever = VectorIndexRetriever(index, similarity_top_k=k, filters=filters, object_map=parents)
    return RerankedRetriever(retriever, loaded)


def _chroma_index(nodes: Sequence[TextNode], folder: str | Path, name: str, model: str) -> VectorStoreIndex:
    ids = check_ids([node.node_id for node in nodes])
    embedding = BGEEmbedding(model_name=model)
    _, collection = open_chroma(folder, name, model)
    index = VectorStoreIndex.from_vector_store(ChromaVectorStore(chroma_collection=collection), embed_model=embedding)
    store = ChromaStore(collection, index.insert_nodes, lambda node: (node.get_content(), node.metadata))
    sync(store, zip(ids, nodes, strict=True))
    return index


class RerankedRetriever(BaseRetriever):
    """A retriever that reranks the results of another retriever."""

    def __init__(self, retriever: BaseRetriever, reranker: BGERerank) -> None:
        self._retriever = retriever
        self._reranker = reranker
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._reranker.postprocess_nodes(self._retriever.retrieve(query_bundle), query_bundle)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        nodes = await self._retriever.aretrieve(query_bundle)
        return await self._reranker.apostprocess_nodes(nodes, query_bundle)


def answer_engine(
    retriever: BaseRetriever,
    llm: LLM | None = None,
    *,
    reranker: str = "BAAI/bge-reranker-v2-m3",
    top_n: int = 3,
) -> AnswerEngine:
    """Return a query engine whose `query` and `aquery` return a `CitedResponse`.

    An LLM answers from the passages. Without one, the answer quotes the sentences that the reranker scores highest for
    the question. `Settings.llm` is ignored.

    Args:
        retriever: Retrieves the passages.
        llm: Any LlamaIndex LLM, or None.
        reranker: Scores the sentences without an LLM: hub id, folder, or "pocket".
        top_n: Number of sentences to quote without an LLM.

    Raises:
        InvalidInputError: On `query`, if the question is empty.
    """
    return AnswerEngine(retriever=retriever, model=load_reranker(reranker) if llm is None else llm, top_n=top_n)


def chat_engine(
    retriever: BaseRetriever,
    llm: LLM | None = None,
    *,
    reranker: str = "BAAI/bge-reranker-v2-m3",
    top_n: int = 3,
) -> BaseChatEngine:
    """Return a chat engine that remembers the conversation; answers and arguments are those of `answer_engine`.

    An LLM rewrites each question so that it stands on its own. Without one, the user's last three questions are
    prepended to it.
    """
    engine = answer_engine(retriever, llm, reranker=reranker, top_n=top_n)
    if llm is None:
        return EarlierQuestionsChatEngine(engine)
    return CitingChatEngine.from_defaults(engine, condense_question_prompt=CONDENSE_PROMPT, llm=llm)


def _ask(options: Options) -> Answer:
    nodes = read_nodes(options.path, options.model, left_out)
    retriever: AbstractContextManager[BaseRetriever]
    if options.pipeline == "hybrid":
        retriever = hybrid_retriever(nodes, options.index, model=options.model, reranker=options.reranker)
    else:
        make = dense_retriever if options.pipeline == "dense" else parent_retriever
        retriever = nullcontext(make(nodes, options.index, model=options.model, reranker=options.reranker))
    with retriever as opened:
        response = answer_engine(opened, reranker=options.reranker).custom_query(options.question)
    return Answer(str(response), response.sources)


if __name__ == "__main__":
    sys.exit(run("bge_integrations.pipelines.llama_index", _ask))

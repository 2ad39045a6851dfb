"""RAG pipelines in LlamaIndex: dense, hybrid and parent retrieval, each reranked; chat; answers with citations.

Run them: `python -m bge_integrations.pipelines.llama_index FOLDER "question"`. The same in LangChain: `langchain.py`.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bge_integrations.pipelines.command import Options, interrupted, left_out, missing, run

try:
    from llama_index.core import PromptTemplate, VectorStoreIndex
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.response.schema import Response
    from llama_index.core.chat_engine import CondenseQuestionChatEngine
    from llama_index.core.chat_engine.types import BaseChatEngine, StreamingAgentChatResponse
    from llama_index.core.indices.vector_store import VectorIndexRetriever
    from llama_index.core.llms import LLM, ChatMessage, MessageRole
    from llama_index.core.memory import Memory
    from llama_index.core.query_engine import CustomQueryEngine
    from llama_index.core.schema import IndexNode, NodeWithScore, QueryBundle, TextNode
    from llama_index.core.vector_stores import MetadataFilters
    from llama_index.vector_stores.chroma import ChromaVectorStore

    from bge_integrations.llama_index import BGEEmbedding, BGEM3Index, BGERerank
except ImportError as error:
    raise missing(error, __name__) from error
except KeyboardInterrupt:
    raise interrupted(__name__) from None

from bge_integrations import Reranker, load_reranker
from bge_integrations.documents.sync import sync
from bge_integrations.errors import NotSupportedError, UnreadableFileError
from bge_integrations.pipelines.answers import (
    CONDENSE,
    INSTRUCTION,
    NOTHING_FOUND,
    Answer,
    Source,
    after_earlier,
    check_question,
    cited_answer,
    numbered,
    quoted_answer,
)
from bge_integrations.pipelines.extractive_answers import sentences
from bge_integrations.pipelines.passages import check_ids, passages_of
from bge_integrations.pipelines.stores import ChromaStore, IndexStore, index_folder, open_chroma

_PROMPT = PromptTemplate(INSTRUCTION + "\n\n{passages}\n\nQuestion: {question}")
_CONDENSE_PROMPT = PromptTemplate(CONDENSE + "\n\n{chat_history}\n\nLast question: {question}")


def read_nodes(
    path: str | Path | None,
    model: str = "BAAI/bge-base-en-v1.5",
    on_unreadable: Callable[[UnreadableFileError], None] | None = None,
) -> list[TextNode]:
    """Return the passages of a file or folder as nodes; for arguments and errors see `passages.passages_of`.

    Models read only the text, not the metadata.
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
    """Search dense vectors in Chroma, and rerank.

    The folder is brought up to date with the nodes: unchanged ones cost no model run, those that are gone are deleted.

    Args:
        nodes: The nodes to search, each with an id that stays the same from run to run.
        folder: Chroma stores the vectors here; the folder is created if needed.
        model: Embedding model: hub id, folder, or "pocket".
        reranker: Reranker: hub id, folder, or "pocket".
        k: Number of nodes to rerank.
        top_n: Number of nodes to return.
        filters: On the metadata, with operators that Chroma supports.

    Raises:
        InvalidInputError: There are no nodes, or two have the same id.
        WrongModelError: The folder holds the vectors of another model.
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
    """Search by bge-m3's dense, sparse and multi-vector scores in a BGEM3Index, and rerank; `with` closes the index.

    Arguments and errors are as in `dense_retriever`; the model must be of the bge-m3 family.

    Raises:
        IndexLockedError: The folder's index is already open, here or in another process.
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
    """Search sentences by dense vectors in Chroma, and return the nodes they are from, reranked.

    LlamaIndex's retrievers replace an `IndexNode` by the node it points to. Arguments and errors are as in
    `dense_retriever`; k counts sentences.
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
    """Retrieves, then reranks."""

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
        retriever: Finds the passages.
        llm: Any LlamaIndex LLM, or None.
        reranker: Scores the sentences if there is no LLM: hub id, folder, or "pocket".
        top_n: Number of sentences to quote if there is no LLM.

    Raises:
        InvalidInputError: On `query`, if the question is empty.
    """
    return AnswerEngine(retriever=retriever, model=load_reranker(reranker) if llm is None else llm, top_n=top_n)


@dataclass
class CitedResponse(Response):
    """LlamaIndex's response; `source_nodes` are the cited passages, `sources` the same with their numbers."""

    sources: list[Source] = field(default_factory=list)


class AnswerEngine(CustomQueryEngine):
    """The query engine of `answer_engine`."""

    retriever: BaseRetriever
    model: LLM | Reranker
    """An LLM that answers, or a reranker that scores sentences to quote."""
    top_n: int
    """Number of sentences to quote if there is no LLM."""

    def custom_query(self, query_str: str) -> CitedResponse:
        nodes = self.retriever.retrieve(check_question(query_str))
        if isinstance(self.model, Reranker):
            return _quoted(query_str, nodes, self.model, self.top_n)
        text = self.model.predict(_PROMPT, **_fields(query_str, nodes)) if nodes else NOTHING_FOUND
        return _response(cited_answer(text, _sources(nodes)), nodes)

    async def acustom_query(self, query_str: str) -> CitedResponse:
        nodes = await self.retriever.aretrieve(check_question(query_str))
        if isinstance(self.model, Reranker):
            return await asyncio.to_thread(_quoted, query_str, nodes, self.model, self.top_n)
        text = await self.model.apredict(_PROMPT, **_fields(query_str, nodes)) if nodes else NOTHING_FOUND
        return _response(cited_answer(text, _sources(nodes)), nodes)


def _quoted(question: str, nodes: Sequence[NodeWithScore], reranker: Reranker, top_n: int) -> CitedResponse:
    return _response(quoted_answer(question, _sources(nodes), reranker, top_n), nodes)


def _fields(question: str, nodes: Sequence[NodeWithScore]) -> dict[str, str]:
    """Return what `_PROMPT` is filled with."""
    return {"passages": numbered(_sources(nodes)), "question": question}


def _sources(nodes: Sequence[NodeWithScore]) -> list[Source]:
    return [Source(i, scored.text, scored.metadata) for i, scored in enumerate(nodes, start=1)]


def _response(answer: Answer, nodes: Sequence[NodeWithScore]) -> CitedResponse:
    cited = [nodes[source.number - 1] for source in answer.sources]
    return CitedResponse(answer.text, source_nodes=cited, sources=answer.sources)


def chat_engine(
    retriever: BaseRetriever,
    llm: LLM | None = None,
    *,
    reranker: str = "BAAI/bge-reranker-v2-m3",
    top_n: int = 3,
) -> BaseChatEngine:
    """Return a chat engine that remembers the conversation and answers as `answer_engine` does, with its arguments.

    An LLM rewrites each question so that it can be understood without the conversation. Without one, the user's last
    three questions are put in front of it.
    """
    engine = answer_engine(retriever, llm, reranker=reranker, top_n=top_n)
    if llm is None:
        return EarlierQuestionsChatEngine(engine)
    return CitingChatEngine.from_defaults(engine, condense_question_prompt=_CONDENSE_PROMPT, llm=llm)


class CitingChatEngine(CondenseQuestionChatEngine):
    """The chat engine of `chat_engine`. It does not stream: the cited passages are known only when the answer is complete."""

    def stream_chat(self, *_: Any, **__: Any) -> StreamingAgentChatResponse:
        raise NotSupportedError("this chat engine does not stream; use chat")

    async def astream_chat(self, *_: Any, **__: Any) -> StreamingAgentChatResponse:
        raise NotSupportedError("this chat engine does not stream; use achat")


class EarlierQuestionsChatEngine(CitingChatEngine):
    """The chat engine of `chat_engine` without an LLM."""

    def __init__(self, query_engine: AnswerEngine) -> None:
        no_llm: Any = None
        super().__init__(query_engine, _CONDENSE_PROMPT, Memory.from_defaults(), no_llm)

    def _condense_question(self, chat_history: list[ChatMessage], last_message: str) -> str:
        return after_earlier(last_message, [str(m.content) for m in chat_history if m.role == MessageRole.USER])

    async def _acondense_question(self, chat_history: list[ChatMessage], last_message: str) -> str:
        return self._condense_question(chat_history, last_message)


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

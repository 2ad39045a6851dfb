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
from bge_integrations.pipelines.stores import delete_others, delete_outdated, index_folder, open_chroma

_PROMPT = PromptTemplate(INSTRUCTION + "\n\n{passages}\n\nQuestion: {question}")
_CONDENSE_PROMPT = PromptTemplate(CONDENSE + "\n\n{chat_history}\n\nLast question: {question}")


def read_nodes(
    path: str | Path | None,
    model: str = "BAAI/bge-base-en-v1.5",
    on_unreadable: Callable[[UnreadableFileError], None] | None = None,
) -> list[TextNode]:
    """The passages of a file or folder as nodes; arguments and errors as in `passages.passages_of`.

    Models read their text only, without the metadata.
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
    """Dense vectors in Chroma, reranked.

    The folder is kept up to date with the nodes: unchanged ones cost no model run, those that are gone are deleted.

    Args:
        nodes: What can be found, each with an id that stays the same from run to run.
        folder: Where Chroma keeps the vectors; made where there is none.
        model: Embedding model: hub id, folder, or "pocket".
        reranker: Likewise.
        k: How many nodes the reranker gets.
        top_n: How many it keeps.
        filters: On the metadata, with the operators that Chroma has.

    Raises:
        InvalidInputError: There are no nodes, or two have the same id.
        WrongModelError: The folder holds the vectors of another model.
    """
    loaded = BGERerank(model=reranker, top_n=top_n)
    index = _chroma_index(nodes, folder, "llama-index-passages", model)
    found = VectorIndexRetriever(index, similarity_top_k=k, filters=filters)
    return RerankedRetriever(found, loaded)


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
    """bge-m3's dense, sparse and multi-vector scores together in a BGEM3Index, reranked; `with` closes the index.

    Arguments and errors are as in `dense_retriever`; the model has to be of the bge-m3 family.

    Raises:
        IndexLockedError: The folder's index is open already, here or in another process.
    """
    ids = check_ids([node.node_id for node in nodes])
    loaded = BGERerank(model=reranker, top_n=top_n)
    with BGEM3Index(nodes=nodes, path=index_folder(folder) / "llama-index-m3", model=model) as index:
        delete_others(index.m3_index, ids)
        found = index.as_retriever(similarity_top_k=k, filters=filters)
        yield RerankedRetriever(found, loaded)


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
    """Searches sentences, by dense vectors in Chroma, and returns the nodes that they are from, reranked.

    LlamaIndex' retrievers follow an `IndexNode` to what it stands for. Arguments and errors are as in
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
    found = VectorIndexRetriever(index, similarity_top_k=k, filters=filters, object_map=parents)
    return RerankedRetriever(found, loaded)


def _chroma_index(nodes: Sequence[TextNode], folder: str | Path, name: str, model: str) -> VectorStoreIndex:
    ids = check_ids([node.node_id for node in nodes])
    embedding = BGEEmbedding(model_name=model)
    _, collection = open_chroma(folder, name, model)
    rows = {i: (node.text, node.metadata) for i, node in zip(ids, nodes, strict=True)}
    wanted = set(delete_outdated(collection, rows))
    index = VectorStoreIndex.from_vector_store(ChromaVectorStore(chroma_collection=collection), embed_model=embedding)
    index.insert_nodes([node for node in nodes if node.node_id in wanted])
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
        found = await self._retriever.aretrieve(query_bundle)
        return await self._reranker.apostprocess_nodes(found, query_bundle)


def answer_engine(
    retriever: BaseRetriever,
    llm: LLM | None = None,
    *,
    reranker: str = "BAAI/bge-reranker-v2-m3",
    top_n: int = 3,
) -> AnswerEngine:
    """A query engine whose `query` and `aquery` give a `CitedResponse`.

    With an LLM, that answers from the passages. With none the answer is made of quotes: the sentences that fit the
    question best, by the reranker. `Settings.llm` is not looked at.

    Args:
        retriever: Finds the passages.
        llm: Any LLM of LlamaIndex', or None.
        reranker: Without an LLM, scores the sentences: hub id, folder, or "pocket".
        top_n: Without an LLM, how many sentences.

    Raises:
        InvalidInputError: When it is asked, if the question is empty.
    """
    return AnswerEngine(retriever=retriever, model=load_reranker(reranker) if llm is None else llm, top_n=top_n)


@dataclass
class CitedResponse(Response):
    """LlamaIndex' response; `source_nodes` are the cited passages, `sources` the same with their numbers."""

    sources: list[Source] = field(default_factory=list)


class AnswerEngine(CustomQueryEngine):
    """What `answer_engine` makes."""

    retriever: BaseRetriever
    model: LLM | Reranker
    """What answers: an LLM, or the reranker that scores sentences."""
    top_n: int
    """How many sentences, without an LLM."""

    def custom_query(self, query_str: str) -> CitedResponse:
        nodes = self.retriever.retrieve(check_question(query_str))
        sources = _sources(nodes)
        if isinstance(self.model, Reranker):
            answer = quoted_answer(query_str, sources, self.model, self.top_n)
        elif sources:
            text = self.model.predict(_PROMPT, passages=numbered(sources), question=query_str)
            answer = cited_answer(text, sources)
        else:
            answer = Answer(NOTHING_FOUND, [])
        return _response(answer, nodes)

    async def acustom_query(self, query_str: str) -> CitedResponse:
        nodes = await self.retriever.aretrieve(check_question(query_str))
        sources = _sources(nodes)
        if isinstance(self.model, Reranker):
            answer = await asyncio.to_thread(quoted_answer, query_str, sources, self.model, self.top_n)
        elif sources:
            text = await self.model.apredict(_PROMPT, passages=numbered(sources), question=query_str)
            answer = cited_answer(text, sources)
        else:
            answer = Answer(NOTHING_FOUND, [])
        return _response(answer, nodes)


def _sources(nodes: Sequence[NodeWithScore]) -> list[Source]:
    return [Source(i, scored.text, scored.metadata) for i, scored in enumerate(nodes, start=1)]


def _response(answer: Answer, nodes: Sequence[NodeWithScore]) -> CitedResponse:
    return CitedResponse(
        answer.text, source_nodes=[nodes[source.number - 1] for source in answer.sources], sources=answer.sources
    )


def chat_engine(
    retriever: BaseRetriever,
    llm: LLM | None = None,
    *,
    reranker: str = "BAAI/bge-reranker-v2-m3",
    top_n: int = 3,
) -> BaseChatEngine:
    """A chat engine that remembers the conversation, and answers as `answer_engine` does; arguments as there.

    With an LLM, that rewrites each question so that it can be understood without the conversation. With none, the last
    three questions of the user are put in front of it.
    """
    engine = answer_engine(retriever, llm, reranker=reranker, top_n=top_n)
    if llm is None:
        return EarlierQuestionsChatEngine(engine)
    return CitingChatEngine.from_defaults(engine, condense_question_prompt=_CONDENSE_PROMPT, llm=llm)


class CitingChatEngine(CondenseQuestionChatEngine):
    """What `chat_engine` makes. It does not stream: which passages are cited is known when the answer is whole."""

    def stream_chat(self, *_: Any, **__: Any) -> StreamingAgentChatResponse:
        raise NotSupportedError("this chat engine does not stream; use chat")

    async def astream_chat(self, *_: Any, **__: Any) -> StreamingAgentChatResponse:
        raise NotSupportedError("this chat engine does not stream; use achat")


class EarlierQuestionsChatEngine(CitingChatEngine):
    """What `chat_engine` makes without an LLM."""

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

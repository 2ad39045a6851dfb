"""Query and chat engines of the LlamaIndex pipelines, which cite their sources."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_index.core import PromptTemplate
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.response.schema import Response
from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index.core.chat_engine.types import StreamingAgentChatResponse
from llama_index.core.llms import LLM, ChatMessage, MessageRole
from llama_index.core.memory import Memory
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.schema import NodeWithScore

from bge_integrations import Reranker
from bge_integrations.errors import NotSupportedError
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

_PROMPT = PromptTemplate(INSTRUCTION + "\n\n{passages}\n\nQuestion: {question}")
CONDENSE_PROMPT = PromptTemplate(CONDENSE + "\n\n{chat_history}\n\nLast question: {question}")


@dataclass
class CitedResponse(Response):
    """A LlamaIndex response: `source_nodes` are the cited passages, and `sources` adds their numbers."""

    sources: list[Source] = field(default_factory=list)


class AnswerEngine(CustomQueryEngine):
    """The query engine of `answer_engine`."""

    retriever: BaseRetriever
    model: LLM | Reranker
    """An LLM that answers, or a reranker that chooses sentences to quote."""
    top_n: int
    """Number of sentences to quote without an LLM."""

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
    """Return the variables of `_PROMPT`."""
    return {"passages": numbered(_sources(nodes)), "question": question}


def _sources(nodes: Sequence[NodeWithScore]) -> list[Source]:
    return [Source(i, scored.text, scored.metadata) for i, scored in enumerate(nodes, start=1)]


def _response(answer: Answer, nodes: Sequence[NodeWithScore]) -> CitedResponse:
    cited = [nodes[source.number - 1] for source in answer.sources]
    return CitedResponse(answer.text, source_nodes=cited, sources=answer.sources)


class CitingChatEngine(CondenseQuestionChatEngine):
    """The chat engine of `chat_engine`.

    It does not stream, because the cited passages are known only when the answer is complete.
    """

    def stream_chat(self, *_: Any, **__: Any) -> StreamingAgentChatResponse:
        raise NotSupportedError("this chat engine does not stream", advice="use chat")

    async def astream_chat(self, *_: Any, **__: Any) -> StreamingAgentChatResponse:
        raise NotSupportedError("this chat engine does not stream", advice="use achat")


class EarlierQuestionsChatEngine(CitingChatEngine):
    """The chat engine of `chat_engine` without an LLM."""

    def __init__(self, query_engine: AnswerEngine) -> None:
        no_llm: Any = None
        super().__init__(query_engine, CONDENSE_PROMPT, Memory.from_defaults(), no_llm)

    def _condense_question(self, chat_history: list[ChatMessage], last_message: str) -> str:
        return after_earlier(last_message, [str(m.content) for m in chat_history if m.role == MessageRole.USER])

    async def _acondense_question(self, chat_history: list[ChatMessage], last_message: str) -> str:
        return self._condense_question(chat_history, last_message)

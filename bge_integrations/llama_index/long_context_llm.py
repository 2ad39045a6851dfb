"""Long-context generators as LlamaIndex's LLM."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    TextBlock,
)
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM
from pydantic import AliasChoices

from bge_integrations.adapter_kit import LazyModel, arguments_of
from bge_integrations.adapter_kit.settings import GeneratorSettings, ModelName, ModelNameAlias, SamplingSettings
from bge_integrations.errors import InvalidInputError
from bge_integrations.generation import Context, Generation, Generator, load_generator
from bge_integrations.llama_index.component import Component

_ROLES = {MessageRole.SYSTEM: "system", MessageRole.USER: "user", MessageRole.ASSISTANT: "assistant"}
#: What a call may set differently.
_OF_A_CALL = ("max_new_tokens", "temperature", "top_p", "seed", "stop", "context")


class BGELongContextLLM(ModelNameAlias, Component, GeneratorSettings, SamplingSettings, CustomLLM):
    """An LLM for long documents: Activation Beacon, LongLLM-QLoRA, or any causal language model.

    Example:
        >>> from bge_integrations.llama_index import BGELongContextLLM
        >>> llm = BGELongContextLLM(model="namespace-Pt/beacon-qwen-2-7b-instruct")
        >>> context = llm.read("The giant panda eats bamboo.")  # once, for many questions
        >>> llm.complete("What does it eat?", context=context).text

    For a model with a chat template, `complete` sends its prompt as a user's message. The model is loaded when the
    object is created; copies, pickles and `to_dict` contain the settings, never the weights.
    """

    model: ModelName = Field(validation_alias=AliasChoices("model", "model_name"), min_length=1)
    """Hub id or checkpoint folder. `model_name=` works too."""

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=(), populate_by_name=True)

    _arguments = arguments_of(GeneratorSettings, model="model")
    _model: LazyModel[Generator] = PrivateAttr(default_factory=lambda: LazyModel(load_generator))

    @classmethod
    def class_name(cls) -> str:
        return "BGELongContextLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex needs to know of the model."""
        return LLMMetadata(
            context_window=self._generator.max_length,
            num_output=self.max_new_tokens,
            is_chat_model=self._generator.has_chat_template,
            model_name=self.model,
        )

    def read(self, document: str, *, system: str | None = None) -> Context:
        """Read a document once, for many questions: `complete(question, context=context)`. See `Generator.read`."""
        return self._generator.read(document, system=system)

    def load_context(self, path: str | os.PathLike[str]) -> Context:
        """Load a context that was saved with `Context.save`. See `Generator.load_context`."""
        return self._generator.load_context(path)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the answer to a prompt."""
        return _completion(self._generator.generate(prompt, **self._call(kwargs)))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the answer to a prompt without blocking the event loop."""
        generator: Generator = await self._aloaded()
        return _completion(await generator.agenerate(prompt, **self._call(kwargs)))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Return the answer to a prompt in pieces."""
        stream = self._generator.stream(prompt, **self._call(kwargs))

        def pieces() -> CompletionResponseGen:
            text = ""
            for piece in stream:
                text += piece
                yield CompletionResponse(text=text, delta=piece)

        return pieces()

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Return the answer to a prompt in pieces without blocking the event loop."""
        generator: Generator = await self._aloaded()
        stream = generator.astream(prompt, **self._call(kwargs))

        async def pieces() -> CompletionResponseAsyncGen:
            text = ""
            try:
                async for piece in stream:
                    text += piece
                    yield CompletionResponse(text=text, delta=piece)
            finally:
                await stream.aclose()

        return pieces()

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the answer to messages."""
        return _answer(self._generator.generate(_messages(messages), **self._call(kwargs)))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the answer to messages without blocking the event loop."""
        generator: Generator = await self._aloaded()
        return _answer(await generator.agenerate(_messages(messages), **self._call(kwargs)))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Return the answer to messages in pieces."""
        stream = self._generator.stream(_messages(messages), **self._call(kwargs))

        def pieces() -> ChatResponseGen:
            text = ""
            for piece in stream:
                text += piece
                yield ChatResponse(message=_said(text), delta=piece)

        return pieces()

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Return the answer to messages in pieces without blocking the event loop."""
        generator: Generator = await self._aloaded()
        stream = generator.astream(_messages(messages), **self._call(kwargs))

        async def pieces() -> ChatResponseAsyncGen:
            text = ""
            try:
                async for piece in stream:
                    text += piece
                    yield ChatResponse(message=_said(text), delta=piece)
            finally:
                await stream.aclose()

        return pieces()

    @property
    def _generator(self) -> Generator:
        loaded: Generator = self._loaded()
        return loaded

    def _call(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of a call: those passed with it, otherwise the LLM's own."""
        unknown = kwargs.keys() - set(_OF_A_CALL)
        if unknown:
            raise InvalidInputError(
                f"{', '.join(sorted(unknown))} can't be set for a call", advice=f"use {', '.join(_OF_A_CALL)}"
            )
        own = {name: getattr(self, name) for name in SamplingSettings.model_fields}
        return {**own, **kwargs}


def _completion(generated: Generation) -> CompletionResponse:
    return CompletionResponse(text=generated.text, additional_kwargs=_usage(generated))


def _answer(generated: Generation) -> ChatResponse:
    return ChatResponse(message=_said(generated.text), additional_kwargs=_usage(generated))


def _said(text: str) -> ChatMessage:
    return ChatMessage(role=MessageRole.ASSISTANT, content=text)


def _usage(generated: Generation) -> dict[str, Any]:
    return {
        "prompt_tokens": generated.prompt_tokens,
        "completion_tokens": generated.new_tokens,
        "total_tokens": generated.prompt_tokens + generated.new_tokens,
        "finish_reason": generated.finish_reason,
    }


def _messages(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    """Return LlamaIndex's messages as the generator's."""
    converted = []
    for i, message in enumerate(messages):
        role = _ROLES.get(message.role)
        if role is None or not all(isinstance(block, TextBlock) for block in message.blocks):
            raise InvalidInputError(
                f"messages[{i}] is of the {message.role.value} or has more than text",
                argument="messages",
                advice="pass texts of the system, the user and the assistant",
            )
        converted.append({"role": role, "content": message.content or ""})
    return converted

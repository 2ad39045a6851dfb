"""Long-context generators as LangChain's chat model."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import AliasChoices, ConfigDict, Field, PrivateAttr

from bge_integrations.adapter_kit import HoldsModel, LazyModel, arguments_of
from bge_integrations.adapter_kit.settings import GeneratorSettings, ModelName, ModelNameAlias, SamplingSettings
from bge_integrations.errors import InvalidInputError
from bge_integrations.generation import Context, Generation, Generator, load_generator

if TYPE_CHECKING:
    from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun

#: The roles of LangChain's messages.
_ROLES = {"system": "system", "human": "user", "ai": "assistant"}
#: What a call may set differently, beside `stop`.
_OF_A_CALL = ("max_new_tokens", "max_tokens", "temperature", "top_p", "seed", "context")


class BGELongContextChat(ModelNameAlias, HoldsModel, GeneratorSettings, SamplingSettings, BaseChatModel):
    """A chat model for long documents: Activation Beacon, LongLLM-QLoRA, or any causal language model.

    Example:
        >>> from bge_integrations.langchain import BGELongContextChat
        >>> chat = BGELongContextChat(model="namespace-Pt/beacon-qwen-2-7b-instruct")
        >>> context = chat.read("The giant panda eats bamboo.")  # once, for many questions
        >>> chat.bind(context=context).invoke("What does it eat?").text

    The model is loaded when the object is created. Copies and pickles contain the settings, never the weights.
    """

    model: ModelName = Field(validation_alias=AliasChoices("model", "model_name"), min_length=1)
    """Hub id or checkpoint folder. `model_name=` works too."""
    max_new_tokens: int = Field(default=512, ge=1, validation_alias=AliasChoices("max_new_tokens", "max_tokens"))
    """Maximum number of tokens of an answer. `max_tokens=` works too."""

    model_config = ConfigDict(
        populate_by_name=True, validate_assignment=True, arbitrary_types_allowed=True, protected_namespaces=()
    )

    _arguments = arguments_of(GeneratorSettings, model="model")
    _model: LazyModel[Generator] = PrivateAttr(default_factory=lambda: LazyModel(load_generator))

    def read(self, document: str, *, system: str | None = None) -> Context:
        """Read a document once, for many questions: `chat.bind(context=context)`. See `Generator.read`."""
        return self._generator.read(document, system=system)

    def load_context(self, path: str | os.PathLike[str]) -> Context:
        """Load a context that was saved with `Context.save`. See `Generator.load_context`."""
        return self._generator.load_context(path)

    @property
    def _generator(self) -> Generator:
        loaded: Generator = self._loaded()
        return loaded

    @property
    def _llm_type(self) -> str:
        return "bge-long-context"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, **self._settings(), **self._sampling({}, self.stop)}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        sampling = self._sampling({name: kwargs[name] for name in _OF_A_CALL if name in kwargs}, stop)
        params = LangSmithParams(
            ls_provider="bge_integrations",
            ls_model_name=kwargs.get("model", self.model),
            ls_model_type="chat",
            ls_temperature=sampling["temperature"],
            ls_max_tokens=sampling["max_new_tokens"],
        )
        if sampling["stop"]:
            params["ls_stop"] = sampling["stop"]
        return params

    def get_num_tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return self._generator.count_tokens(text)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        generated = self._generator.generate(_messages(messages), **self._sampling(kwargs, stop), **_context(kwargs))
        return self._result(generated)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        generator: Generator = await self._aloaded()
        sampling = self._sampling(kwargs, stop)
        return self._result(await generator.agenerate(_messages(messages), **sampling, **_context(kwargs)))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        stream = self._generator.stream(_messages(messages), **self._sampling(kwargs, stop), **_context(kwargs))
        for piece in stream:
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
        yield self._last_chunk(stream.generation)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        generator: Generator = await self._aloaded()
        stream = generator.astream(_messages(messages), **self._sampling(kwargs, stop), **_context(kwargs))
        try:
            async for piece in stream:
                yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
            yield self._last_chunk(stream.generation)
        finally:
            await stream.aclose()

    def _sampling(self, kwargs: dict[str, Any], stop: list[str] | None) -> dict[str, Any]:
        """Return the settings of a call: those bound to it, otherwise the model's own."""
        unknown = kwargs.keys() - set(_OF_A_CALL)
        if unknown:
            raise InvalidInputError(
                f"{', '.join(sorted(unknown))} can't be set for a call",
                advice=f"use {', '.join(_OF_A_CALL)} or stop",
            )
        names = ("max_new_tokens", "temperature", "top_p", "seed")
        settings = {name: kwargs.get(name, getattr(self, name)) for name in names}
        if "max_tokens" in kwargs:
            settings["max_new_tokens"] = kwargs["max_tokens"]
        return {**settings, "stop": stop if stop is not None else self.stop}

    def _result(self, generated: Generation) -> ChatResult:
        message = AIMessage(
            content=generated.text, usage_metadata=_usage(generated), response_metadata=self._metadata(generated)
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _last_chunk(self, generated: Generation | None) -> ChatGenerationChunk:
        assert generated is not None
        return ChatGenerationChunk(
            message=AIMessageChunk(
                content="",
                usage_metadata=_usage(generated),
                response_metadata=self._metadata(generated),
                chunk_position="last",
            )
        )

    def _metadata(self, generated: Generation) -> dict[str, Any]:
        return {"finish_reason": generated.finish_reason, "model_name": self.model}


def _usage(generated: Generation) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=generated.prompt_tokens,
        output_tokens=generated.new_tokens,
        total_tokens=generated.prompt_tokens + generated.new_tokens,
    )


def _context(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"context": kwargs.get("context")}


def _messages(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    """Return LangChain's messages as the generator's."""
    converted: list[dict[str, str]] = []
    for i, message in enumerate(messages):
        role = _ROLES.get(message.type, getattr(message, "role", None))
        blocks = message.content if isinstance(message.content, list) else []
        if role not in _ROLES.values() or any(isinstance(b, dict) and b.get("type") != "text" for b in blocks):
            raise InvalidInputError(
                f"messages[{i}] is of type {message.type!r} or has more than text",
                argument="messages",
                advice="pass texts of the system, the human and the AI",
            )
        converted.append({"role": str(role), "content": str(message.text)})
    return converted

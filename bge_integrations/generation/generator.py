"""What users call: answers from prompts, from messages, and from documents that were read before."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from collections.abc import Generator as Steps
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import torch

from bge_integrations.errors import (
    ClosedError,
    ContextFileError,
    GenerationCancelledError,
    InvalidInputError,
    OutOfMemoryError,
    TextTooLongError,
    WrongModelError,
)
from bge_integrations.generation.contexts import Context, context_file, read_context
from bge_integrations.generation.generated_text import GeneratedText, check_stop
from bge_integrations.generation.sampling import Sampler
from bge_integrations.validation import check_whole_number

if TYPE_CHECKING:
    import os

    from bge_integrations.generation.interface import LanguageModel
    from bge_integrations.generation.prompts import Prompt, Prompts

#: Seconds between two looks at `cancel` while waiting for another thread's step.
_TURN = 0.05


@dataclass(frozen=True)
class Generation:
    """A generated answer.

    Attributes:
        text: The answer, without stop words and special tokens.
        finish_reason: "stop" if the model or a stop word ended it, "length" if max_new_tokens did.
        prompt_tokens: Number of tokens that were read, the context's included.
        new_tokens: Number of tokens that were generated.
    """

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    new_tokens: int

    def __str__(self) -> str:
        return self.text


class TextStream(Iterator[str]):
    """The pieces of an answer while it is generated. Closing it, or dropping it, ends the generation.

    Attributes:
        generation: The whole answer, once the stream has ended; before that None.
    """

    def __init__(self, pieces: Steps[str, None, Generation]) -> None:
        self._pieces = pieces
        self.generation: Generation | None = None

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration as end:
            if end.value is not None:
                self.generation = end.value
            raise

    def close(self) -> None:
        """End the generation."""
        self._pieces.close()


class AsyncTextStream(AsyncIterator[str]):
    """The pieces of an answer while it is generated, for asyncio. Cancelling the task ends the generation.

    Attributes:
        generation: The whole answer, once the stream has ended; before that None.
    """

    def __init__(self, start: Callable[[threading.Event], TextStream]) -> None:
        self._start, self._cancel = start, threading.Event()
        self._stream: TextStream | None = None
        # a thread of its own, so that long answers don't occupy the application's `to_thread` pool
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bge-generation")

    @property
    def generation(self) -> Generation | None:
        return None if self._stream is None else self._stream.generation

    async def __anext__(self) -> str:
        if self._cancel.is_set():
            raise StopAsyncIteration
        try:
            piece = await asyncio.get_running_loop().run_in_executor(self._thread, self._next)
        except BaseException:
            await self.aclose()
            raise
        if piece is None:
            await self.aclose()
            raise StopAsyncIteration
        return piece

    def _next(self) -> str | None:
        if self._stream is None:
            self._stream = self._start(self._cancel)
        return next(self._stream, None)

    async def aclose(self) -> None:
        """End the generation."""
        self._cancel.set()
        self._thread.shutdown(wait=False)


class Generator:
    """A language model that generates answers; `load_generator` returns it.

    It can be used from many threads; their steps take turns. Nothing is padded: each prompt is computed by itself, so
    an answer never depends on other prompts.

    Attributes:
        name: The model's name.
        max_length: Maximum number of tokens, prompt and answer together.
    """

    def __init__(
        self,
        name: str,
        model: LanguageModel,
        prompts: Prompts,
        identity: str,
        max_length: int | None,
    ) -> None:
        self.name = name
        self.max_length = max_length or model.max_length
        self._model: LanguageModel | None = model
        self._prompts, self._identity = prompts, identity
        self._stop_ids = prompts.stop_ids(model.network.generation_config, model.network.config)
        self._lock = threading.Lock()

    @property
    def has_chat_template(self) -> bool:
        """Whether it takes messages, and a str is a user's message."""
        return self._prompts.has_template

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return self._prompts.count(text)

    def read(
        self, document: str, *, system: str | None = None, raw: bool = False, cancel: threading.Event | None = None
    ) -> Context:
        """Read a document once, for many questions.

        Args:
            document: The document.
            system: The system's message before it, for models with a chat template.
            raw: Read it as it is, without the chat template.
            cancel: Setting this event, from another thread, ends the reading.

        Raises:
            TextTooLongError: It has more tokens than fit into the model.
            InvalidInputError: It is empty or not a str.
            OutOfMemoryError: It does not fit in the device's memory.
            GenerationCancelledError: `cancel` was set.
            ClosedError: The generator was closed.
        """
        model = self._open_model()
        ids = self._prompts.document_ids(document, system, raw)
        self._check_length(len(ids), 1, "document")
        memory = model.start(len(ids))
        self._read(ids, memory, cancel)
        return Context(len(ids), self.name, system, raw, memory, self._identity, self._save_state)

    def load_context(self, path: str | os.PathLike[str]) -> Context:
        """Load a context that was saved with `Context.save`.

        Raises:
            ContextFileError: There is no such file, or it is not a context or damaged.
            WrongModelError: A model with other weights or settings has read the document.
        """
        header, tensors = read_context(path, self._identity)
        try:
            memory = self._open_model().memory_from(tensors, header["state"])
            return Context(
                int(header["tokens"]),
                self.name,
                header["system"],
                bool(header["raw"]),
                memory,
                self._identity,
                self._save_state,
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ContextFileError(
                f"{context_file(path)} is damaged ({error!r})", argument="path", advice="read the document again"
            ) from error

    def generate(
        self,
        prompt: Prompt,
        *,
        context: Context | None = None,
        max_new_tokens: int = 512,
        stop: str | Sequence[str] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        raw: bool = False,
        cancel: threading.Event | None = None,
    ) -> Generation:
        """Generate an answer.

        Args:
            prompt: A str, or messages: dicts with "role" ("system", "user" or "assistant") and "content". For a model
                with a chat template a str is a user's message; for others it is continued.
            context: A document that was read before; the prompt is about it.
            max_new_tokens: Maximum number of tokens of the answer.
            stop: The answer ends before any of these strings.
            temperature: 0 always takes the most likely token; higher values take more of the others.
            top_p: Choose only among the most likely tokens whose probabilities add up to this.
            seed: Makes random choices repeatable.
            raw: Continue a str as it is, without the chat template. With a context, `read(raw=…)` decides.
            cancel: Setting this event, from another thread, ends the generation.

        Raises:
            TextTooLongError: Prompt and answer together have more tokens than fit into the model.
            InvalidInputError: An argument is invalid.
            WrongModelError: Another model has read the context.
            OutOfMemoryError: The prompt does not fit in the device's memory.
            NonFiniteError: The model returned NaN or infinity.
            GenerationCancelledError: `cancel` was set.
            ClosedError: The generator was closed.
        """
        stream = self.stream(
            prompt,
            context=context,
            max_new_tokens=max_new_tokens,
            stop=stop,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            raw=raw,
            cancel=cancel,
        )
        for _ in stream:
            pass
        assert stream.generation is not None
        return stream.generation

    def stream(
        self,
        prompt: Prompt,
        *,
        context: Context | None = None,
        max_new_tokens: int = 512,
        stop: str | Sequence[str] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        raw: bool = False,
        cancel: threading.Event | None = None,
    ) -> TextStream:
        """Return an iterator over the pieces of an answer while it is generated. See `generate`."""
        model = self._open_model()
        check_whole_number(max_new_tokens, "max_new_tokens")
        sampler, stop_words = Sampler(temperature, top_p, seed), check_stop(stop)
        if context is None:
            before, ids = 0, self._prompts.ids_of(prompt, raw)
        else:
            self._check_own(context)
            before, ids = context.tokens, self._prompts.question_ids(prompt, context.system, context.raw)
        if not ids:
            raise InvalidInputError("the prompt is empty", argument="prompt", advice="pass a text or messages")
        self._check_length(before + len(ids), max_new_tokens, "prompt")
        memory = model.start(len(ids)) if context is None else context._memory.copy()
        text = GeneratedText(self._prompts.tokenizer, stop_words)
        return TextStream(self._pieces(ids, before, memory, text, sampler, max_new_tokens, cancel))

    async def agenerate(self, prompt: Prompt, **arguments: Any) -> Generation:
        """Generate an answer without blocking the event loop; takes the arguments of `generate` except `cancel`.

        Cancelling the task ends the generation.
        """
        stream = self.astream(prompt, **arguments)
        async for _ in stream:
            pass
        assert stream.generation is not None
        return stream.generation

    def astream(self, prompt: Prompt, **arguments: Any) -> AsyncTextStream:
        """Return an asynchronous iterator over the pieces of an answer.

        It takes the arguments of `generate` except `cancel`. Errors are raised by its first piece.
        """
        return AsyncTextStream(lambda cancel: self.stream(prompt, cancel=cancel, **arguments))

    def close(self) -> None:
        """Free the model's memory. Later calls raise ClosedError."""
        self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pieces(
        self,
        ids: list[int],
        before: int,
        memory: Any,
        text: GeneratedText,
        sampler: Sampler,
        max_new_tokens: int,
        cancel: threading.Event | None,
    ) -> Steps[str, None, Generation]:
        reason: Literal["stop", "length"] = "length"
        unread, count = ids, 0
        while count < max_new_tokens:
            token = sampler.choose(self._read(unread, memory, cancel))
            count += 1
            if token in self._stop_ids:
                reason = "stop"
                break
            if piece := text.add(token):
                yield piece
            if text.is_stopped:
                reason = "stop"
                break
            unread = [token]
        if rest := text.finish():
            yield rest
        return Generation(text.text, "stop" if text.is_stopped else reason, before + len(ids), count)

    def _read(self, ids: list[int], memory: Any, cancel: threading.Event | None) -> torch.Tensor:
        """Read ids, one call's step at a time, and return the logits after the last."""

        def check() -> None:
            if cancel is not None and cancel.is_set():
                raise GenerationCancelledError("the generation was cancelled")

        while not self._lock.acquire(timeout=_TURN):  # another thread's step
            check()
        try:
            with torch.inference_mode():
                return self._open_model().read(ids, memory, check)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                "the text does not fit in the device's memory",
                advice="use a shorter one, a higher beacon_ratio, or quantization=",
            ) from error
        finally:
            self._lock.release()

    def _open_model(self) -> LanguageModel:
        model = self._model
        if model is None:
            raise ClosedError(f"the generator {self.name} was closed", advice="load it again with load_generator")
        return model

    def _check_length(self, tokens: int, new: int, argument: str) -> None:
        if tokens + new > self.max_length:
            raise TextTooLongError(
                f"the {argument} has {tokens} tokens, and with {new} new ones the model takes only {self.max_length}",
                argument=argument,
                advice="shorten it, or lower max_new_tokens",
            )

    def _check_own(self, context: object) -> None:
        if not isinstance(context, Context):
            raise InvalidInputError(
                f"context must be a Context, got {type(context).__name__}",
                argument="context",
                advice="read the document with generator.read(document)",
            )
        if context._identity != self._identity:
            raise WrongModelError(
                f"the context was read by {context.model}, which has other weights or settings than {self.name}",
                argument="context",
                advice="use that generator, or read the document again",
            )

    def _save_state(self, memory: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return self._open_model().state_of(memory)

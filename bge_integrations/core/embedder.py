"""The embedder: texts in, dense, sparse and multi-vectors out."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from bge_integrations.catalog import POCKET
from bge_integrations.core import inputs, runtime
from bge_integrations.core.image_inputs import CHUNK, check_inputs, tokenize_inputs
from bge_integrations.core.request import OnTruncate, Request, off_loop
from bge_integrations.core.session import Loaded
from bge_integrations.errors import InvalidInputError, OutOfMemoryError
from bge_integrations.models.instructions import hint_at_kind
from bge_integrations.models.interface import OutputSpec
from bge_integrations.models.profile import profile_for_task
from bge_integrations.outputs import Embeddings, MultiVectors, SparseVector, SparseVectors, Token
from bge_integrations.validation import (
    check_choice,
    check_list,
    check_not_dict,
    check_on_truncate,
    check_texts,
    check_whole_number,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.catalog import Pooling
    from bge_integrations.core.image_urls import UrlScope
    from bge_integrations.core.session import Session
    from bge_integrations.core.shared_pass import SharedPass
    from bge_integrations.models.interface import SequenceOutput, TokenSequence
    from bge_integrations.models.profile import EmbedderProfile

TextKind = Literal["query", "passage"]
#: A text; for models that take images also a dict with "text", "image" or both.
Input = str | Mapping[str, Any]


class _Unsaid:
    def __repr__(self) -> str:
        return "None"


#: The default of `kind`. It means None, but tells a call that leaves `kind` out from one that passes None.
UNSAID: Any = _Unsaid()
#: (dense, sparse, multi_vector) of a call that returns dense vectors only.
_DENSE = (True, False, False)


def check_representations(representations: tuple[bool, bool, bool]) -> tuple[bool, bool, bool]:
    """Return (dense, sparse, multi_vector) as bools, at least one of which must be True."""
    dense, sparse, multi_vector = map(bool, representations)
    if not (dense or sparse or multi_vector):
        raise InvalidInputError("no representation is requested; set dense, sparse or multi_vector to True")
    return dense, sparse, multi_vector


class Embedder(Loaded):
    """A loaded embedding model, returned by `load_embedder`. Any number of threads and tasks can share it.

    Attributes:
        name: The published checkpoint's name, or the folder.
        dimension: Width of the dense vectors.
        multi_vector_dimension: Width of the multi-vectors; 0 without that head.
        vocabulary_size: Number of token ids: the width of the sparse vectors.
        max_length: Maximum number of tokens of a text; a call can set its own.
        query_instruction, passage_instruction: Prepended to queries and to passages.
        has_sparse, has_multi_vector: Whether the model has these heads (bge-m3 does).
        takes_images: Whether `encode` also takes images: dicts of "image", "text" or both.
        image_urls: Where it may fetch images given as URLs from; None if it may not.
    """

    def __init__(
        self,
        session: Session,
        profile: EmbedderProfile,
        max_length: int | None,
        truncate_dim: int | None,
        image_urls: UrlScope | None,
    ) -> None:
        super().__init__(session, profile.name)
        self._profile = profile
        model = session.model
        self.pooling: Pooling = profile.pooling
        self.query_instruction: str = profile.instructions.query
        self.passage_instruction: str = profile.instructions.passage
        self._examples, self._query_suffix = profile.examples, profile.query_suffix
        self._tokenizer, self._is_causal = model.tokenizer, model.is_causal
        self._image_format = model.image_format
        self.has_sparse = self.has_multi_vector = model.multi_vector_size > 0
        self.takes_images = model.image_format is not None
        self.image_urls = image_urls
        if image_urls is not None and not self.takes_images:
            raise InvalidInputError(
                f"{profile.name} takes no images", argument="image_urls", advice="leave image_urls= out"
            )
        self.vocabulary_size: int = model.vocabulary_size
        #: Maximum tokens of a query that leave room for the examples.
        self._longest_query = self._longest - inputs.examples_room(model.tokenizer, self._examples, self._query_suffix)
        if self._longest_query < 1:
            raise InvalidInputError(
                f"the examples leave no room for a query in the {self._longest} tokens that {self.name} accepts; use "
                "fewer or shorter examples"
            )
        limits = [self._longest, profile.max_length or self._longest, model.tokenizer.max_length or self._longest]
        self.max_length = min(limits) if max_length is None else max_length
        check_whole_number(self.max_length, "max_length", most=self._longest)
        self._check_room()
        truncate_dim = profile.truncate_dim if truncate_dim is None else truncate_dim
        if truncate_dim is not None:
            check_whole_number(truncate_dim, "truncate_dim", most=model.hidden_size)
        self._dim = truncate_dim
        self.dimension = truncate_dim or model.hidden_size
        width = model.multi_vector_size
        self.multi_vector_dimension: int = min(width, truncate_dim or width)

    @property
    def source(self) -> str:
        """The argument with which `load_embedder` loads this model again: "pocket", the hub id, or the folder."""
        return self.name if self.name == POCKET or self.revision else os.fspath(self._session.key.folder)

    def for_task(self, task: str) -> Embedder:
        """Return this embedder with the instruction of another task, for models that are told the task.

        It uses the same copy of the model, and closing either closes both.

        Args:
            task: A name that `bge models --tasks` lists, such as "NFCorpus".

        Raises:
            InvalidInputError: The model takes no tasks, the task is unknown, or the embedder has examples.
        """
        self._session.check_open()
        return Embedder(
            self._session, profile_for_task(self._profile, task), self.max_length, self._dim, self.image_urls
        )

    def vector_settings(self, kind: TextKind) -> dict[str, str | int]:
        """Return the settings that a dense vector depends on, for caches and stores that must not mix vectors.

        "weights" is a digest of the weight files, independent of their path and name. The other keys are
        "instruction", "pooling", "max_length", "dimension" and "dtype".
        """
        return {
            "weights": self.weights_digest,
            "instruction": self._query_surroundings if kind == "query" else self.passage_instruction,
            "pooling": self.pooling,
            "max_length": self.max_length,
            "dimension": self.dimension,
            "dtype": self.dtype,
        }

    def count_tokens(self, texts: Iterable[Input], *, kind: TextKind | None = None) -> list[int]:
        """Return the number of tokens of each text, including special tokens and the instruction of this kind.

        `encode` truncates texts with more than `max_length` tokens.

        Raises:
            InvalidInputError: A text can't be encoded.
            ClosedError: After `close()`.
        """
        self._session.check_open()
        checked = self._checked(texts)
        sequences, _ = self._tokenizing(kind, sys.maxsize)(checked) if checked else ([], {})
        return [len(sequence) for sequence in sequences]

    def too_long(self, texts: Iterable[Input], *, kind: TextKind | None = None) -> list[int]:
        """Return the positions of the inputs whose text has more than `max_length` tokens, so that `encode` cuts it.

        Raises:
            InvalidInputError: A text can't be encoded, or an image can't be decoded.
            ClosedError: After `close()`.
        """
        self._session.check_open()
        checked = self._checked(texts)
        return sorted(self._tokenizing(kind, self.max_length)(checked)[1]) if checked else []

    def tokens(
        self, texts: Iterable[str], *, kind: TextKind | None = None, max_length: int | None = None
    ) -> list[list[Token]]:
        """Return the tokens of each text as the model sees them, with special tokens and this kind's instruction.

        Row i of a text's multi-vectors belongs to its token i + 1, because the first token has none.

        Args:
            texts: The texts.
            kind: As in `encode`.
            max_length: Where to truncate, in tokens; None truncates nothing.

        Raises:
            InvalidInputError: A text can't be encoded.
            ClosedError: After `close()`.
        """
        self._session.check_open()
        checked = check_texts(texts, "texts")
        if max_length is not None:
            check_whole_number(max_length, "max_length")
        sequences, _ = self._tokenizing(kind, max_length or sys.maxsize)(checked) if checked else ([], {})
        instruction = self._instruction(kind)
        return [
            self._tokenizer.tokens(sequence.ids, text, instruction)
            for sequence, text in zip(sequences, checked, strict=True)
        ]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text that these token ids stand for.

        Raises:
            InvalidInputError: An id is not one of the tokenizer's.
            ClosedError: After `close()`.
        """
        self._session.check_open()
        ids = check_list(ids, "ids", "token ids")
        for position, token in enumerate(ids):
            check_whole_number(token, f"ids[{position}]", least=0, most=self._tokenizer.vocabulary_size - 1)
        return self._tokenizer.decode(ids, skip_special_tokens)

    def encode(
        self,
        texts: Iterable[Input],
        *,
        kind: TextKind | None = UNSAID,
        dense: bool = True,
        sparse: bool = False,
        multi_vector: bool = False,
        max_length: int | None = None,
        normalize: bool = True,
        on_truncate: OnTruncate = "warn",
        show_progress: bool = False,
    ) -> Embeddings:
        """Embed texts; all requested representations come from one forward pass.

        Args:
            texts: The n texts. An empty list returns arrays of length 0; an empty text is embedded like any other.
                Models that take images also accept dicts with "text", "image" or both. An image is a path, bytes, a
                PIL image, a uint8 array (height, width, channels) or, if `image_urls` allows it, an http or https URL.
            kind: "query" or "passage" prepends the instruction for that kind to each text; None prepends nothing. If
                it is left out although the model has instructions, an `InstructionWarning` says so once per process.
            dense: Return `.dense`, float32 (n, dimension).
            sparse: Return `.sparse`, lexical weights by token id.
            multi_vector: Return `.multi_vector`, float32 (tokens, width) for each text.
            max_length: Maximum number of tokens of a text in this call.
            normalize: Scale dense and multi-vectors to unit length.
            on_truncate: "warn" once with the number of truncated texts, "error" to raise before computing, or
                "ignore".
            show_progress: Show a progress bar.

        Raises:
            InvalidInputError: `texts` is not a list of str, a text contains a lone surrogate, an image can't be
                decoded, or the model lacks a representation.
            TextTooLongError: A text is too long, with `on_truncate="error"`.
            OutOfMemoryError: A single text does not fit in memory.
            NonFiniteError: The model returned NaN or infinity.
            ComputationError: The model failed in another way.
            OverloadedError: The queue is full and the runtime is configured to refuse calls.
            ClosedError: After `close()`.
        """
        representations = dense, sparse, multi_vector
        request = self._request(texts, kind, representations, max_length, normalize, on_truncate, show_progress)
        self._hint_at_kind(kind)
        return self._gather(request, self._session.run(request))

    async def aencode(
        self,
        texts: Iterable[Input],
        *,
        kind: TextKind | None = UNSAID,
        dense: bool = True,
        sparse: bool = False,
        multi_vector: bool = False,
        max_length: int | None = None,
        normalize: bool = True,
        on_truncate: OnTruncate = "warn",
        show_progress: bool = False,
    ) -> Embeddings:
        """Embed texts without blocking the event loop; cancelling drops work that has not started. See `encode`."""
        arguments = texts, kind, (dense, sparse, multi_vector), max_length, normalize, on_truncate, show_progress
        request = await off_loop(texts, self._request, *arguments)
        self._hint_at_kind(kind)
        outputs = await self._session.arun(request)
        if len(request.positions) > runtime.policy.inline_texts:
            return await asyncio.to_thread(self._gather, request, outputs)
        return self._gather(request, outputs)

    def encode_dense(
        self,
        texts: Iterable[Input],
        *,
        kind: TextKind | None = UNSAID,
        max_length: int | None = None,
        normalize: bool = True,
        on_truncate: OnTruncate = "warn",
        show_progress: bool = False,
    ) -> NDArray[np.float32]:
        """Return the dense vectors of texts, float32 (n, dimension). See `encode`."""
        request = self._request(texts, kind, _DENSE, max_length, normalize, on_truncate, show_progress)
        self._hint_at_kind(kind)
        return self._gather_dense(request, self._session.run(request))

    async def aencode_dense(
        self,
        texts: Iterable[Input],
        *,
        kind: TextKind | None = UNSAID,
        max_length: int | None = None,
        normalize: bool = True,
        on_truncate: OnTruncate = "warn",
        show_progress: bool = False,
    ) -> NDArray[np.float32]:
        """Return the dense vectors of texts without blocking the event loop. See `encode`."""
        arguments = texts, kind, _DENSE, max_length, normalize, on_truncate, show_progress
        request = await off_loop(texts, self._request, *arguments)
        self._hint_at_kind(kind)
        outputs = await self._session.arun(request)
        if len(request.positions) > runtime.policy.inline_texts:
            return await asyncio.to_thread(self._gather_dense, request, outputs)
        return self._gather_dense(request, outputs)

    def shared_pass(self, normalize: bool) -> SharedPass:
        """Return the pass that the dense and the sparse adapter of this model share if their settings are equal."""
        instructions = self._query_surroundings, self.passage_instruction
        settings: Hashable = (self.pooling, *instructions, self.max_length, self._dim, bool(normalize))
        return self._session.shared_models[0].shared_pass(settings)

    @property
    def _query_surroundings(self) -> str:
        """All text around a query: examples, instruction and suffix."""
        return self._examples + self.query_instruction + self._query_suffix

    def _instruction(self, kind: TextKind | None) -> str:
        """Return what is prepended to texts of this kind."""
        if kind is None or kind is UNSAID:
            return ""
        check_choice(kind, "kind", ("query", "passage", None))
        return self.query_instruction if kind == "query" else self.passage_instruction

    def _check_room(self) -> None:
        """Raise InvalidInputError if max_length leaves no room for a text."""
        for kind in (None, "query", "passage"):
            self._tokenizing(kind, self.max_length)(["a"])

    def _hint_at_kind(self, kind: TextKind | None) -> None:
        """Hint at `kind` once per process, if a call leaves it out and the model has instructions."""
        if kind is UNSAID and (self._query_surroundings or self.passage_instruction):
            hint_at_kind(self.name)

    def _request(
        self,
        texts: Iterable[Input],
        kind: TextKind | None,
        representations: tuple[bool, bool, bool],
        max_length: int | None,
        normalize: bool,
        on_truncate: OnTruncate,
        show_progress: bool,
    ) -> Request[Any]:
        """Check the arguments of a call; `representations` is (dense, sparse, multi_vector)."""
        checked = self._checked(texts)
        dense, sparse, multi_vector = check_representations(representations)
        if (sparse or multi_vector) and not self.has_sparse:
            raise InvalidInputError(
                f"{self.name} has no sparse and multi-vector heads; load bge-m3 (or 'pocket') for these"
            )
        check_on_truncate(on_truncate)
        if max_length is not None:
            check_whole_number(max_length, "max_length", most=self._longest)
        spec = OutputSpec(self.pooling if dense else None, sparse, multi_vector, self._dim, bool(normalize))
        limit = max_length or self.max_length
        chunk = CHUNK if self.takes_images else None
        return Request.of(checked, self._tokenizing(kind, limit), limit, spec, on_truncate, show_progress, chunk)

    def _checked(self, texts: object) -> Sequence[Any]:
        """Return the inputs of a call as a list of str, and of images if the model takes them."""
        if self.takes_images:
            return check_inputs(texts, "texts", self.image_urls)
        check_not_dict(texts)
        return check_texts(texts, "texts")

    def _tokenizing(
        self, kind: TextKind | None, max_length: int
    ) -> Callable[[Sequence[Any]], tuple[list[TokenSequence], dict[int, int]]]:
        """Return a function that tokenises inputs of this kind, and returns the lengths of the truncated ones."""
        instruction = self._instruction(kind)
        if kind == "query" and self._query_suffix:
            return partial(
                inputs.tokenize_with_examples,
                self._tokenizer,
                instruction=instruction,
                examples=self._examples,
                suffix=self._query_suffix,
                max_length=max_length,
                longest=self._longest_query,
            )
        shared = instruction if self._is_causal else ""
        tokenize = partial(inputs.tokenize_texts, self._tokenizer, instruction=instruction, shared=shared)
        if self._image_format is None:
            return partial(tokenize, max_length=max_length)
        return partial(
            tokenize_inputs,
            image_format=self._image_format,
            max_length=max_length,
            longest=max(max_length, self._longest),
            tokenize=tokenize,
        )

    def _gather(self, request: Request[Any], outputs: list[SequenceOutput]) -> Embeddings:
        """Return the outputs in the order of the call's texts, which may repeat."""
        spec, ordered = request.spec, [outputs[i] for i in request.positions]
        dense = None if spec.pooling is None else self._gather_dense(request, outputs)
        sparse = multi_vector = None
        with _in_memory(len(ordered)):
            if spec.sparse:
                weights = [cast("SparseVector", each.sparse) for each in ordered]
                sparse = SparseVectors.from_rows(weights, self.vocabulary_size)
            if spec.multi_vector:
                rows = [cast("NDArray[np.float32]", each.multi_vector) for each in ordered]
                multi_vector = MultiVectors.from_rows(rows, self.multi_vector_dimension)
        return Embeddings(dense=dense, sparse=sparse, multi_vector=multi_vector)

    def _gather_dense(self, request: Request[Any], outputs: list[SequenceOutput]) -> NDArray[np.float32]:
        with _in_memory(len(request.positions)):
            rows = np.empty((len(request.positions), self.dimension), np.float32)
        for row, i in zip(rows, request.positions, strict=True):
            row[:] = outputs[i].dense
        return rows


@contextmanager
def _in_memory(texts: int) -> Iterator[None]:
    """Raise OutOfMemoryError if the results of a call do not fit in memory."""
    try:
        yield
    except MemoryError as error:
        raise OutOfMemoryError(
            f"the vectors of {texts} texts do not fit in memory ({error})", advice="encode fewer texts at a time"
        ) from error

"""The embedder: texts in, dense, sparse and multi-vectors out."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from bge_integrations.core.prompts import examples_room, tokenize_texts, tokenize_with_examples
from bge_integrations.core.session import Loaded, OnTruncate, Session, Work, place
from bge_integrations.errors import InvalidInputError
from bge_integrations.models.checkpoint import POCKET, locate
from bge_integrations.models.interface import OutputSpec
from bge_integrations.models.profile import check_request, embedder_profile
from bge_integrations.outputs import Embeddings, MultiVectors, SparseVectors
from bge_integrations.validation import check_on_truncate, check_text, check_texts, check_whole_number

if TYPE_CHECKING:
    import torch

    from bge_integrations.catalog import Family, Pooling
    from bge_integrations.models.interface import SequenceOutput, TokenSequence
    from bge_integrations.models.profile import EmbedderProfile

TextKind = Literal["query", "passage"]
#: An async call of more texts than this gathers its results off the event loop.
_INLINE_TEXTS = 256


def load_embedder(
    model: str | os.PathLike[str],
    *,
    device: str | list[str] | None = None,
    dtype: str | torch.dtype | None = None,
    max_length: int | None = None,
    query_instruction: str | None = None,
    passage_instruction: str | None = None,
    family: Family | None = None,
    pooling: Pooling | None = None,
    task: str | None = None,
    examples: Sequence[Mapping[str, str]] | None = None,
    truncate_dim: int | None = None,
    revision: str | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
) -> Embedder:
    """Load a BGE embedding model, or share the copy that this process already holds.

    Args:
        model: A hub id ("BAAI/bge-m3"), a checkpoint folder, or "pocket", the small bundled demonstration model.
        device: "cpu", "cuda", "cuda:1", or several CUDA devices; None takes CUDA where there is one.
        dtype: "float32", "bfloat16", "float16" (CUDA only) or "int8" (CPU only); None takes bfloat16 on CUDA and
            float32 on CPU.
        max_length: Longest text in tokens, specials included; None takes what the model was made for.
        query_instruction: Put before each query; None takes the catalogue's, "" none. The models with a format of
            their own (bge-multilingual-gemma2, bge-en-icl, e5-mistral, gte-Qwen2) get the task's instruction alone.
        passage_instruction: Likewise before each passage.
        family: For a checkpoint that neither the catalogue nor its own files describe: "encoder", "m3", "decoder",
            "bidirectional_decoder" (its tokens see what follows, too) or "icl".
        pooling: "cls", "mean" or "last_token"; None takes the catalogue's or the checkpoint's own.
        task: For llm-embedder "qa", "icl", "chat", "lrlm", "tool" or "convsearch"; for the models with an instruction
            format "web_search" (the default), "sts", "summarization" or "bitext".
        examples: bge-en-icl only: dicts of "query", "response" and, unless it is that of the queries, "instruct".
        truncate_dim: Keep so many columns of dense and multi-vectors, before they are normalised.
        revision: Branch, tag or commit on the hub.
        cache_folder: The hub's cache; None takes the usual one.
        local_files_only: Never touch the network.

    Raises:
        CheckpointNotFoundError: Neither a folder nor in the cache, and it could not be downloaded.
        CheckpointError: A file is missing, damaged or does not fit.
        UnknownModelError: Nothing says which family, pooling or instruction this checkpoint has.
        NotSupportedError: Its family comes with a later release.
        WrongKindError: It is a reranker.
        InvalidInputError: An argument can't be used.
    """
    check_request(model, "embedder", family, pooling)
    for argument, text in (("query_instruction", query_instruction), ("passage_instruction", passage_instruction)):
        if text is not None:
            check_text(text, argument)
    placement = place(device, dtype)
    name, folder = locate(
        model, "embedder", revision=revision, cache_folder=cache_folder, local_files_only=local_files_only
    )
    profile = embedder_profile(
        name,
        folder,
        family=family,
        pooling=pooling,
        query_instruction=query_instruction,
        passage_instruction=passage_instruction,
        task=task,
        examples=examples,
    )
    session = Session(folder, profile.family, *placement)
    try:
        return Embedder(session, profile, max_length, truncate_dim)
    except BaseException:
        session.close()
        raise


class Embedder(Loaded):
    """A loaded embedding model. Made by `load_embedder`; safe to use from any number of threads and tasks.

    Attributes:
        name: The published checkpoint's name, or the folder.
        dimension: Width of the dense vectors.
        multi_vector_dimension: Width of the multi-vectors; 0 without that head.
        vocabulary_size: Number of token ids, which sparse vectors refer to.
        max_length: Longest text in tokens, unless a call asks for less.
        query_instruction, passage_instruction: What is put before queries and passages.
        has_sparse, has_multi_vector: Whether the model has these heads (bge-m3 does).
    """

    def __init__(
        self, session: Session, profile: EmbedderProfile, max_length: int | None, truncate_dim: int | None
    ) -> None:
        super().__init__(session, profile.name)
        model = session.model
        self.pooling: Pooling = profile.pooling
        self.query_instruction: str = profile.instructions.query
        self.passage_instruction: str = profile.instructions.passage
        self._examples, self._query_suffix = profile.examples, profile.query_suffix
        self.has_sparse = self.has_multi_vector = model.multi_vector_size > 0
        self.vocabulary_size: int = model.vocabulary_size
        #: What the examples leave of the positions that the model has.
        self._longest_query = self._longest - examples_room(model.tokenizer, self._examples, self._query_suffix)
        if self._longest_query < 1:
            raise InvalidInputError(
                f"the examples are longer than the {self._longest} tokens that {self.name} holds; use fewer or shorter "
                "ones"
            )
        limits = [self._longest, profile.max_length or self._longest, model.tokenizer.max_length or self._longest]
        self.max_length = min(limits) if max_length is None else max_length
        check_whole_number(self.max_length, "max_length", most=self._longest)
        truncate_dim = profile.truncate_dim if truncate_dim is None else truncate_dim
        if truncate_dim is not None:
            check_whole_number(truncate_dim, "truncate_dim", most=model.hidden_size)
        self._dim = truncate_dim
        self.dimension = truncate_dim or model.hidden_size
        multi_vector_size = model.multi_vector_size
        self.multi_vector_dimension: int = min(multi_vector_size, truncate_dim or multi_vector_size)

    def vector_settings(self, kind: TextKind) -> dict[str, str | int]:
        """What a text's dense vector depends on, for what must not mix vectors: keys of caches, stores on disk.

        "weights" is the same for the same files of weights, wherever they lie and whatever they are called. Then
        "instruction", "pooling", "max_length", "dimension" and "dtype".
        """
        return {
            "weights": self.weights_digest,
            "instruction": self._around_query if kind == "query" else self.passage_instruction,
            "pooling": self.pooling,
            "max_length": self.max_length,
            "dimension": self.dimension,
            "dtype": self.dtype,
        }

    @property
    def source(self) -> str:
        """What `load_embedder` takes to load it again: "pocket", the hub id, or the folder."""
        return self.name if self.name == POCKET or self.revision else os.fspath(self._session.key.folder)

    @property
    def _around_query(self) -> str:
        """All that is put around a query."""
        return self._examples + self.query_instruction + self._query_suffix

    def _tokenizing(self, kind: TextKind | None) -> Callable[..., tuple[list[TokenSequence], int]]:
        """Makes what the model sees of `texts` cut to `max_length`, and says how many were cut."""
        model, instruction = self._session.model, self._instruction(kind)
        if kind == "query" and self._query_suffix:
            return partial(
                tokenize_with_examples,
                model.tokenizer,
                instruction=instruction,
                examples=self._examples,
                suffix=self._query_suffix,
                longest=self._longest_query,
            )
        shared = instruction if model.is_causal else ""
        return partial(tokenize_texts, model.tokenizer, instruction=instruction, shared=shared)

    def _instruction(self, kind: TextKind | None) -> str:
        """What is put before a text of this kind.

        Raises:
            InvalidInputError: There is no such kind.
        """
        instructions = {"query": self.query_instruction, "passage": self.passage_instruction, None: ""}
        if not isinstance(kind, str | None) or kind not in instructions:
            raise InvalidInputError(f"kind={kind!r} is none of 'query', 'passage', None")
        return instructions[kind]

    @property
    def pass_settings(self) -> Hashable:
        """Equal for two embedders where one pass serves both."""
        return (
            self._session.key,
            self.pooling,
            self._around_query,
            self.passage_instruction,
            self.max_length,
            self._dim,
        )

    def count_tokens(self, texts: Iterable[str], *, kind: TextKind | None = None) -> list[int]:
        """How many tokens the model sees of each text, with the special ones and the instruction of its kind.

        Where it is more than `max_length`, `encode` cuts the text.

        Raises:
            InvalidInputError: Something is no text that can be encoded.
            ClosedError: After close().
        """
        checked = check_texts(texts, "texts")
        tokenizing = self._tokenizing(kind)
        sequences, _ = tokenizing(checked, max_length=sys.maxsize) if checked else ([], 0)
        return [len(sequence) for sequence in sequences]

    def encode(
        self,
        texts: Iterable[str],
        *,
        kind: TextKind | None = None,
        dense: bool = True,
        sparse: bool = False,
        multi_vector: bool = False,
        max_length: int | None = None,
        normalize: bool = True,
        on_truncate: OnTruncate = "warn",
        show_progress: bool = False,
    ) -> Embeddings:
        """Embed texts; all representations asked for come from one pass.

        Args:
            texts: The texts, n of them; none gives arrays of length 0. An empty text is embedded as such.
            kind: "query" or "passage" puts that instruction in front; None puts none.
            dense: Ask for `.dense`, float32 (n, dimension).
            sparse: Ask for `.sparse`, lexical weights per token id.
            multi_vector: Ask for `.multi_vector`, float32 (tokens, width) per text.
            max_length: Shorter or longer than the embedder's own, for this call.
            normalize: Make dense and multi-vectors unit vectors.
            on_truncate: "warn" once with the number of texts cut, "error" to refuse before computing, or "ignore".
            show_progress: Show a bar.

        Raises:
            InvalidInputError: Not a list of str, lone surrogates, or a representation the model does not have.
            TextTooLongError: With `on_truncate="error"`.
            OutOfMemoryError: A single text does not fit in memory.
            NonFiniteError: The model gave NaN or infinity.
            ComputationError: The model failed otherwise.
            ClosedError: After `close()`.
        """
        request = _Request(self, texts, kind, dense, sparse, multi_vector, max_length, normalize, on_truncate)
        outputs = self._session.run(request.work(on_truncate, show_progress))
        return request.gather(outputs)

    async def aencode(
        self,
        texts: Iterable[str],
        *,
        kind: TextKind | None = None,
        dense: bool = True,
        sparse: bool = False,
        multi_vector: bool = False,
        max_length: int | None = None,
        normalize: bool = True,
        on_truncate: OnTruncate = "warn",
        show_progress: bool = False,
    ) -> Embeddings:
        """As `encode`, without blocking the event loop; cancelling it drops the work that has not begun."""
        request = _Request(self, texts, kind, dense, sparse, multi_vector, max_length, normalize, on_truncate)
        characters = sum(map(len, request.unique))
        outputs = await self._session.arun(request.work(on_truncate, show_progress), characters)
        if len(request.places) > _INLINE_TEXTS:
            return await asyncio.to_thread(request.gather, outputs)
        return request.gather(outputs)


class _Request:
    """The checked arguments of one call: what to tokenise and compute, and how to lay out the answer.

    Attributes:
        unique: The different texts.
        places: For each text of the call, its place among these.
    """

    def __init__(
        self,
        embedder: Embedder,
        texts: Iterable[str],
        kind: TextKind | None,
        dense: bool,
        sparse: bool,
        multi_vector: bool,
        max_length: int | None,
        normalize: bool,
        on_truncate: OnTruncate,
    ) -> None:
        checked = check_texts(texts, "texts")
        self._tokenizing = embedder._tokenizing(kind)
        if not (dense or sparse or multi_vector):
            raise InvalidInputError("nothing is asked for; set dense, sparse or multi_vector to True")
        if (sparse or multi_vector) and not embedder.has_sparse:
            raise InvalidInputError(
                f"{embedder.name} has no sparse and multi-vector heads; load bge-m3 (or 'pocket') for these"
            )
        check_on_truncate(on_truncate)
        if max_length is not None:
            check_whole_number(max_length, "max_length", most=embedder._longest)
        numbers: dict[str, int] = {}
        self.places = [numbers.setdefault(text, len(numbers)) for text in checked]
        self.unique: Sequence[str] = list(numbers)
        self.wanted = OutputSpec(
            pooling=embedder.pooling if dense else None,
            sparse=sparse,
            multi_vector=multi_vector,
            dim=embedder._dim,
            normalize=normalize,
        )
        self._embedder = embedder
        self._max_length = max_length or embedder.max_length

    def work(self, on_truncate: OnTruncate, show_progress: bool) -> Work[str]:
        return Work(self.unique, self._tokenize, self.wanted, on_truncate, show_progress)

    def _tokenize(self, texts: Sequence[str]) -> tuple[list[TokenSequence], int]:
        return self._tokenizing(texts, max_length=self._max_length)

    def gather(self, outputs: list[SequenceOutput]) -> Embeddings:
        """Lay the outputs of the unique texts out in the order of the call."""
        chosen = [outputs[place] for place in self.places]
        e, wanted = self._embedder, self.wanted
        dense = sparse = vectors = None
        if wanted.pooling is not None:
            dense = np.empty((len(chosen), e.dimension), np.float32)
            for row, output in zip(dense, chosen, strict=True):
                row[:] = output.dense
        if wanted.sparse:
            sparse = SparseVectors.from_rows([o.sparse for o in chosen if o.sparse], e.vocabulary_size)
        if wanted.multi_vector:
            found = [o.multi_vector for o in chosen if o.multi_vector is not None]
            vectors = MultiVectors.from_rows(found, e.multi_vector_dimension)
        return Embeddings(dense, sparse, vectors)

"""An embedder whose model runs on a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NoReturn
from weakref import WeakValueDictionary

import numpy as np

from bge_integrations import catalog, network_loop
from bge_integrations.client.batches import in_batches
from bge_integrations.client.calls import EmbedCall, Prompt
from bge_integrations.client.images import with_encoded_images
from bge_integrations.client.remote import Remote, report_truncation
from bge_integrations.core.embedder import UNSAID, Embedder, check_representations
from bge_integrations.core.shared_pass import SharedPass
from bge_integrations.errors import InstructionWarning, InvalidInputError, NotSupportedError
from bge_integrations.models.instructions import check_takes_tasks, formatted_instruction, instructions_for
from bge_integrations.outputs import Embeddings, MultiVectors, SparseVectors
from bge_integrations.reporting import warn_caller
from bge_integrations.validation import check_on_truncate, check_text, check_texts, check_whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.client.calls import Dialect, ServedModel
    from bge_integrations.client.transport import Transport
    from bge_integrations.core.embedder import Input, TextKind
    from bge_integrations.core.request import OnTruncate
    from bge_integrations.outputs import Token

#: A batch's embeddings, and the number of texts that the server truncated.
Answer = tuple[Embeddings, int]

#: The passes that dense and sparse adapters share, by everything that their vectors depend on.
_passes: WeakValueDictionary[Hashable, SharedPass] = WeakValueDictionary()
_passes_lock = threading.Lock()
#: The models whose missing instruction was reported in this process.
_reported: set[str] = set()


class RemoteEmbedder(Remote, Embedder):
    """An embedder whose model runs on a server: what `load_embedder` returns for a URL.

    It has the interface of `Embedder`. The texts of a call are split into batches that the server accepts. With other
    servers than `bge serve`, it prepends the instruction itself. `weights_digest` is the digest that the server
    reports; other servers report none, so their names of model and revision stand for it.
    """

    def __init__(
        self,
        transport: Transport,
        dialect: Dialect,
        served: ServedModel,
        max_length: int | None,
        query_instruction: str | None,
        passage_instruction: str | None,
        truncate_dim: int | None,
    ) -> None:
        Remote.__init__(self, transport, dialect, served)  # not Embedder's, which needs a model in this process
        self._longest = served.max_length
        self.max_length = served.max_length if max_length is None else max_length
        check_whole_number(self.max_length, "max_length", most=served.max_length)
        if truncate_dim is not None:
            check_whole_number(truncate_dim, "truncate_dim", most=served.dimension)
        self._dim = truncate_dim
        self.dimension = truncate_dim or served.dimension
        width = served.multi_vector_dimension
        self.multi_vector_dimension = min(width, truncate_dim or width)
        self.vocabulary_size = served.vocabulary_size
        self.has_sparse = self.has_multi_vector = served.multi_vector_dimension > 0
        self.takes_images = served.takes_images
        self.image_urls = None
        self.pooling = served.pooling  # type: ignore[assignment]
        #: The embedder that this one was made from by `for_task`.
        self._first: RemoteEmbedder | None = None
        given = {"query": query_instruction, "passage": passage_instruction}
        self._own_kinds = {kind for kind, text in given.items() if text is None}
        own = self._own_instructions(query_instruction)
        self.query_instruction = own.query if query_instruction is None else self._formatted(query_instruction)
        self.passage_instruction = own.passage if passage_instruction is None else passage_instruction
        check_text(self.passage_instruction, "passage_instruction")

    @property
    def _query_surroundings(self) -> str:
        surroundings = self._served.query_surroundings if "query" in self._own_kinds else None
        return self.query_instruction if surroundings is None else surroundings

    def count_tokens(self, texts: Iterable[Input], *, kind: TextKind | None = None) -> list[int]:
        """Return the number of tokens of each text; see `Embedder.count_tokens` and `tokens`."""
        return [len(tokens) for tokens in self.tokens(check_texts(texts, "texts"), kind=kind)]

    def too_long(self, texts: Iterable[Input], *, kind: TextKind | None = None) -> list[int]:
        """Return the positions of the texts that `encode` would cut; see `Embedder.too_long` and `tokens`."""
        return [i for i, tokens in enumerate(self.count_tokens(texts, kind=kind)) if tokens > self.max_length]

    def tokens(
        self, texts: Iterable[str], *, kind: TextKind | None = None, max_length: int | None = None
    ) -> list[list[Token]]:
        """Return the tokens of each text; see `Embedder.tokens`.

        Raises:
            NotSupportedError: The server does not return tokens.
        """
        self._transport.check_open()
        checked, prompt = check_texts(texts, "texts"), self._prompt(kind)

        async def ask(batch: Sequence[str]) -> list[list[Token]]:
            return await self._dialect.tokens(batch, prompt, max_length)

        return list(chain.from_iterable(network_loop.run(in_batches(checked, self._dialect, ask, prefix=prompt.text))))

    def for_task(self, task: str) -> RemoteEmbedder:
        """Return this embedder with the instruction of another task; see `Embedder.for_task`."""
        self._transport.check_open()
        row = check_takes_tasks(self.name, catalog.find(self.name))
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)  # the same connections, which either one closes
        twin._first = self  # they would be closed at its end
        twin.query_instruction = instructions_for(row, task, None).query
        twin._own_kinds = self._own_kinds - {"query"}
        return twin

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> NoReturn:
        """Raise NotSupportedError: the tokenizer is on the server."""
        raise NotSupportedError("a remote embedder does not decode token ids", advice="load the model locally")

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
        """Embed texts on the server, and images if its model takes them; see `Embedder.encode`.

        Raises:
            ServerError: The server could not be reached, failed, or answered something unexpected.
            OverloadedError: The server was overloaded for longer than the timeout.
            NotSupportedError: The server does not support an argument.
        """
        call = self._call(kind, (dense, sparse, multi_vector), max_length, normalize, on_truncate)
        checked = with_encoded_images(self._checked(texts))
        return self._gathered(call, checked, network_loop.run(self._send(call, checked, show_progress)))

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
        """Embed texts without blocking the event loop; cancelling drops the requests. See `encode`."""
        call = self._call(kind, (dense, sparse, multi_vector), max_length, normalize, on_truncate)
        checked = self._checked(texts)
        if not all(isinstance(each, str) for each in checked):
            checked = await asyncio.to_thread(with_encoded_images, checked)
        answers = await network_loop.arun(self._send(call, checked, show_progress))
        if len(answers) > 1:  # too much to copy on the event loop
            return await asyncio.to_thread(self._gathered, call, checked, answers)
        return self._gathered(call, checked, answers)

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
        found = self.encode(
            texts,
            kind=kind,
            max_length=max_length,
            normalize=normalize,
            on_truncate=on_truncate,
            show_progress=show_progress,
        ).dense
        assert found is not None
        return found

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
        found = await self.aencode(
            texts,
            kind=kind,
            max_length=max_length,
            normalize=normalize,
            on_truncate=on_truncate,
            show_progress=show_progress,
        )
        assert found.dense is not None
        return found.dense

    def shared_pass(self, normalize: bool) -> SharedPass:
        """Return the pass that the dense and the sparse adapter of this model share if their settings are equal."""
        instructions = self._query_surroundings, self.passage_instruction
        settings = (self.source, self.weights_digest, *instructions, self.max_length, self._dim, bool(normalize))
        with _passes_lock:
            return _passes.setdefault(settings, SharedPass())

    def _own_instructions(self, query_instruction: str | None) -> catalog.Instructions:
        """Return the model's own instructions: those that the server reports, or else the catalogue's."""
        if self._served.instructions is not None:
            return self._served.instructions
        row = catalog.find(self.name)
        if row is not None:
            return instructions_for(row, None, query_instruction)
        if query_instruction is None and self.name not in _reported:
            _reported.add(self.name)
            warn_caller(
                f"{self.device} serves {self.name!r}, and nothing says which instruction its queries need, so they get "
                "none. Pass query_instruction= (query_instruction='' if it was trained without one)",
                InstructionWarning,
            )
        return catalog.Instructions()

    def _formatted(self, query_instruction: str) -> str:
        """Return an instruction in the format of the model, if the catalogue has one."""
        check_text(query_instruction, "query_instruction")
        row = catalog.find(self.name)
        if query_instruction and row is not None and row.instruction_format:
            return formatted_instruction(row.instruction_format, query_instruction)
        return query_instruction

    def _prompt(self, kind: Literal["query", "passage"] | None) -> Prompt:
        text = self._instruction(kind)
        self._hint_at_kind(kind)
        if kind is UNSAID:
            kind = None
        return Prompt(kind, text, kind is None or kind in self._own_kinds)

    def _call(
        self,
        kind: TextKind | None,
        representations: tuple[bool, bool, bool],
        max_length: int | None,
        normalize: bool,
        on_truncate: OnTruncate,
    ) -> EmbedCall:
        """Check the arguments of a call; `representations` is (dense, sparse, multi_vector)."""
        self._transport.check_open()
        dense, sparse, multi_vector = check_representations(representations)
        if (sparse or multi_vector) and not self.has_sparse:
            raise InvalidInputError(
                f"{self.name} on {self.device} has dense vectors only",
                argument="sparse" if sparse else "multi_vector",
                advice="serve bge-m3 with `bge serve` for sparse vectors and multi-vectors",
            )
        check_on_truncate(on_truncate)
        if max_length is not None:
            check_whole_number(max_length, "max_length", most=self._longest)
        longest = self.max_length if max_length is None else max_length
        return EmbedCall(
            prompt=self._prompt(kind),
            dense=dense,
            sparse=sparse,
            multi_vector=multi_vector,
            max_length=None if longest == self._served.max_length else longest,
            truncate_dim=self._dim,
            normalize=bool(normalize),
            on_truncate=on_truncate,
        )

    async def _send(self, call: EmbedCall, texts: Sequence[Any], show_progress: bool) -> list[Answer]:
        """Return the answers to the batches of the distinct texts."""

        async def ask(batch: Sequence[Any]) -> Answer:
            return await self._dialect.embed(batch, call)

        distinct = list(dict.fromkeys(texts))
        return await in_batches(distinct, self._dialect, ask, prefix=call.prompt.text, show_progress=show_progress)

    def _gathered(self, call: EmbedCall, texts: Sequence[Any], answers: list[Answer]) -> Embeddings:
        """Return one result in the order of the call's texts, which may repeat."""
        numbers = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        report_truncation(sum(truncated for _, truncated in answers), len(numbers), call.on_truncate)
        embeddings = [embeddings for embeddings, _ in answers]
        dense = [np.empty((0, self.dimension), np.float32), *(e.dense for e in embeddings if e.dense is not None)]
        sparse = [row for e in embeddings if e.sparse is not None for row in e.sparse]
        multi_vector = [row for e in embeddings if e.multi_vector is not None for row in e.multi_vector]
        order = [numbers[text] for text in texts]
        return Embeddings(
            dense=np.concatenate(dense)[order] if call.dense else None,
            sparse=SparseVectors.from_rows([sparse[i] for i in order], self.vocabulary_size) if call.sparse else None,
            multi_vector=MultiVectors.from_rows([multi_vector[i] for i in order], self.multi_vector_dimension)
            if call.multi_vector
            else None,
        )

"""The reranker: query and passage pairs in, relevance scores out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bge_integrations.core.inputs import tokenize_chat_pairs, tokenize_pairs, tokenize_prompted_pairs
from bge_integrations.core.request import OnTruncate, Request, off_loop
from bge_integrations.core.session import Loaded
from bge_integrations.errors import InvalidInputError
from bge_integrations.models.interface import OutputSpec
from bge_integrations.validation import check_list, check_on_truncate, check_text, check_whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.core.early_exit import EarlyExit
    from bge_integrations.core.session import Session
    from bge_integrations.models.interface import SequenceOutput, TokenSequence
    from bge_integrations.models.profile import RerankerProfile

_DEFAULT_MAX_LENGTH = 512

Pair = tuple[str, str]


class Reranker(Loaded):
    """A loaded reranker, returned by `load_reranker`. Any number of threads and tasks can share it.

    Attributes:
        name: The published checkpoint's name, or the folder.
        max_length, query_max_length: Maximum number of tokens of a pair and of a query; a call can set its own.
        cutoff_layers: The numbers of layers after which it scores; empty for models that score only after the last.
        compression: (layer, ratio) pairs: before that layer, every `ratio` passage states are merged into one.
        prompt: The question that an LLM reranker is asked after the pair, whose tokens come on top of max_length; for
            Qwen3-Reranker, its instruction, which max_length includes.
    """

    def __init__(
        self,
        session: Session,
        profile: RerankerProfile,
        max_length: int | None,
        query_max_length: int | None,
        early: EarlyExit,
        prompt: str,
    ) -> None:
        super().__init__(session, profile.name)
        self.max_length = min(_DEFAULT_MAX_LENGTH, self._longest) if max_length is None else max_length
        check_whole_number(self.max_length, "max_length", most=self._longest)
        self.query_max_length = query_max_length
        if query_max_length is not None:
            check_whole_number(query_max_length, "query_max_length", most=self.max_length)
        self.cutoff_layers = early.cutoffs
        self.compression = early.compression
        self.prompt = prompt
        self._spec = OutputSpec(logit=True, cutoff_layers=tuple(sorted(early.cutoffs)), compression=early.compression)
        self._always_begin, self._chat = profile.always_begin, profile.chat
        self._tokenizer = session.model.tokenizer
        self._request([("a", "a")], None, None, "warn", False).tokenize([("a", "a")])  # raises if lengths leave no room

    def score(
        self,
        pairs: Iterable[Pair],
        *,
        normalize: bool = False,
        max_length: int | None = None,
        query_max_length: int | None = None,
        on_truncate: OnTruncate = "warn",
        show_progress: bool = False,
    ) -> NDArray[np.float32]:
        """Score how relevant each passage is to its query.

        Args:
            pairs: The n (query, passage) pairs.
            normalize: Apply the sigmoid to the logits, which gives scores in (0, 1).
            max_length: Maximum number of tokens of a pair in this call.
            query_max_length: Maximum number of tokens of a query in this call; three quarters of max_length if only
                max_length is given.
            on_truncate: "warn" once with the number of truncated pairs, "error" to raise before computing, or
                "ignore".
            show_progress: Show a progress bar.

        Returns:
            float32 (n,), in the order of the pairs; higher is more relevant. With several cut-offs, (cut-offs, n) in
            the order of `cutoff_layers`.

        Raises:
            InvalidInputError: `pairs` is not a list of pairs of str, or the lengths leave no room for a passage.
            TextTooLongError: A pair is too long, with `on_truncate="error"`.
            OutOfMemoryError: A single pair does not fit in memory.
            NonFiniteError: The model returned NaN or infinity.
            ComputationError: The model failed in another way.
            OverloadedError: The queue is full and the runtime is configured to refuse calls.
            ClosedError: After `close()`.
        """
        request = self._request(pairs, max_length, query_max_length, on_truncate, show_progress)
        return self._gather(request, self._session.run(request), normalize)

    async def ascore(
        self,
        pairs: Iterable[Pair],
        *,
        normalize: bool = False,
        max_length: int | None = None,
        query_max_length: int | None = None,
        on_truncate: OnTruncate = "warn",
        show_progress: bool = False,
    ) -> NDArray[np.float32]:
        """Score pairs without blocking the event loop; cancelling drops work that has not started. See `score`."""
        arguments = pairs, max_length, query_max_length, on_truncate, show_progress
        request = await off_loop(pairs, self._request, *arguments)
        return self._gather(request, await self._session.arun(request), normalize)

    def _request(
        self,
        pairs: Iterable[Pair],
        max_length: int | None,
        query_max_length: int | None,
        on_truncate: OnTruncate,
        show_progress: bool,
    ) -> Request[Pair]:
        """Check the arguments of a call."""
        checked = check_pairs(pairs)
        check_on_truncate(on_truncate)
        longest = self.max_length if max_length is None else max_length
        check_whole_number(longest, "max_length", most=self._longest)
        if query_max_length is None:
            query_max_length = (self.query_max_length if max_length is None else None) or max(1, longest * 3 // 4)
        check_whole_number(query_max_length, "query_max_length", most=longest)
        tokenize = self._tokenizing(longest, query_max_length)
        return Request.of(checked, tokenize, longest, self._spec, on_truncate, show_progress)

    def _tokenizing(
        self, max_length: int, query_max_length: int
    ) -> Callable[[Sequence[Pair]], tuple[list[TokenSequence], dict[int, int]]]:
        """Return a function that tokenises pairs, and returns the lengths of the truncated ones."""
        if not self.prompt:
            return partial(tokenize_pairs, self._tokenizer, max_length=max_length, query_max_length=query_max_length)
        if self._chat is not None:
            return partial(
                tokenize_chat_pairs,
                self._tokenizer,
                chat=self._chat,
                prompt=self.prompt,
                max_length=max_length,
                query_max_length=query_max_length,
            )
        return partial(
            tokenize_prompted_pairs,
            self._tokenizer,
            prompt=self.prompt,
            max_length=max_length,
            query_max_length=query_max_length,
            always_begin=self._always_begin,
        )

    def _gather(self, request: Request[Pair], outputs: list[SequenceOutput], normalize: bool) -> NDArray[np.float32]:
        """Return the scores in the order of the call's pairs, which may repeat."""
        logits = np.array([outputs[i].logit for i in request.positions], dtype=np.float32)
        cutoffs = self.cutoff_layers
        if len(cutoffs) > 1:
            ascending = sorted(cutoffs)
            logits = logits.reshape(-1, len(cutoffs)).T[[ascending.index(cutoff) for cutoff in cutoffs]]
        else:
            logits = logits.reshape(-1)
        # 1 / (1 + exp(-x)), without overflow
        return np.exp(-np.logaddexp(np.float32(0), -logits)) if normalize else logits


def check_pairs(pairs: object) -> list[Pair]:
    """Return `pairs` as a list of (query, passage) that the tokenizer can read."""
    if isinstance(pairs, (str, bytes, Mapping)):
        raise InvalidInputError(f"pairs must be a list of (query, passage), got {type(pairs).__name__}")
    checked = []
    for i, pair in enumerate(check_list(pairs, "pairs", "(query, passage)")):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InvalidInputError(
                f"pairs[{i}] must be a (query, passage) pair, got {type(pair).__name__}"
                + ("; wrap a single pair: [(query, passage)]" if isinstance(pair, str) else "")
            )
        check_text(pair[0], f"pairs[{i}][0]")
        check_text(pair[1], f"pairs[{i}][1]")
        checked.append((pair[0], pair[1]))
    return checked

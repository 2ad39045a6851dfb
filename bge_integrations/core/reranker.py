"""The reranker: query and passage pairs in, relevance scores out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bge_integrations.core.prompts import tokenize_pairs, tokenize_prompted_pairs
from bge_integrations.core.session import Loaded, OnTruncate, Session, Work, place
from bge_integrations.errors import InvalidInputError
from bge_integrations.models.checkpoint import locate
from bge_integrations.models.interface import OutputSpec
from bge_integrations.models.profile import check_request, reranker_profile
from bge_integrations.validation import check_on_truncate, check_text, check_whole_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.catalog import Family
    from bge_integrations.models.interface import SequenceOutput, TokenSequence
    from bge_integrations.models.profile import RerankerProfile

_DEFAULT_MAX_LENGTH = 512
_RATIOS = (1, 2, 4, 8)
_COMPRESS_LAYERS = (8,)


def load_reranker(
    model: str | os.PathLike[str],
    *,
    device: str | list[str] | None = None,
    dtype: str | torch.dtype | None = None,
    max_length: int | None = None,
    query_max_length: int | None = None,
    cutoff_layers: int | Sequence[int] | None = None,
    compress_ratio: int | None = None,
    compress_layers: int | Sequence[int] | None = None,
    prompt: str | None = None,
    family: Family | None = None,
    revision: str | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
) -> Reranker:
    """Load a BGE reranker, or share the copy that this process already holds.

    Args:
        model: A hub id ("BAAI/bge-reranker-v2-m3"), a checkpoint folder, or "pocket".
        device: "cpu", "cuda", "cuda:1", or several CUDA devices; None takes CUDA where there is one.
        dtype: "float32", "bfloat16", "float16" (CUDA only) or "int8" (CPU only); None takes bfloat16 on CUDA and
            float32 on CPU.
        max_length: Longest pair in tokens, specials included; None takes 512, or less where the model holds less.
        query_max_length: Longest query in tokens; None takes three quarters of max_length.
        cutoff_layers: Layerwise and lightweight rerankers only: score after so many layers; layers above are neither
            read nor computed. Several give scores after each of them, from one pass. None takes all layers.
        compress_ratio: Lightweight only: each so many neighbouring states of a passage become one: 1 (None: no
            compression), 2, 4 or 8.
        compress_layers: Lightweight only: before which layers (from 0) that happens; None takes 8.
        prompt: LLM rerankers only: what is asked behind the pair, instead of the model's own question.
        family: For your own LLM reranker: "llm_reranker", "layerwise_reranker" or "lightweight_reranker".
        revision: Branch, tag or commit on the hub.
        cache_folder: The hub's cache; None takes the usual one.
        local_files_only: Never touch the network.

    Raises:
        CheckpointNotFoundError: Neither a folder nor in the cache, and it could not be downloaded.
        CheckpointError: A file is missing, damaged or does not fit.
        NotSupportedError: Its config.json asks for something that is not done here.
        WrongKindError: It is no reranker.
        InvalidInputError: An argument can't be used.
    """
    check_request(model, "reranker", family)
    placement = place(device, dtype)
    name, folder = locate(
        model, "reranker", revision=revision, cache_folder=cache_folder, local_files_only=local_files_only
    )
    profile = reranker_profile(name, folder, family)
    early = EarlyExit.of(profile, cutoff_layers, compress_ratio, compress_layers)
    prompt = _prompt(profile, prompt)
    session = Session(folder, profile.family, *placement, early.layers)
    try:
        return Reranker(session, profile, max_length, query_max_length, early, prompt)
    except BaseException:
        session.close()
        raise


@dataclass(frozen=True)
class EarlyExit:
    """How much of an LLM reranker is computed.

    Attributes:
        cutoffs: After how many layers there are scores, as asked for; empty is after all.
        compression: (layer, ratio) pairs, ascending.
    """

    cutoffs: tuple[int, ...] = ()
    compression: tuple[tuple[int, int], ...] = ()

    @property
    def layers(self) -> int | None:
        """How many layers are needed; None is all."""
        return max(self.cutoffs, default=None)

    @classmethod
    def of(
        cls,
        profile: RerankerProfile,
        cutoff_layers: int | Sequence[int] | None,
        compress_ratio: int | None,
        compress_layers: int | Sequence[int] | None,
    ) -> EarlyExit:
        """From the arguments of `load_reranker`.

        Raises:
            InvalidInputError: They do not fit the model.
        """
        if cutoff_layers is not None and not profile.cutoffs:
            raise InvalidInputError(f"{profile.name} has scores after its last layer only; leave cutoff_layers= out")
        if not (compress_ratio is None and compress_layers is None) and not profile.compresses:
            raise InvalidInputError(
                f"{profile.name} compresses nothing; leave compress_ratio= and compress_layers= out"
            )
        cutoffs = _whole_numbers("cutoff_layers", profile.cutoffs[-1:] if cutoff_layers is None else cutoff_layers)
        wrong = [cutoff for cutoff in cutoffs if cutoff not in profile.cutoffs]
        if cutoff_layers is not None and not cutoffs:
            raise InvalidInputError("cutoff_layers=[] names no layer; leave it out for the last")
        if wrong or len(set(cutoffs)) < len(cutoffs):
            raise InvalidInputError(
                f"cutoff_layers={cutoff_layers!r}: {profile.name} has scores after "
                f"{', '.join(map(str, profile.cutoffs))} layers; name each once at most"
            )
        if compress_ratio is not None and (type(compress_ratio) is not int or compress_ratio not in _RATIOS):
            raise InvalidInputError(f"compress_ratio={compress_ratio!r} is none of {', '.join(map(str, _RATIOS))}")
        if compress_ratio is None and compress_layers is not None:
            raise InvalidInputError("compress_layers= does nothing without compress_ratio=; pass 2, 4 or 8")
        ratio = compress_ratio or 1
        if ratio == 1 and compress_layers is None:
            return cls(cutoffs)
        layers = _whole_numbers("compress_layers", _COMPRESS_LAYERS if compress_layers is None else compress_layers)
        if not layers or not all(0 <= layer < profile.cutoffs[-1] for layer in layers):
            raise InvalidInputError(
                f"compress_layers={list(layers)} must be of the layers 0 to {profile.cutoffs[-1] - 1}"
            )
        if ratio > 1 and min(layers) >= max(cutoffs):
            raise InvalidInputError(
                f"compress_layers={list(layers)} does nothing below the cut-off {max(cutoffs)}; name a lower layer"
            )
        return cls(cutoffs, tuple((layer, ratio) for layer in sorted(set(layers))) if ratio > 1 else ())


def _whole_numbers(argument: str, numbers: int | Sequence[int]) -> tuple[int, ...]:
    found: tuple[Any, ...] = (numbers,)
    if isinstance(numbers, Sequence) and not isinstance(numbers, (str, bytes)):
        found = tuple(numbers)
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in found):
        raise InvalidInputError(f"{argument}={numbers!r} must be a whole number or a list of these")
    return found


def _prompt(profile: RerankerProfile, prompt: str | None) -> str:
    """What an LLM reranker is asked; "" for others."""
    own = profile.prompt
    if prompt is None:
        return own
    if not own:
        raise InvalidInputError(f"{profile.name} takes no prompt; leave prompt= out")
    check_text(prompt, "prompt")
    if not prompt.strip():
        raise InvalidInputError("the prompt is empty; leave prompt= out for the model's own")
    return prompt


class Reranker(Loaded):
    """A loaded reranker. Made by `load_reranker`; safe to use from any number of threads and tasks.

    Attributes:
        name: The published checkpoint's name, or the folder.
        max_length, query_max_length: Longest pair and longest query in tokens, unless a call asks for less.
        cutoff_layers: After how many layers there are scores; empty for models that score after their last alone.
        compression: (layer, ratio) pairs: before which layers so many states of a passage become one.
        prompt: What an LLM reranker is asked behind the pair; it comes on top of max_length.
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
        self._wanted = OutputSpec(logit=True, cutoff_layers=tuple(sorted(early.cutoffs)), compression=early.compression)
        self._always_begin = profile.always_begin

    def score(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        normalize: bool = False,
        max_length: int | None = None,
        query_max_length: int | None = None,
        on_truncate: OnTruncate = "warn",
        show_progress: bool = False,
    ) -> NDArray[np.float32]:
        """How relevant each passage is to its query.

        Args:
            pairs: (query, passage) pairs, n of them.
            normalize: Return the logits' sigmoid, in (0, 1), instead of the logits.
            max_length: Other than the reranker's own, for this call.
            query_max_length: Likewise; three quarters of max_length if only that is given.
            on_truncate: "warn" once with the number of pairs cut, "error" to refuse before computing, or "ignore".
            show_progress: Show a bar.

        Returns:
            float32 (n,), in the order of the pairs; higher is more relevant. Where several cut-offs were asked for,
            (cut-offs, n), in the order of `cutoff_layers`.

        Raises:
            InvalidInputError: Not a list of pairs of str, or lengths that leave no room for a passage.
            TextTooLongError: With `on_truncate="error"`.
            OutOfMemoryError: A single pair does not fit in memory.
            NonFiniteError: The model gave NaN or infinity.
            ComputationError: The model failed otherwise.
            ClosedError: After `close()`.
        """
        request = _Request(self, pairs, max_length, query_max_length, on_truncate)
        outputs = self._session.run(request.work(on_truncate, show_progress))
        return request.gather(outputs, normalize)

    async def ascore(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        normalize: bool = False,
        max_length: int | None = None,
        query_max_length: int | None = None,
        on_truncate: OnTruncate = "warn",
        show_progress: bool = False,
    ) -> NDArray[np.float32]:
        """As `score`, without blocking the event loop; cancelling it drops the work that has not begun."""
        request = _Request(self, pairs, max_length, query_max_length, on_truncate)
        characters = sum(len(query) + len(passage) for query, passage in request.unique)
        outputs = await self._session.arun(request.work(on_truncate, show_progress), characters)
        return request.gather(outputs, normalize)


class _Request:
    """The checked arguments of one call, as in `embedder.py`."""

    def __init__(
        self,
        reranker: Reranker,
        pairs: Iterable[tuple[str, str]],
        max_length: int | None,
        query_max_length: int | None,
        on_truncate: OnTruncate,
    ) -> None:
        checked = _check_pairs(pairs)
        check_on_truncate(on_truncate)
        self._max_length = reranker.max_length if max_length is None else max_length
        check_whole_number(self._max_length, "max_length", most=reranker._longest)
        own = reranker.query_max_length if max_length is None else None
        chosen = query_max_length if query_max_length is not None else own or max(1, self._max_length * 3 // 4)
        check_whole_number(chosen, "query_max_length", most=self._max_length)
        self._query_max_length = chosen
        self._tokenizer = reranker._session.model.tokenizer
        self._reranker = reranker
        numbers: dict[tuple[str, str], int] = {}
        self._places = [numbers.setdefault(pair, len(numbers)) for pair in checked]
        self.unique: Sequence[tuple[str, str]] = list(numbers)

    def work(self, on_truncate: OnTruncate, show_progress: bool) -> Work[tuple[str, str]]:
        return Work(self.unique, self._tokenize, self._reranker._wanted, on_truncate, show_progress)

    def _tokenize(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[TokenSequence], int]:
        lengths = self._max_length, self._query_max_length
        if not self._reranker.prompt:
            return tokenize_pairs(self._tokenizer, pairs, *lengths)
        return tokenize_prompted_pairs(
            self._tokenizer, pairs, self._reranker.prompt, *lengths, always_begin=self._reranker._always_begin
        )

    def gather(self, outputs: list[SequenceOutput], normalize: bool) -> NDArray[np.float32]:
        logits = np.array([outputs[place].logit for place in self._places], dtype=np.float32)
        cutoffs = self._reranker.cutoff_layers
        if len(cutoffs) > 1:
            found = sorted(cutoffs)
            logits = logits.reshape(-1, len(cutoffs)).T[[found.index(cutoff) for cutoff in cutoffs]]
        else:
            logits = logits.reshape(-1)
        # 1 / (1 + exp(-x)), without overflow
        return np.exp(-np.logaddexp(np.float32(0), -logits)) if normalize else logits


def _check_pairs(pairs: object) -> list[tuple[str, str]]:
    if isinstance(pairs, (str, bytes)) or not isinstance(pairs, Iterable):
        raise InvalidInputError(f"pairs must be a list of (query, passage), got {type(pairs).__name__}")
    found = []
    for i, pair in enumerate(pairs):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InvalidInputError(
                f"pairs[{i}] must be a (query, passage) pair, got {type(pair).__name__}"
                + ("; wrap a single pair: [(query, passage)]" if isinstance(pair, str) else "")
            )
        check_text(pair[0], f"pairs[{i}][0]")
        check_text(pair[1], f"pairs[{i}][1]")
        found.append((pair[0], pair[1]))
    return found

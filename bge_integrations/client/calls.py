"""What a client asks a server for, and what a dialect gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bge_integrations.errors import NonFiniteError, NotSupportedError
from bge_integrations.outputs import Token

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.catalog import Instructions, Kind
    from bge_integrations.client.transport import Transport
    from bge_integrations.core.embedder import TextKind
    from bge_integrations.core.request import OnTruncate
    from bge_integrations.core.reranker import Pair
    from bge_integrations.outputs import Embeddings


@dataclass(frozen=True)
class ServedModel:
    """What a server says about a model.

    Attributes:
        name: Its name there.
        weights: The digest of its weights; with other servers than ours, their own names of model and revision.
        max_length: Maximum number of tokens of a text or pair.
        dtype, pooling: As in `Embedder`; "" if the server does not say.
        instructions: Its own instructions; None if the server does not say, and the client prepends them.
        query_surroundings: All text around a query, if that is more than the instruction.
        dimension, multi_vector_dimension, vocabulary_size: Widths of the representations; 0 without them.
        takes_images: Whether it also embeds images.
    """

    name: str
    weights: str
    max_length: int
    dtype: str = ""
    pooling: str = ""
    instructions: Instructions | None = None
    query_surroundings: str | None = None
    dimension: int = 0
    multi_vector_dimension: int = 0
    vocabulary_size: int = 0
    takes_images: bool = False


@dataclass(frozen=True)
class Prompt:
    """What is prepended to the texts of a call.

    Attributes:
        kind: What the texts are.
        text: The instruction for this kind.
        is_own: Whether it is the model's own; if not, the user chose it.
    """

    kind: TextKind | None
    text: str
    is_own: bool


@dataclass(frozen=True)
class EmbedCall:
    """The settings of a call of `encode`.

    Attributes:
        prompt: What is prepended to the texts.
        dense, sparse, multi_vector: The representations to return.
        max_length: Maximum number of tokens of a text; None if it is the model's own.
        truncate_dim: Number of dimensions to keep; None keeps all.
        normalize: Whether to scale vectors to unit length.
        on_truncate: What to do about texts that are too long.
    """

    prompt: Prompt
    dense: bool
    sparse: bool
    multi_vector: bool
    max_length: int | None
    truncate_dim: int | None
    normalize: bool
    on_truncate: OnTruncate


@dataclass(frozen=True)
class ScoreCall:
    """The settings of a call of `score`.

    Attributes:
        normalize: Whether to return sigmoids.
        max_length, query_max_length: Maximum number of tokens of a pair and of its query; None if they are the model's
            own.
        on_truncate: What to do about pairs that are too long.
    """

    normalize: bool
    max_length: int | None
    query_max_length: int | None
    on_truncate: OnTruncate


class Dialect(Protocol):
    """How to talk to one kind of server.

    Attributes:
        max_batch: Maximum number of texts or pairs in a request.
        max_bytes: Maximum bytes of a request's texts, as JSON.
    """

    max_batch: int
    max_bytes: int

    async def describe(self, kind: Kind) -> ServedModel:
        """Return what the server says about its model of this kind.

        Raises:
            WrongKindError: The model is of the other kind.
            InvalidInputError: The server has no such model, or several and the URL does not say which.
        """

    async def embed(self, texts: Sequence[Any], call: EmbedCall) -> tuple[Embeddings, int]:
        """Return the embeddings of a batch of texts, or also of images, and the number of truncated texts."""

    async def score(self, pairs: Sequence[Pair], call: ScoreCall) -> tuple[NDArray[np.float32], int]:
        """Return the scores of a batch, float32 (n,), and the number of truncated pairs."""

    async def tokens(self, texts: Sequence[str], prompt: Prompt, max_length: int | None) -> list[list[Token]]:
        """Return the tokens of each text, with its instruction and with special tokens; None truncates nothing.

        Raises:
            NotSupportedError: The server does not return tokens.
        """


def check_finite(vectors: NDArray[np.float32], source: str) -> None:
    """Raise NonFiniteError if a server's vectors or scores have NaN or infinity."""
    if not np.isfinite(vectors).all():
        raise NonFiniteError(f"{source} returned NaN or infinity", advice="check the server's precision and its log")


def dense_of(vectors: Any, count: int, width: int | None, transport: Transport) -> NDArray[np.float32]:
    """Return the vectors of a JSON answer as float32 (count, width); a width of None accepts any.

    Raises:
        ServerError: It has not one vector of this width per text.
        NonFiniteError: They have NaN or infinity.
    """
    try:
        dense = np.array(vectors, np.float32)
    except (TypeError, ValueError):
        raise transport.unexpected("it answered without vectors, or with vectors of different widths") from None
    if dense.ndim != 2 or len(dense) != count or dense.shape[1] != (width or max(1, dense.shape[1])):
        raise transport.unexpected(f"{count} texts got vectors of shape {dense.shape}")
    check_finite(dense, transport.address.base)
    return dense


def shortened(dense: NDArray[np.float32], dim: int | None, normalize: bool) -> NDArray[np.float32]:
    """Return the first `dim` columns, and unit rows if `normalize` is set."""
    dense = dense[:, :dim]
    if not normalize:
        return np.ascontiguousarray(dense)
    norms = np.linalg.norm(dense, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(dense, np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)
    return unit


def by_query(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    """Return the positions of the pairs of each query, for servers that score one query at a time."""
    positions: dict[str, list[int]] = {}
    for i, (query, _) in enumerate(pairs):
        positions.setdefault(query, []).append(i)
    return positions


def ranked_scores(ranked: Any, key: str, count: int, transport: Transport) -> NDArray[np.float32]:
    """Return the scores of a ranking, [{"index": …, key: …}], in the order of the texts.

    Raises:
        ServerError: It has not one score per text.
        NonFiniteError: A score is NaN or infinity.
    """
    try:
        found = {row["index"]: float(row[key]) for row in ranked}
    except (KeyError, TypeError, ValueError) as error:
        raise transport.unexpected(f"it answered without scores ({error!r})") from None
    if len(ranked) != count or found.keys() != set(range(count)):
        raise transport.unexpected(f"{count} texts got {len(ranked)} scores, with the positions {sorted(found)[:10]}")
    scores = np.array([found[i] for i in range(count)], np.float32)
    check_finite(scores, transport.address.base)
    return scores


def refuse_max_length(max_length: int | None, transport: Transport) -> None:
    """Raise NotSupportedError if a length is given to a server that truncates at its own."""
    if max_length is not None:
        raise NotSupportedError(
            f"{transport.address.base} truncates at its own maximum length",
            argument="max_length",
            advice="leave max_length and query_max_length out, or use `bge serve`",
        )


def token_of(token: Mapping[str, Any], text: str, prefix: int) -> Token:
    """Return a token of a JSON answer, whose offsets count the `prefix` characters before the text, too.

    Raises:
        KeyError, TypeError: It is not a token.
    """
    start, stop = token["start"], token["stop"]
    if start is None or start < prefix or start == stop:
        return Token(token["id"], token["text"], None, None, token["special"])
    return Token(token["id"], text[start - prefix : stop - prefix], start - prefix, stop - prefix, token["special"])

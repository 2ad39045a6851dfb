"""The dialects of OpenAI (`/embeddings`) and of Cohere and Jina (`/rerank`): vLLM, infinity and others."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bge_integrations import catalog
from bge_integrations.client.calls import (
    ServedModel,
    by_query,
    dense_of,
    ranked_scores,
    refuse_max_length,
    shortened,
)
from bge_integrations.errors import InvalidInputError, NotSupportedError, ServerError
from bge_integrations.outputs import Embeddings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.catalog import Kind
    from bge_integrations.client.calls import EmbedCall, Prompt, ScoreCall
    from bge_integrations.client.transport import Transport
    from bge_integrations.core.request import OnTruncate
    from bge_integrations.core.reranker import Pair
    from bge_integrations.outputs import Token

#: The maximum length of a model if neither the server nor the catalogue has it.
_MAX_LENGTH = 512


class OpenAIDialect:
    """A server with OpenAI's routes. It does not say which texts it truncated, if it truncates at all.

    Args:
        transport: The connections to the server.
    """

    max_batch = 64
    max_bytes = 1_900_000

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._prefix = "/v1"
        self._name = ""
        self._dimension: int | None = None

    async def describe(self, kind: Kind) -> ServedModel:
        """See `Dialect`."""
        models = await self._models()
        name = self._name = self._choose(models)
        row = catalog.find(name)
        if kind == "embedder":
            self._dimension = (await self._vectors(["a"])).shape[1]
        length = models.get(name, {}).get("max_model_len") or (row.max_length if row else _MAX_LENGTH)
        pooling = row.pooling or "" if row else ""
        return ServedModel(name, f"openai {name}", int(length), pooling=pooling, dimension=self._dimension or 0)

    async def embed(self, texts: Sequence[str], call: EmbedCall) -> tuple[Embeddings, int]:
        """See `Dialect`."""
        refuse_max_length(call.max_length, self._transport)
        self._refuse_on_truncate(call.on_truncate)
        if not call.normalize:
            raise self._unsupported("normalize", "returns vectors as it normalizes them", "leave normalize=False out")
        dense = await self._vectors([call.prompt.text + text for text in texts])
        return Embeddings(shortened(dense, call.truncate_dim, normalize=True)), 0

    async def score(self, pairs: Sequence[Pair], call: ScoreCall) -> tuple[NDArray[np.float32], int]:
        """See `Dialect`."""
        refuse_max_length(call.max_length or call.query_max_length, self._transport)
        self._refuse_on_truncate(call.on_truncate)
        scores = np.empty(len(pairs), np.float32)
        for query, positions in by_query(pairs).items():
            documents = [pairs[i][1] for i in positions]
            body = {"model": self._name, "query": query, "documents": documents, "return_documents": False}
            answer = await self._transport.post(f"{self._prefix}/rerank", body)
            rows = answer.get("results") if isinstance(answer, dict) else None
            scores[positions] = ranked_scores(rows, "relevance_score", len(documents), self._transport)
        if not ((scores >= 0) & (scores <= 1)).all():
            raise self._transport.unexpected("its relevance scores are not between 0 and 1, as Cohere defines them")
        return scores if call.normalize else _logits(scores), 0

    async def tokens(self, texts: Sequence[str], prompt: Prompt, max_length: int | None) -> list[list[Token]]:
        """See `Dialect`."""
        raise NotSupportedError(
            f"{self._transport.address.base} does not return tokens", advice="use `bge serve` or TEI, or a local model"
        )

    async def _models(self) -> dict[str, dict[str, Any]]:
        """Return the server's models by name, and find out whether its routes begin with /v1."""
        try:
            answer = await self._transport.get("/v1/models")
        except ServerError:
            try:
                answer = await self._transport.get("/models")
                self._prefix = ""
            except ServerError:
                if self._transport.address.model is None:
                    raise
                return {}
        try:
            return {row["id"]: row for row in answer["data"]}
        except (KeyError, TypeError) as error:
            raise self._transport.unexpected(f"its list of models is not OpenAI's ({error!r})") from None

    def _choose(self, models: dict[str, dict[str, Any]]) -> str:
        wanted = self._transport.address.model
        if wanted is not None:
            return wanted
        if len(models) == 1:
            return next(iter(models))
        base = self._transport.address.base
        raise InvalidInputError(
            f"{base} has {len(models)} models",
            argument="model",
            advice=f"name one of them as {base}?model=NAME: {', '.join(models)}",
        )

    async def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        body = {"model": self._name, "input": list(texts), "encoding_format": "base64"}
        answer = await self._transport.post(f"{self._prefix}/embeddings", body)
        try:
            rows = sorted(answer["data"], key=lambda row: row["index"])
            positions = [row["index"] for row in rows]
            vectors = [_decoded(row["embedding"]) for row in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise self._transport.unexpected(f"/embeddings answered without embeddings ({error!r})") from None
        if positions != list(range(len(texts))):
            raise self._transport.unexpected(f"{len(texts)} texts got {len(rows)} embeddings, at {positions[:10]}")
        return dense_of(vectors, len(texts), self._dimension, self._transport)

    def _refuse_on_truncate(self, on_truncate: OnTruncate) -> None:
        if on_truncate == "error":
            raise self._unsupported("on_truncate", "does not say which texts it truncates", "leave 'error' out")

    def _unsupported(self, argument: str, finding: str, advice: str) -> NotSupportedError:
        return NotSupportedError(f"{self._transport.address.base} {finding}", argument=argument, advice=advice)


def _decoded(embedding: str | list[float]) -> Any:
    """Return an embedding in base64 as floats; servers that ignore `encoding_format` send a list."""
    return np.frombuffer(base64.b64decode(embedding), "<f4") if isinstance(embedding, str) else embedding


def _logits(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits of sigmoids. Those that round to 0 or 1 become the nearest that does not."""
    limits = np.finfo(np.float32)
    clipped = np.clip(probabilities.astype(np.float64), limits.tiny, 1 - limits.epsneg)
    logits: NDArray[np.float32] = np.log(clipped / (1 - clipped)).astype(np.float32)
    return logits

"""The dialect of Hugging Face's text-embeddings-inference (TEI): dense vectors and reranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bge_integrations.client.calls import (
    ServedModel,
    by_query,
    dense_of,
    ranked_scores,
    refuse_max_length,
    shortened,
    token_of,
)
from bge_integrations.errors import InvalidInputError, TextTooLongError, WrongKindError
from bge_integrations.outputs import Embeddings, Token

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.catalog import Kind
    from bge_integrations.client.calls import EmbedCall, Prompt, ScoreCall
    from bge_integrations.client.transport import Transport
    from bge_integrations.core.request import OnTruncate
    from bge_integrations.core.reranker import Pair


class TEIDialect:
    """TEI. The instruction is part of the texts that are sent; `prompt_name` is never used.

    Args:
        transport: The connections to the server.
        info: What it answered to GET /info.
    """

    max_bytes = 1_900_000

    def __init__(self, transport: Transport, info: Mapping[str, Any]) -> None:
        self._transport = transport
        self._info = info
        self._dimension = 0
        self._max_length = int(info.get("max_input_length") or 512)
        self.max_batch = max(1, int(info.get("max_client_batch_size") or 32))

    async def describe(self, kind: Kind) -> ServedModel:
        """See `Dialect`."""
        types = self._info.get("model_type")
        name, sha = self._info["model_id"], self._info.get("model_sha") or "unknown revision"
        served = {"embedding": "embedder", "reranker": "reranker"}.get(next(iter(types), "")) if types else None
        if served != kind:
            article = "an" if served == "embedder" else "a"
            what = f"{article} {served}" if served else "not a model of this kind"
            raise WrongKindError(f"{name} on {self._transport.address.base} is {what}", "use another server", kind)
        pooling = types["embedding"].get("pooling", "") if kind == "embedder" and isinstance(types, dict) else ""
        if kind == "embedder":
            vector = await self._transport.post("/embed", {"inputs": ["a"], "truncate": True, "normalize": True})
            self._dimension = dense_of(vector, 1, None, self._transport).shape[1]
        return ServedModel(
            name=name,
            weights=f"tei {name} {sha}",
            max_length=self._max_length,
            dtype=str(self._info.get("model_dtype") or ""),
            pooling=pooling,
            dimension=self._dimension,
        )

    async def embed(self, texts: Sequence[str], call: EmbedCall) -> tuple[Embeddings, int]:
        """See `Dialect`."""
        refuse_max_length(call.max_length, self._transport)
        inputs = [call.prompt.text + text for text in texts]
        body = {"inputs": inputs, "normalize": call.normalize and call.truncate_dim is None}
        vectors, truncated = await self._post("/embed", body, inputs, call.on_truncate)
        dense = dense_of(vectors, len(texts), self._dimension, self._transport)
        return Embeddings(shortened(dense, call.truncate_dim, call.normalize)), truncated

    async def score(self, pairs: Sequence[Pair], call: ScoreCall) -> tuple[NDArray[np.float32], int]:
        """See `Dialect`."""
        refuse_max_length(call.max_length or call.query_max_length, self._transport)
        scores = np.empty(len(pairs), np.float32)
        truncated = 0
        for query, positions in by_query(pairs).items():
            texts = [pairs[i][1] for i in positions]
            body = {"query": query, "texts": texts, "raw_scores": not call.normalize}
            # "query passage" has the same tokens as the pair, except for one or two special tokens
            ranked, too_long = await self._post("/rerank", body, [f"{query} {t}" for t in texts], call.on_truncate)
            scores[positions] = ranked_scores(ranked, "score", len(texts), self._transport)
            truncated += too_long
        return scores, truncated

    async def tokens(self, texts: Sequence[str], prompt: Prompt, max_length: int | None) -> list[list[Token]]:
        """See `Dialect`."""
        refuse_max_length(max_length, self._transport)
        rows = await self._tokenize([prompt.text + text for text in texts])
        try:
            return [
                [token_of(token, text, len(prompt.text)) for token in row]
                for text, row in zip(texts, rows, strict=True)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise self._transport.unexpected(f"/tokenize answered without tokens ({error!r})") from None

    async def _post(
        self, path: str, body: dict[str, Any], inputs: Sequence[str], on_truncate: OnTruncate
    ) -> tuple[Any, int]:
        """Return the answer, and how many inputs were truncated: TEI refuses long inputs unless told to truncate."""
        if on_truncate == "ignore":
            return await self._transport.post(path, {**body, "truncate": True}), 0
        try:
            return await self._transport.post(path, {**body, "truncate": False}), 0
        except InvalidInputError as error:
            too_long = sum(len(row) > self._max_length for row in await self._tokenize(inputs))
            if not too_long:
                raise
            if on_truncate == "error":
                raise TextTooLongError(
                    f"{too_long} of {len(inputs)} inputs have more than {self._max_length} tokens",
                    advice="split them, or allow truncation with on_truncate='warn'",
                ) from error
        return await self._transport.post(path, {**body, "truncate": True}), too_long

    async def _tokenize(self, inputs: Sequence[str]) -> list[list[dict[str, Any]]]:
        rows: list[list[dict[str, Any]]] = await self._transport.post("/tokenize", {"inputs": list(inputs)})
        return rows

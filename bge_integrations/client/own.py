"""The dialect of `bge serve`: all representations in one call, in safetensors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bge_integrations.catalog import Instructions
from bge_integrations.client.calls import ServedModel, check_finite, token_of
from bge_integrations.client.images import as_json
from bge_integrations.errors import InvalidInputError, NotSupportedError, WrongKindError, WrongModelError
from bge_integrations.outputs import Embeddings, MultiVectors, SparseVectors, Token

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.catalog import Kind
    from bge_integrations.client.calls import EmbedCall, Prompt, ScoreCall
    from bge_integrations.client.transport import Transport
    from bge_integrations.core.image_inputs import ImageInput
    from bge_integrations.core.reranker import Pair

_SAFETENSORS = "application/vnd.safetensors"
#: Bytes of a request that are not texts.
_ENVELOPE = 4096


class OwnDialect:
    """`bge serve`.

    Args:
        transport: The connections to the server.
        info: What it answered to GET /info.
    """

    def __init__(self, transport: Transport, info: Mapping[str, Any]) -> None:
        self._transport = transport
        self._model: ServedModel
        limits = info.get("limits")
        limits = limits if isinstance(limits, Mapping) else {}
        self.max_batch = max(1, int(limits.get("max_client_batch_size") or 32))
        self.max_bytes = max(1, int(limits.get("payload_limit") or 2_000_000) - _ENVELOPE)

    async def describe(self, kind: Kind) -> ServedModel:
        """See `Dialect`. Waits until the server is ready, and lets it load the model if it has not yet."""
        await self._transport.get("/ready")  # 503 until then, which is tried again
        row = self._row(await self._transport.get("/info"), kind)
        if row.get("digest") is None:
            request = {"inputs": ["a"]} if kind == "embedder" else {"pairs": [["a", "a"]]}
            await self._transport.post("/v1/m3" if kind == "embedder" else "/v1/score", {"model": row["id"], **request})
            row = self._row(await self._transport.get("/info"), kind)
        try:
            self._model = ServedModel(
                name=str(row["id"]),
                weights=str(row["digest"]),
                max_length=int(row["max_length"]),
                dtype=str(row["dtype"]),
                pooling=row.get("pooling") or "",
                instructions=Instructions(row.get("query_instruction") or "", row.get("passage_instruction") or ""),
                query_surroundings=row.get("query_surroundings"),
                dimension=int(row.get("dim") or 0),
                multi_vector_dimension=int(row.get("multi_vector_dim") or 0),
                vocabulary_size=int(row.get("vocabulary_size") or 0),
                takes_images=bool(row.get("takes_images")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._transport.unexpected(f"/info does not describe its models ({error!r})") from None
        return self._model

    def _row(self, info: Mapping[str, Any], kind: Kind) -> Mapping[str, Any]:
        """Return the row of /info for the model that the URL names, or for the only one of this kind."""
        base, wanted = self._transport.address.base, self._transport.address.model
        all_rows = [row for row in info["models"] if isinstance(row, Mapping)]
        rows = all_rows
        if wanted is not None:
            rows = [row for row in rows if row.get("id") == wanted or wanted in row.get("names", ())]
        of_kind = [row for row in rows if row.get("kind") == kind]
        if len(of_kind) == 1:
            return of_kind[0]
        names = ", ".join(str(row.get("id")) for row in all_rows if row.get("kind") == kind)
        if rows and not of_kind and wanted is not None:
            raise WrongKindError(f"{wanted} on {base} is not of the kind {kind}", "name another model", kind)
        if not of_kind:
            finding = f"{base} has no {kind}" + (f" named {wanted!r}" if wanted else "")
            raise InvalidInputError(finding, argument="model", advice=f"it has {names or 'none'}")
        raise InvalidInputError(
            f"{base} has several {kind}s",
            argument="model",
            advice=f"name one of them as {base}?model=NAME: {names}",
        )

    async def embed(self, texts: Sequence[str | ImageInput], call: EmbedCall) -> tuple[Embeddings, int]:
        """See `Dialect`."""
        body: dict[str, Any] = {
            "model": self._model.name,
            **await self._inputs(texts, call.prompt),
            "dense": call.dense,
            "sparse": call.sparse,
            "multi_vector": call.multi_vector,
            "normalize": call.normalize,
            "truncate": call.on_truncate != "error",
            "truncate_dim": call.truncate_dim,
            "max_length": call.max_length,
        }
        answer = await self._transport.post_for_bytes("/v1/m3", body, _SAFETENSORS)
        metadata, tensors = self._tensors(answer)
        self._check_same(metadata.get("digest"))
        width = call.truncate_dim or self._model.dimension
        return Embeddings(
            dense=self._dense(tensors, len(texts), width) if call.dense else None,
            sparse=self._sparse(tensors, len(texts)) if call.sparse else None,
            multi_vector=self._multi_vectors(tensors, len(texts), call.truncate_dim) if call.multi_vector else None,
        ), len([position for position in metadata.get("truncated", "").split(",") if position])

    async def score(self, pairs: Sequence[Pair], call: ScoreCall) -> tuple[NDArray[np.float32], int]:
        """See `Dialect`."""
        body = {
            "model": self._model.name,
            "pairs": list(pairs),
            "normalize": call.normalize,
            "truncate": call.on_truncate != "error",
            "max_length": call.max_length,
            "query_max_length": call.query_max_length,
        }
        answer = await self._transport.post("/v1/score", body)
        try:
            scores = np.array(answer["scores"], np.float32)
            digest, truncated = answer["digest"], len(answer["truncated"])
        except (KeyError, TypeError, ValueError) as error:
            raise self._transport.unexpected(f"/v1/score answered without scores ({error!r})") from None
        self._check_same(digest)
        if scores.shape != (len(pairs),):
            raise self._transport.unexpected(f"{len(pairs)} pairs got scores of shape {scores.shape}")
        check_finite(scores, self._transport.address.base)
        return scores, truncated

    async def tokens(self, texts: Sequence[str], prompt: Prompt, max_length: int | None) -> list[list[Token]]:
        """See `Dialect`."""
        if max_length is not None:
            raise NotSupportedError(
                "a server does not truncate tokens at a length", argument="max_length", advice="leave max_length out"
            )
        body = {"model": self._model.name, **await self._inputs(texts, prompt), "truncate": False, "weights": False}
        prefix = 0 if prompt.is_own or prompt.kind == "query" else len(prompt.text)
        answer = await self._transport.post("/v1/tokens", body)
        try:
            return [
                [token_of(token, text, prefix) for token in row["tokens"]]
                for text, row in zip(texts, answer["results"], strict=True)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise self._transport.unexpected(f"/v1/tokens answered without tokens ({error!r})") from None

    async def _inputs(self, texts: Sequence[str | ImageInput], prompt: Prompt) -> dict[str, Any]:
        """Return the fields of a request that say what the model reads: the inputs and their instruction."""
        if prompt.is_own and prompt.kind is not None:
            return {"inputs": await _items(texts), "kind": prompt.kind}
        if prompt.kind == "query":
            return {"inputs": await _items(texts), "kind": "query", "query_instruction": prompt.text}
        # without a kind, the server would use its default prompt; passages of most models have no instruction
        own = self._model.instructions
        kind = None if own is None or own.passage else "passage"
        return {"inputs": await _items(texts, prompt.text), "kind": kind}

    def _check_same(self, digest: object) -> None:
        """Raise WrongModelError if the server has been restarted with other weights since this client was made."""
        if digest and digest != self._model.weights:
            raise WrongModelError(
                f"{self._transport.address.base} now serves other weights as {self._model.name}",
                advice="load the model again, and do not mix its vectors with the earlier ones",
            )

    def _tensors(self, answer: bytes) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
        """Return the metadata and the arrays of a safetensors body."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors: dict[str, NDArray[Any]] = load(answer)
            header = json.loads(answer[8 : 8 + int.from_bytes(answer[:8], "little")])
        except (SafetensorError, ValueError, RecursionError) as error:
            raise self._transport.unexpected(f"its answer is not safetensors ({error})") from None
        return header.get("__metadata__", {}), tensors

    def _array(
        self, tensors: Mapping[str, NDArray[Any]], name: str, dtype: type[np.generic], ndim: int
    ) -> NDArray[Any]:
        array = tensors.get(name)
        if array is None or array.ndim != ndim or array.dtype.kind != np.dtype(dtype).kind:
            got = "nothing" if array is None else f"{array.dtype} of shape {array.shape}"
            raise self._transport.unexpected(f"the tensor {name} must be {np.dtype(dtype)}, got {got}")
        array = array.astype(dtype, copy=False)
        if array.dtype.kind == "f":
            check_finite(array, self._transport.address.base)
        return array

    def _dense(self, tensors: Mapping[str, NDArray[Any]], count: int, width: int) -> NDArray[np.float32]:
        dense = self._array(tensors, "dense", np.float32, 2)
        if dense.shape != (count, width):
            raise self._transport.unexpected(f"dense vectors must be {(count, width)}, got {dense.shape}")
        return dense

    def _offsets(self, tensors: Mapping[str, NDArray[Any]], name: str, count: int, total: int) -> NDArray[np.int64]:
        offsets = self._array(tensors, name, np.int64, 1)
        if len(offsets) != count + 1 or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
            raise self._transport.unexpected(f"{name} does not divide {total} rows among {count} texts")
        return offsets

    def _sparse(self, tensors: Mapping[str, NDArray[Any]], count: int) -> SparseVectors:
        indices = self._array(tensors, "sparse_indices", np.int32, 1)
        values = self._array(tensors, "sparse_values", np.float32, 1)
        offsets = self._offsets(tensors, "sparse_indptr", count, len(values))
        size = self._model.vocabulary_size
        if len(indices) != len(values) or (len(indices) and not 0 <= indices.min() <= indices.max() < size):
            raise self._transport.unexpected(f"sparse indices do not fit their values or the {size} token ids")
        return SparseVectors(indices, values, offsets, size)

    def _multi_vectors(self, tensors: Mapping[str, NDArray[Any]], count: int, dim: int | None) -> MultiVectors:
        vectors = self._array(tensors, "multi_vector", np.float32, 2)
        width = min(self._model.multi_vector_dimension, dim or self._model.multi_vector_dimension)
        if vectors.shape[1] != width:
            raise self._transport.unexpected(f"multi-vectors must be {width} wide, got {vectors.shape[1]}")
        return MultiVectors(vectors, self._offsets(tensors, "multi_vector_indptr", count, len(vectors)))


async def _items(inputs: Sequence[str | ImageInput], prefix: str = "") -> list[Any]:
    """Return inputs as a request's items, with `prefix` before each text. Image files are read in a thread."""
    if all(isinstance(each, str) for each in inputs):
        return [prefix + each for each in inputs if isinstance(each, str)]
    return await asyncio.to_thread(
        lambda: [prefix + each if isinstance(each, str) else as_json(each, prefix) for each in inputs]
    )

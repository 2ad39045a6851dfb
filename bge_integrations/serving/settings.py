"""The settings of a server, under the names of text-embeddings-inference where it has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bge_integrations.errors import InvalidInputError
from bge_integrations.serving.kinds import kind_of_name
from bge_integrations.validation import check_whole_number

#: Maximum inputs of a request in text-embeddings-inference's routes, and in all others.
TEI_BATCH, BATCH = 32, 2048


@dataclass(frozen=True)
class ServerSettings:
    """What a server serves, and its limits.

    Attributes:
        models: Embedding models: hub ids, folders, or "pocket". The first is used if a request names none.
        rerankers: Rerankers, in the same way.
        indexes: {name: folder or URL of an M3Index}. A URL can end with "#collection".
        served_model_names: More names for the first model (the first embedding model, or else the first reranker).
        preload: Load all models at start; if False, each is loaded when it is first used.
        max_model_memory: Maximum bytes of weights in memory. The models that were not used for longest are unloaded to
            make room, and loaded again when they are used. None sets no limit.
        create_indexes: Create the indexes that do not exist.
        read_only: Indexes can only be searched.
        qdrant_api_key: The key of the Qdrant server, for indexes with a URL.
        device, dtype, max_length: As in `load_embedder`; `max_length` is for embedding models only.
        max_concurrent_requests: Maximum requests in progress; more are answered with status 429.
        max_batch_tokens: Maximum tokens of a batch; None keeps the core's defaults, which suit the device.
        max_queued_tokens: Maximum tokens that wait for a device, short and long calls separately; a call that does not
            fit is answered with status 429.
        max_client_batch_size: Maximum inputs of a request; None means 32 in text-embeddings-inference's routes, as
            there, and 2048 in all others.
        payload_limit: Maximum bytes of a request's body.
        max_image_pixels: Maximum pixels of an image; a larger one is answered with status 413. Decoding takes 3 to 4
            bytes for each.
        auto_truncate: Truncate inputs that are too long instead of refusing them, unless the request says otherwise.
        request_timeout: Seconds until a request is given up with status 504, or 408 if its body is late.
        default_prompt_name: "query" or "passage": the instruction of requests that do not say what their texts are.
        default_prompt: The text to prepend to inputs of such requests instead.
        api_keys: The accepted keys; none means that no key is needed.
        cors_allow_origins: Origins of web pages that may call the server; "*" allows all.
        otlp_endpoint: Where to send OpenTelemetry traces, such as "http://localhost:4317"; None sends none.

    Raises:
        InvalidInputError: A value is invalid, or there is nothing to serve.
    """

    models: Sequence[str] = ()
    rerankers: Sequence[str] = ()
    indexes: Mapping[str, str] = field(default_factory=dict)
    served_model_names: Sequence[str] = ()
    preload: bool = True
    max_model_memory: int | None = None
    create_indexes: bool = False
    read_only: bool = False
    qdrant_api_key: str | None = field(default=None, repr=False)
    device: str | list[str] | None = None
    dtype: str | None = None
    max_length: int | None = None
    max_concurrent_requests: int = 512
    max_batch_tokens: int | None = None
    max_queued_tokens: int = 1 << 20
    max_client_batch_size: int | None = None
    payload_limit: int = 2_000_000
    max_image_pixels: int = 40_000_000
    auto_truncate: bool = False
    request_timeout: float = 60.0
    default_prompt_name: str | None = None
    default_prompt: str | None = None
    api_keys: Sequence[str] = field(default=(), repr=False)
    cors_allow_origins: Sequence[str] = ()
    otlp_endpoint: str | None = None

    def __post_init__(self) -> None:
        if not (self.models or self.rerankers or self.indexes):
            raise InvalidInputError(
                "there is nothing to serve", argument="models", advice="name a model, a reranker or an index"
            )
        for name in ("models", "rerankers", "served_model_names", "api_keys", "cors_allow_origins"):
            if isinstance(getattr(self, name), str):
                raise InvalidInputError(f"{name} must be a list, got one str", argument=name)
        for name in ("max_concurrent_requests", "max_queued_tokens", "payload_limit", "max_image_pixels"):
            check_whole_number(getattr(self, name), name)
        for name in ("max_batch_tokens", "max_client_batch_size", "max_model_memory"):
            if getattr(self, name) is not None:
                check_whole_number(getattr(self, name), name)
        if not self.request_timeout > 0:
            raise InvalidInputError(
                f"request_timeout={self.request_timeout!r} must be above 0", argument="request_timeout"
            )
        if self.default_prompt_name is not None:
            kind_of_name(self.default_prompt_name, "default_prompt_name")
        if any(not key or not key.isascii() or not key.isprintable() for key in self.api_keys):
            raise InvalidInputError(
                "an API key must consist of printable ASCII characters", argument="api_keys", advice="choose another"
            )
        if bad := [name for name in self.indexes if not name or "/" in name]:
            raise InvalidInputError(f"{bad[0]!r} can't be the name of an index", argument="indexes")

    @property
    def batch_limit(self) -> int:
        """Maximum inputs of a request, except in text-embeddings-inference's routes."""
        return self.max_client_batch_size or BATCH

    @property
    def tei_batch_limit(self) -> int:
        """Maximum inputs of a request in text-embeddings-inference's routes."""
        return self.max_client_batch_size or TEI_BATCH

"""The settings of all adapters, declared once: pydantic adapters inherit them, the others check their keywords with
`checked_settings`.

Each field is an argument of `load_embedder` or `load_reranker`. The adapters themselves declare the fields that
frameworks name differently: the model and the instruction for passages.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from bge_integrations.errors import InvalidInputError
from bge_integrations.moved_arguments import advice_for, moved
from bge_integrations.validation import check_score_threshold, check_top_n


def path_as_text(model: object) -> object:
    """Return a path as a str, and anything else unchanged."""
    return os.fspath(model) if isinstance(model, os.PathLike) else model


#: A hub id, a folder, "pocket" or a server's URL.
ModelName = Annotated[str, BeforeValidator(path_as_text)]


class ModelNameAlias:
    """A mixin for adapters that also take their model as `model_name=`."""

    if TYPE_CHECKING:
        model: str

    @property
    def model_name(self) -> str:
        """The same as `model`."""
        return self.model


class ModelSettings(BaseModel):
    """How a model of any kind is loaded."""

    device: str | list[str] | None = None
    """"cpu", "cuda", "cuda:1", or several CUDA devices; None uses CUDA if it is available."""
    dtype: str | None = None
    """"float32", "bfloat16", "float16" (CUDA only) or "int8" (CPU only); None uses bfloat16 on CUDA and float32 on the
    CPU."""
    max_length: int | None = None
    """Maximum number of tokens of a text, or of query and document together; None uses the model's own maximum (512
    for rerankers). Longer inputs are truncated, with a warning."""
    cpu_kernels: str | None = None
    """"onednn" or "torch"; None uses what suits the processor."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    cache_folder: str | None = None
    """The hub's cache; None uses the default one."""
    local_files_only: bool = False
    """Never use the network."""
    api_key: SecretStr | None = Field(default=None, exclude=True)
    """The key of a server whose URL is the model; None uses the environment variable BGE_API_KEY. Pickles and saved
    settings don't contain it."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__dict__": {**state["__dict__"], "api_key": None}}

    @model_validator(mode="before")
    @classmethod
    def _no_moved_arguments(cls, settings: Any) -> Any:
        if isinstance(settings, dict) and (found := moved(settings, _accepted(cls))):
            name, advice = found
            raise InvalidInputError(f"{cls.__name__} has no argument {name}", argument=name, advice=advice)
        return settings


def _accepted(settings: type[BaseModel]) -> set[str]:
    """Return the names of all fields and their aliases."""
    aliases = [field.validation_alias for field in settings.model_fields.values()]
    choices = [choice for alias in aliases if isinstance(alias, AliasChoices) for choice in alias.choices]
    return {*settings.model_fields, *(choice for choice in choices if isinstance(choice, str))}


class QuerySettings(ModelSettings):
    """The settings of both dense and sparse embedding adapters."""

    query_instruction: str | None = None
    """Prepended to each query; None uses the model's own, "" prepends nothing. For models with an instruction format
    (decoders such as bge-multilingual-gemma2, bge-en-icl or Qwen3-Embedding), pass only the task's instruction."""


class EmbedderSettings(QuerySettings):
    """How an embedding model is loaded. `task_instruction=` is an alias of `query_instruction=`."""

    family: str | None = None
    """"encoder", "m3", "decoder", "bidirectional_decoder" or "icl", for your own checkpoint without
    sentence-transformers files; None otherwise."""
    pooling: str | None = None
    """"cls", "mean" or "last_token", for your own checkpoint without sentence-transformers files; None otherwise."""
    task: str | None = None
    """For llm-embedder: one of its tasks. For models with an instruction format: a name that `bge models --tasks`
    lists, such as "sts" or "NFCorpus"; None uses the model's own instruction."""
    examples: list[dict[str, str]] | None = None
    """For bge-en-icl only: dicts of "query", "response" and, unless the queries' instruction applies, "instruct"."""
    truncate_dim: int | None = None
    """Truncate vectors to this many dimensions; None keeps all."""
    image_urls: str | None = None
    """For models that take images only: "public" fetches images given as URLs from the internet, "any" also from
    private networks; None fetches none."""

    @model_validator(mode="before")
    @classmethod
    def _one_query_instruction(cls, settings: Any) -> Any:
        if not isinstance(settings, dict) or "task_instruction" not in settings:
            return settings
        kept = {name: value for name, value in settings.items() if name != "task_instruction"}
        given = [text for text in (settings["task_instruction"], kept.get("query_instruction")) if text is not None]
        if len(given) == 2 and given[0] != given[1]:
            raise InvalidInputError("query_instruction is given twice, also as task_instruction; pass one of them")
        return {**kept, "query_instruction": given[0] if given else None}


def one_cutoff(cutoff_layers: Any) -> Any:
    """Return `cutoff_layers` of an adapter as one number, taken out of a list of one.

    Raises:
        InvalidInputError: The list has several numbers, or none.
    """
    if not isinstance(cutoff_layers, (list, tuple)):
        return cutoff_layers
    if len(cutoff_layers) != 1:
        raise InvalidInputError(
            f"cutoff_layers={cutoff_layers!r} must be one number here, because documents are ranked by one score; "
            "pass one of them, for example the best according to evaluation.compare_cutoffs"
        )
    return cutoff_layers[0]


class RerankerSettings(ModelSettings):
    """How a reranker is loaded."""

    query_max_length: int | None = None
    """Maximum number of tokens of a query; None uses three quarters of max_length."""
    cutoff_layers: Annotated[int | None, BeforeValidator(one_cutoff)] = None
    """For layerwise and lightweight rerankers only: score after this many layers, which is faster; None uses all."""
    compress_ratio: int | None = None
    """For the lightweight reranker only: merge every 2, 4 or 8 neighbouring states of a passage into one; 1 or None
    disables compression."""
    compress_layers: int | list[int] | None = None
    """For the lightweight reranker only: compress before these layers; None uses 8."""
    prompt: str | None = None
    """For LLM rerankers only: the question asked after the query and the passage, instead of the model's own; for
    Qwen3-Reranker, the instruction."""
    family: str | None = None
    """"llm_reranker", "chat_reranker", "layerwise_reranker" or "lightweight_reranker" for your own reranker of this
    kind; None if the checkpoint says what it is."""


class SelectionSettings(BaseModel):
    """Which scored candidates a reranking adapter keeps."""

    score_threshold: Annotated[float | None, AfterValidator(check_score_threshold)] = None
    """Drop candidates that the reranker scores lower; scores are logits, or in (0, 1) if normalized."""
    normalize: bool = False
    """Apply the sigmoid to the logits, which gives scores in (0, 1); the order is the same."""


#: How many candidates to keep; None keeps all.
TopN = Annotated[int | None, AfterValidator(check_top_n)]


class GeneratorSettings(BaseModel):
    """How a generator is loaded."""

    device: str | None = None
    """"cpu", "cuda" or "cuda:1"; None uses CUDA if it is available."""
    dtype: str | None = None
    """"float32", "bfloat16" or "float16" (CUDA only); None uses bfloat16 on CUDA and float32 on the CPU."""
    quantization: str | None = None
    """"8bit" or "4bit" keeps the weights of linear layers in fewer bits, with bitsandbytes; None keeps them whole."""
    beacon_ratio: int | None = None
    """Tokens per beacon, for Activation Beacon checkpoints only; None uses what the checkpoint says."""
    rope_theta: float | None = None
    """The base of the rotary embedding, if it differs from config.json."""
    max_length: int | None = None
    """Maximum number of tokens, prompt and answer together; None uses the model's own."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    cache_folder: str | None = None
    """The hub's cache; None uses the default one."""
    local_files_only: bool = False
    """Never use the network."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class SamplingSettings(BaseModel):
    """How a generator chooses tokens."""

    max_new_tokens: int = Field(default=512, ge=1)
    """Maximum number of tokens of an answer."""
    temperature: float = Field(default=0.0, ge=0)
    """0 always takes the most likely token; higher values take more of the others."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Choose only among the most likely tokens whose probabilities add up to this."""
    seed: int | None = Field(default=None, ge=0)
    """Makes random choices repeatable."""
    stop: list[str] | None = None
    """An answer ends before any of these strings."""


def checked_settings(load: Callable[..., Any], settings: Mapping[str, Any], model: str = "model") -> dict[str, Any]:
    """Return all arguments of `load` except the model: those in `settings`, and the defaults of the others.

    For frameworks whose objects take keywords without declaring them.

    Args:
        load: `load_embedder` or `load_reranker`.
        settings: The keywords.
        model: The adapter's name for the model.

    Raises:
        TypeError: `load` has no such argument.
    """
    defaults = {name: parameter.default for name, parameter in signature(load).parameters.items() if name != "model"}
    for name in settings:
        if name not in defaults:
            hint = advice_for(name, [*defaults, model]) or f"use one of {', '.join(defaults)}"
            raise TypeError(f"{name} is not an argument of {load.__name__}; {hint}")
    return {**defaults, **copy.deepcopy(dict(settings))}

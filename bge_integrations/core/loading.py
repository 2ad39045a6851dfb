"""The two functions that load a model: `load_embedder` and `load_reranker`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, ParamSpec, TypeVar, get_args

from bge_integrations.client.address import is_url
from bge_integrations.core.devices import resolve_devices, resolve_dtype
from bge_integrations.core.early_exit import EarlyExit
from bge_integrations.core.embedder import Embedder
from bge_integrations.core.image_urls import UrlScope
from bge_integrations.core.reranker import Reranker
from bge_integrations.core.session import Session
from bge_integrations.errors import InvalidInputError
from bge_integrations.models.adapter import locate_base
from bge_integrations.models.linear import choose_cpu_kernels
from bge_integrations.models.locating import locate
from bge_integrations.models.profile import check_request, embedder_profile, reranker_profile
from bge_integrations.moved_arguments import raise_unknown
from bge_integrations.validation import check_choice, check_text

if TYPE_CHECKING:
    import torch

    from bge_integrations.catalog import Family, Pooling
    from bge_integrations.models.profile import RerankerProfile

P = ParamSpec("P")
T = TypeVar("T")


def _known_arguments_only(load: Callable[P, T]) -> Callable[P, T]:
    """Make `load` refuse unknown arguments with the name of its own argument, if there is one."""
    known = list(signature(load).parameters)

    @wraps(load)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        for name in kwargs:
            if name not in known:
                raise_unknown(name, load.__name__, known)
        return load(*args, **kwargs)

    return checked


@_known_arguments_only
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
    image_urls: UrlScope | None = None,
    cpu_kernels: str | None = None,
    revision: str | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
    api_key: str | None = None,
) -> Embedder:
    """Load a BGE embedding model, or share the copy that this process has already loaded.

    Args:
        model: A hub id ("BAAI/bge-m3"), a checkpoint folder, "pocket", the small bundled demonstration model, or the
            URL of a server ("http://host:8080"), which takes only max_length, truncate_dim, the instructions and
            api_key. The folder or id of a LoRA adapter loads the base model that its adapter_config.json names, with
            the adapter merged in.
        device: "cpu", "cuda", "cuda:1", or several CUDA devices; None uses CUDA if it is available.
        dtype: "float32", "bfloat16", "float16" (CUDA only) or "int8" (CPU only); None uses bfloat16 on CUDA and
            float32 on the CPU.
        max_length: Maximum number of tokens of a text, special tokens included; None uses the model's own maximum.
        query_instruction: Prepended to each query; None uses the model's own, "" prepends nothing. For models with an
            instruction format (decoders such as bge-multilingual-gemma2, bge-en-icl or Qwen3-Embedding), pass only the
            task's instruction.
        passage_instruction: Prepended to each passage; None uses the model's own, "" prepends nothing.
        family: For a checkpoint that neither the catalogue nor its own files describe: "encoder", "m3", "decoder",
            "bidirectional_decoder" (its attention is not causal) or "icl".
        pooling: "cls", "mean" or "last_token": how token states become one vector; None uses the model's own.
        task: For llm-embedder "qa", "icl", "chat", "lrlm", "tool" or "convsearch". For models with an instruction
            format a name that `bge models --tasks` lists: "web_search", "sts", "NFCorpus", …; None uses the model's
            own instruction.
        examples: For bge-en-icl only: dicts of "query", "response" and, unless the queries' instruction applies,
            "instruct".
        truncate_dim: Truncate dense and multi-vectors to this many dimensions, before they are normalized.
        image_urls: For models that take images only: "public" fetches images given as http and https URLs from the
            internet, "any" also from this machine and private networks; None fetches none.
        cpu_kernels: "onednn" or "torch"; None uses the environment variable BGE_CPU_KERNELS, or what suits the
            processor if it is not set. `bge doctor` shows the choice.
        revision: Branch, tag or commit on the hub.
        cache_folder: The hub's cache; None uses the default one.
        local_files_only: Never use the network.
        api_key: The key of a server; None uses the environment variable BGE_API_KEY, if it is set.

    Raises:
        CheckpointNotFoundError: The checkpoint is neither a folder nor cached, and could not be downloaded.
        CheckpointError: A file is missing, damaged or does not fit.
        UnknownModelError: The checkpoint's family, pooling or instruction can't be determined.
        NotSupportedError: This release can't run the checkpoint's family.
        WrongKindError: The checkpoint is a reranker.
        ServerError: A server could not be reached, failed, or answered something unexpected.
        InvalidInputError: An argument is invalid.
        UnknownArgumentError: There is no such argument.
    """
    if is_url(model):
        from bge_integrations.client.loading import connect_embedder

        return connect_embedder(
            os.fspath(model),
            api_key=api_key,
            max_length=max_length,
            query_instruction=query_instruction,
            passage_instruction=passage_instruction,
            truncate_dim=truncate_dim,
            device=device,
            dtype=dtype,
            family=family,
            pooling=pooling,
            task=task,
            examples=examples,
            image_urls=image_urls,
            cpu_kernels=cpu_kernels,
            revision=revision,
            cache_folder=cache_folder,
            local_files_only=local_files_only,
        )
    _refuse_key(api_key)
    check_request(model, "embedder", family, pooling)
    check_choice(image_urls, "image_urls", (None, *get_args(UrlScope)))
    _check_source(revision, cache_folder)
    for argument, text in (("query_instruction", query_instruction), ("passage_instruction", passage_instruction)):
        if text is not None:
            check_text(text, argument)
    devices = resolve_devices(device)
    placement = devices, resolve_dtype(dtype, devices[0]), choose_cpu_kernels(cpu_kernels)
    name, folder = locate(
        model, "embedder", revision=revision, cache_folder=cache_folder, local_files_only=local_files_only
    )
    base = locate_base(folder, "embedder", cache_folder=cache_folder, local_files_only=local_files_only)
    profile = embedder_profile(
        name,
        folder,
        base=base,
        family=family,
        pooling=pooling,
        query_instruction=query_instruction,
        passage_instruction=passage_instruction,
        task=task,
        examples=examples,
    )
    session = Session(folder, base, profile.family, *placement)
    try:
        return Embedder(session, profile, max_length, truncate_dim, image_urls)
    except BaseException:
        session.close()
        raise


@_known_arguments_only
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
    cpu_kernels: str | None = None,
    revision: str | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
    api_key: str | None = None,
) -> Reranker:
    """Load a BGE reranker, or share the copy that this process has already loaded.

    Args:
        model: A hub id ("BAAI/bge-reranker-v2-m3"), a checkpoint folder, "pocket", or the URL of a server
            ("http://host:8080"), which takes only max_length, query_max_length and api_key. The folder or id of a LoRA
            adapter loads its base model with the adapter merged in.
        device: "cpu", "cuda", "cuda:1", or several CUDA devices; None uses CUDA if it is available.
        dtype: "float32", "bfloat16", "float16" (CUDA only) or "int8" (CPU only); None uses bfloat16 on CUDA and
            float32 on the CPU.
        max_length: Maximum number of tokens of a pair, special tokens included; None uses 512, or the model's own
            maximum if that is lower.
        query_max_length: Maximum number of tokens of a query; None uses three quarters of max_length.
        cutoff_layers: For layerwise and lightweight rerankers only: score after this many layers; the layers above are
            neither loaded nor computed. Pass several numbers to get the scores after each of them from one pass. None
            uses all layers.
        compress_ratio: For the lightweight reranker only: merge every 2, 4 or 8 neighbouring passage states into one;
            1 or None disables compression.
        compress_layers: For the lightweight reranker only: compress before these layers, counted from 0; None uses 8.
        prompt: For LLM rerankers only: the question asked after the pair, instead of the model's own; for
            Qwen3-Reranker, the instruction.
        family: For your own LLM reranker: "llm_reranker", "chat_reranker" (like Qwen3-Reranker), "layerwise_reranker"
            or "lightweight_reranker".
        cpu_kernels: "onednn" or "torch"; see `load_embedder`.
        revision: Branch, tag or commit on the hub.
        cache_folder: The hub's cache; None uses the default one.
        local_files_only: Never use the network.
        api_key: The key of a server; None uses the environment variable BGE_API_KEY, if it is set.

    Raises:
        CheckpointNotFoundError: The checkpoint is neither a folder nor cached, and could not be downloaded.
        CheckpointError: A file is missing, damaged or does not fit.
        NotSupportedError: The checkpoint's config.json requires something that is not supported.
        WrongKindError: The checkpoint is not a reranker.
        ServerError: A server could not be reached, failed, or answered something unexpected.
        InvalidInputError: An argument is invalid.
        UnknownArgumentError: There is no such argument.
    """
    if is_url(model):
        from bge_integrations.client.loading import connect_reranker

        return connect_reranker(
            os.fspath(model),
            api_key=api_key,
            max_length=max_length,
            query_max_length=query_max_length,
            device=device,
            dtype=dtype,
            cutoff_layers=cutoff_layers,
            compress_ratio=compress_ratio,
            compress_layers=compress_layers,
            prompt=prompt,
            family=family,
            cpu_kernels=cpu_kernels,
            revision=revision,
            cache_folder=cache_folder,
            local_files_only=local_files_only,
        )
    _refuse_key(api_key)
    check_request(model, "reranker", family)
    _check_source(revision, cache_folder)
    devices = resolve_devices(device)
    placement = devices, resolve_dtype(dtype, devices[0]), choose_cpu_kernels(cpu_kernels)
    name, folder = locate(
        model, "reranker", revision=revision, cache_folder=cache_folder, local_files_only=local_files_only
    )
    base = locate_base(folder, "reranker", cache_folder=cache_folder, local_files_only=local_files_only)
    profile = reranker_profile(name, folder, family, base=base)
    early = EarlyExit.of(profile, cutoff_layers, compress_ratio, compress_layers)
    prompt = _check_prompt(profile, prompt)
    session = Session(folder, base, profile.family, *placement, early.layers)
    try:
        return Reranker(session, profile, max_length, query_max_length, early, prompt)
    except BaseException:
        session.close()
        raise


def _check_source(revision: object, cache_folder: object) -> None:
    """Refuse what the hub's library would misunderstand."""
    if revision is not None and (not isinstance(revision, str) or not revision):
        raise InvalidInputError(
            f"revision={revision!r} must be a branch, a tag or a commit, as a str", argument="revision"
        )
    if cache_folder is not None and (not isinstance(cache_folder, (str, os.PathLike)) or not os.fspath(cache_folder)):
        raise InvalidInputError(f"cache_folder={cache_folder!r} must be a path", argument="cache_folder")


def _refuse_key(api_key: str | None) -> None:
    if api_key is not None:
        raise InvalidInputError(
            "api_key= is for a server, and the model is not a URL",
            argument="api_key",
            advice="leave it out, or pass the server's URL as model=",
        )


def _check_prompt(profile: RerankerProfile, prompt: str | None) -> str:
    """Return the question or instruction for an LLM reranker; "" for other rerankers."""
    if prompt is None:
        return profile.prompt
    if not profile.prompt:
        raise InvalidInputError(f"{profile.name} takes no prompt; leave prompt= out")
    check_text(prompt, "prompt")
    if not prompt.strip():
        raise InvalidInputError("the prompt is empty; leave prompt= out to use the model's own")
    return prompt

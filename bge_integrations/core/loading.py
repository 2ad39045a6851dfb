"""The two functions that load a model: `load_embedder` and `load_reranker`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bge_integrations.core.devices import resolve_devices, resolve_dtype
from bge_integrations.core.early_exit import EarlyExit
from bge_integrations.core.embedder import Embedder
from bge_integrations.core.reranker import Reranker
from bge_integrations.core.session import Session
from bge_integrations.errors import InvalidInputError
from bge_integrations.models.checkpoint import locate
from bge_integrations.models.linear import choose_cpu_kernels
from bge_integrations.models.profile import check_request, embedder_profile, reranker_profile
from bge_integrations.validation import check_text

if TYPE_CHECKING:
    import torch

    from bge_integrations.catalog import Family, Pooling
    from bge_integrations.models.profile import RerankerProfile


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
    cpu_kernels: str | None = None,
    revision: str | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
) -> Embedder:
    """Load a BGE embedding model, or share the copy that this process already holds.

    Args:
        model: A hub id ("BAAI/bge-m3"), a checkpoint folder, or "pocket", the small bundled demonstration model.
        device: "cpu", "cuda", "cuda:1", or several CUDA devices; None takes CUDA if there is one.
        dtype: "float32", "bfloat16", "float16" (CUDA only) or "int8" (CPU only); None takes bfloat16 on CUDA and
            float32 on the CPU.
        max_length: Longest text in tokens, special tokens included; None takes what the model was made for.
        query_instruction: Put before each query; None takes the catalogue's, "" none. Models with an instruction format
            (bge-multilingual-gemma2, bge-en-icl, e5-mistral, gte-Qwen2) get the task's instruction alone.
        passage_instruction: Put before each passage; None takes the catalogue's, "" none.
        family: For a checkpoint that neither the catalogue nor its own files describe: "encoder", "m3", "decoder",
            "bidirectional_decoder" (its tokens also see what follows) or "icl".
        pooling: "cls", "mean" or "last_token"; None takes the catalogue's or the checkpoint's own.
        task: For llm-embedder "qa", "icl", "chat", "lrlm", "tool" or "convsearch"; for models with an instruction
            format "web_search" (the default), "sts", "summarization" or "bitext".
        examples: For bge-en-icl only: dicts of "query", "response" and, unless it is the queries' own, "instruct".
        truncate_dim: Keep this many columns of dense and multi-vectors, before they are normalized.
        cpu_kernels: "onednn" or "torch"; None takes the environment variable BGE_CPU_KERNELS, or else what suits the
            processor. `bge doctor` shows the choice.
        revision: Branch, tag or commit on the hub.
        cache_folder: The hub's cache; None takes the default one.
        local_files_only: Never use the network.

    Raises:
        CheckpointNotFoundError: The checkpoint is neither a folder nor cached, and could not be downloaded.
        CheckpointError: A file is missing, damaged or does not fit.
        UnknownModelError: Nothing says which family, pooling or instruction this checkpoint has.
        NotSupportedError: This release can't run its family.
        WrongKindError: It is a reranker.
        InvalidInputError: An argument can't be used.
    """
    check_request(model, "embedder", family, pooling)
    for argument, text in (("query_instruction", query_instruction), ("passage_instruction", passage_instruction)):
        if text is not None:
            check_text(text, argument)
    devices = resolve_devices(device)
    placement = devices, resolve_dtype(dtype, devices[0]), choose_cpu_kernels(cpu_kernels)
    name, folder = locate(
        model, "embedder", revision=revision, cache_folder=cache_folder, local_files_only=local_files_only
    )
    profile = embedder_profile(
        name,
        folder,
        family=family,
        pooling=pooling,
        query_instruction=query_instruction,
        passage_instruction=passage_instruction,
        task=task,
        examples=examples,
    )
    session = Session(folder, profile.family, *placement)
    try:
        return Embedder(session, profile, max_length, truncate_dim)
    except BaseException:
        session.close()
        raise


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
) -> Reranker:
    """Load a BGE reranker, or share the copy that this process already holds.

    Args:
        model: A hub id ("BAAI/bge-reranker-v2-m3"), a checkpoint folder, or "pocket".
        device: "cpu", "cuda", "cuda:1", or several CUDA devices; None takes CUDA if there is one.
        dtype: "float32", "bfloat16", "float16" (CUDA only) or "int8" (CPU only); None takes bfloat16 on CUDA and
            float32 on the CPU.
        max_length: Longest pair in tokens, special tokens included; None takes 512, or less if the model takes less.
        query_max_length: Longest query in tokens; None takes three quarters of max_length.
        cutoff_layers: For layerwise and lightweight rerankers only: score after this many layers; layers above are
            neither read nor computed. Several numbers give the scores after each of them, from one pass. None takes all
            layers.
        compress_ratio: For the lightweight reranker only: merge every 2, 4 or 8 neighbouring passage states into one;
            1 or None compresses nothing.
        compress_layers: For the lightweight reranker only: compress before these layers, counted from 0; None takes 8.
        prompt: For LLM rerankers only: the question asked after the pair, instead of the model's own.
        family: For your own LLM reranker: "llm_reranker", "layerwise_reranker" or "lightweight_reranker".
        cpu_kernels: "onednn" or "torch"; see `load_embedder`.
        revision: Branch, tag or commit on the hub.
        cache_folder: The hub's cache; None takes the default one.
        local_files_only: Never use the network.

    Raises:
        CheckpointNotFoundError: The checkpoint is neither a folder nor cached, and could not be downloaded.
        CheckpointError: A file is missing, damaged or does not fit.
        NotSupportedError: Its config.json asks for something that is not supported.
        WrongKindError: It is not a reranker.
        InvalidInputError: An argument can't be used.
    """
    check_request(model, "reranker", family)
    devices = resolve_devices(device)
    placement = devices, resolve_dtype(dtype, devices[0]), choose_cpu_kernels(cpu_kernels)
    name, folder = locate(
        model, "reranker", revision=revision, cache_folder=cache_folder, local_files_only=local_files_only
    )
    profile = reranker_profile(name, folder, family)
    early = EarlyExit.of(profile, cutoff_layers, compress_ratio, compress_layers)
    prompt = _check_prompt(profile, prompt)
    session = Session(folder, profile.family, *placement, early.layers)
    try:
        return Reranker(session, profile, max_length, query_max_length, early, prompt)
    except BaseException:
        session.close()
        raise


def _check_prompt(profile: RerankerProfile, prompt: str | None) -> str:
    """Return the question for an LLM reranker, and "" for others."""
    if prompt is None:
        return profile.prompt
    if not profile.prompt:
        raise InvalidInputError(f"{profile.name} takes no prompt; leave prompt= out")
    check_text(prompt, "prompt")
    if not prompt.strip():
        raise InvalidInputError("the prompt is empty; leave prompt= out for the model's own")
    return prompt

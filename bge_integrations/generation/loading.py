"""The function that loads a generator: `load_generator`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from bge_integrations.core.devices import resolve_devices, resolve_dtype
from bge_integrations.errors import CheckpointError, InvalidInputError, NotSupportedError
from bge_integrations.generation.generator import Generator
from bge_integrations.generation.network import Placement, Quantization, Source, load_language_model, load_tokenizer
from bge_integrations.generation.prompts import Prompts
from bge_integrations.models.adapter import adapted_digest, folder_with, locate_base
from bge_integrations.models.checkpoint import TOKENIZER_FILES, read_config, weights_digest
from bge_integrations.models.locating import locate
from bge_integrations.validation import check_choice, check_whole_number

if TYPE_CHECKING:
    import torch

#: RoPE base and maximum length of adapters whose files don't say them, by the end of the adapter's name.
_ADAPTERS = {"Llama-3-8B-Instruct-80K-QLoRA": (200e6, 81920)}
_CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


def load_generator(
    model: str | os.PathLike[str],
    *,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    quantization: Quantization | None = None,
    beacon_ratio: int | None = None,
    rope_theta: float | None = None,
    max_length: int | None = None,
    revision: str | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
) -> Generator:
    """Load a language model that answers from long documents.

    Activation Beacon checkpoints of the types llama, mistral and qwen2 condense what they read. All other causal
    language models of transformers keep every token. Remote code is never run.

    Args:
        model: A hub id, a checkpoint folder, or "pocket", a tiny bundled model that only finds the fact in a document
            of `generation.needles`. The folder or id of a LoRA adapter loads the base model that its
            adapter_config.json names, with the adapter merged in.
        device: "cpu", "cuda" or "cuda:1"; None uses CUDA if it is available.
        dtype: "float32", "bfloat16" or "float16" (CUDA only); None uses bfloat16 on CUDA and float32 on the CPU.
        quantization: "8bit" or "4bit" (NF4) keeps the weights of linear layers in fewer bits, with bitsandbytes.
        beacon_ratio: Tokens per beacon, which must divide the checkpoint's window; 0 condenses nothing. None uses what
            the checkpoint says.
        rope_theta: The base of the rotary embedding, if it differs from config.json. LongLLM-QLoRA's adapter is known
            by its name; a copy under another name needs rope_theta=200e6 and max_length=81920.
        max_length: Maximum number of tokens, prompt and answer together; None uses the model's own.
        revision: Branch, tag or commit on the hub.
        cache_folder: The hub's cache; None uses the default one.
        local_files_only: Never use the network.

    Raises:
        CheckpointNotFoundError: The checkpoint is neither a folder nor cached, and could not be downloaded.
        CheckpointError: A file is missing, damaged or does not fit.
        NotSupportedError: It is not a causal language model that transformers knows.
        OutOfMemoryError: It does not fit in the device's memory.
        InvalidInputError: An argument is invalid.
        ImportError: An adapter, a GPU or quantization needs a package that is not installed.
    """
    check_choice(quantization, "quantization", (None, *get_args(Quantization)))
    if beacon_ratio is not None:
        check_whole_number(beacon_ratio, "beacon_ratio", least=0)
    if max_length is not None:
        check_whole_number(max_length, "max_length")
    if rope_theta is not None and not (isinstance(rope_theta, (int, float)) and rope_theta > 0):
        raise InvalidInputError(f"rope_theta={rope_theta!r} must be a number above 0", argument="rope_theta")
    where, precision = _device_and_dtype(device, dtype)
    found = {"cache_folder": cache_folder, "local_files_only": local_files_only}
    name, folder = locate(model, "generator", revision=revision, **found)  # type: ignore[arg-type]
    base = locate_base(folder, "generator", **found)  # type: ignore[arg-type]
    config = dict(read_config(folder_with(("config.json",), folder, base)))
    _check_causal(name, config)
    if base is not None:
        known_theta, known_length = _ADAPTERS.get(Path(name).name, (None, None))
        rope_theta = known_theta if rope_theta is None else rope_theta
        max_length = known_length if max_length is None else max_length
    if rope_theta is not None:
        _set_rope_theta(config, float(rope_theta))
    tokenizer = load_tokenizer(folder_with(TOKENIZER_FILES, folder, base))
    source = Source(name, folder, base, config)
    language_model = load_language_model(source, Placement(where, precision, quantization), beacon_ratio)
    embeddings = language_model.network.get_input_embeddings().num_embeddings
    if len(tokenizer) > embeddings:
        raise CheckpointError(
            f"{name}: the tokenizer has {len(tokenizer)} tokens, but the weights have {embeddings}; they belong to "
            "different models"
        )
    digest = weights_digest(folder) if base is None else adapted_digest(folder, base)
    settings = json.dumps(language_model.settings, sort_keys=True)
    identity = hashlib.sha256(f"{digest} {settings}".encode()).hexdigest()
    return Generator(name, language_model, Prompts(tokenizer, folder), identity, max_length)


def _device_and_dtype(device: str | None, dtype: str | torch.dtype | None) -> tuple[str, str]:
    """Return the names of device and dtype."""
    if isinstance(device, list):
        raise InvalidInputError(f"device={device!r}: a generator runs on one device", argument="device")
    where = resolve_devices(device)[0]
    precision = resolve_dtype(dtype, where)
    if precision == "int8":
        raise InvalidInputError(
            "dtype='int8' is for embedders and rerankers",
            argument="dtype",
            advice="use 'bfloat16', or quantization='8bit'",
        )
    return where, precision


def _check_causal(name: str, config: Mapping[str, Any]) -> None:
    architectures = config.get("architectures") or []
    if architectures and not any(str(each).endswith(_CAUSAL) for each in architectures):
        raise NotSupportedError(
            f"{name} is a {architectures[0]}, which does not generate texts",
            advice="load a causal language model, or use load_embedder or load_reranker",
        )


def _set_rope_theta(config: dict[str, Any], theta: float) -> None:
    """Set the base of the rotary embedding in config.json's old and new layout."""
    if isinstance(config.get("rope_parameters"), dict):
        config["rope_parameters"] = {**config["rope_parameters"], "rope_theta": theta}
    else:
        config["rope_theta"] = theta

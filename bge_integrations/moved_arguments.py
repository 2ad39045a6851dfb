"""Arguments of sentence-transformers, FlagEmbedding and their wrappers: what to pass here instead."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import NoReturn

from bge_integrations.errors import UnknownArgumentError
from bge_integrations.spelling import passed

_MODEL = ("model", "model_name")
_PASSAGE_INSTRUCTION = ("passage_instruction", "text_instruction")
_RESULTS = ("top_n", "k", "similarity_top_k")
#: Other names of an argument, by the argument. The first one that a class or function has is suggested.
_SAME: dict[str, tuple[str, ...]] = {
    "model": ("model_name", "model"),
    "model_name": _MODEL,
    "model_name_or_path": _MODEL,
    "model_path": _MODEL,
    "model_id": _MODEL,
    "query_instruction_for_retrieval": ("query_instruction",),
    "embed_instruction": _PASSAGE_INSTRUCTION,
    "text_instruction": ("passage_instruction",),
    "passage_instruction": ("text_instruction",),
    "passage_instruction_for_retrieval": _PASSAGE_INSTRUCTION,
    "document_instruction": _PASSAGE_INSTRUCTION,
    "examples_for_task": ("examples",),
    "device_map": ("device",),
    "cache_dir": ("cache_folder",),
    "torch_dtype": ("dtype",),
    "max_seq_length": ("max_length",),
    "max_tokens": ("max_length",),
    "doc_maxlen": ("max_length",),
    "passage_max_length": ("max_length",),
    "query_maxlen": ("query_max_length", "max_length"),
    "matryoshka_dim": ("truncate_dim",),
    "top_k": _RESULTS,
    "topk": _RESULTS,
    "topn": _RESULTS,
    "top_n": ("k", "similarity_top_k"),
    "k": ("similarity_top_k", "top_n"),
    "similarity_top_k": ("k", "top_n"),
    "weights_for_different_modes": ("weights",),
    "batch_size": ("embed_batch_size",),
    "show_progress": ("show_progress_bar",),
    "show_progress_bar": ("show_progress",),
    "normalize_embeddings": ("normalize",),
    "pooling_method": ("pooling",),
    "pooling_mode": ("pooling",),
    "embedding_function": ("embedding",),
}

_DTYPE = "use dtype='float16' or 'bfloat16' on CUDA, 'bfloat16' or 'int8' on the CPU"
_DEVICES = "use device=, which also takes a list of CUDA devices"
_ENCODE_KWARGS = "leave it out: vectors have unit length; the instruction (prompt) is query_instruction="
_OWN_SETTINGS = "leave it out: the checkpoint's own settings are used"
_POOLING = "leave it out: the checkpoint says how its states are pooled"
_RERANK_INSTRUCTION = "leave it out: the format of the pair comes from the model (LLM rerankers take prompt=)"
_RESULT_TYPES = "leave it out: results are numpy arrays, or have the framework's own types"
_TOKEN = "log in with `hf auth login`, or set the environment variable HF_TOKEN"
_TOKENIZER = "use max_length=, and leave out the rest: the checkpoint's own tokenizer is used"
#: What to do about arguments that have no counterpart, or more than one.
_ADVICE: dict[str, str] = {
    "use_fp16": _DTYPE,
    "use_bf16": _DTYPE,
    "fp16": _DTYPE,
    "bf16": _DTYPE,
    "load_in_8bit": "use dtype='int8', which runs on the CPU",
    "load_in_4bit": "leave it out: 4-bit weights are not supported; dtype='int8' runs on the CPU",
    "quantization_config": "leave it out: quantized weights are not supported; dtype='int8' runs on the CPU",
    "model_kwargs": "pass its entries by name: device=, dtype= (for torch_dtype), revision=, cache_folder=",
    "tokenizer_kwargs": _TOKENIZER,
    "processor_kwargs": _TOKENIZER,
    "tokenizer_name": _TOKENIZER,
    "tokenizer": _TOKENIZER,
    "config_kwargs": _OWN_SETTINGS,
    "encode_kwargs": _ENCODE_KWARGS,
    "query_encode_kwargs": _ENCODE_KWARGS,
    "batch_size": "leave it out: texts are packed into batches by their number of tokens",
    "normalize_embeddings": "leave it out: vectors have unit length",
    "devices": _DEVICES,
    "target_devices": _DEVICES,
    "multi_process": _DEVICES,
    "parallel_process": _DEVICES,
    "pool": _DEVICES,
    "trust_remote_code": "leave it out: code from a repository is never run",
    "attn_implementation": "leave it out: the fastest attention for the device is used",
    "low_cpu_mem_usage": "leave it out: weights are never held twice",
    "peft_model_id": "pass the adapter's folder as the model; its base is loaded with it",
    "query_instruction_for_rerank": _RERANK_INSTRUCTION,
    "passage_instruction_for_rerank": _RERANK_INSTRUCTION,
    "query_instruction_format": "use query_instruction= with the whole text that precedes a query",
    "query_max_length": "use max_length=, which applies to queries and documents",
    "query_maxlen": "use max_length=, which applies to queries and documents",
    "prompts": "use query_instruction= and passage_instruction=",
    "prompt_name": "use query_instruction=, or leave it out for the model's own",
    "default_prompt_name": "leave it out: each query gets the model's own instruction",
    "pooling_method": _POOLING,
    "pooling_mode": _POOLING,
    "convert_to_numpy": _RESULT_TYPES,
    "convert_to_tensor": _RESULT_TYPES,
    "show_progress_bar": "use show_progress=True of encode or score",
    "return_dense": "use dense= of encode",
    "return_sparse": "use sparse= of encode",
    "return_colbert_vecs": "use multi_vector= of encode",
    "activation_fn": "use normalize=True of score for the sigmoid",
    "default_activation_function": "use normalize=True of score for the sigmoid",
    "num_labels": "leave it out: rerankers have one score",
    "top_n": "pass a reranker with top_n=",
    "top_k": "set the number of results where you search",
    "topn": "set the number of results where you search",
    "topk": "set the number of results where you search",
    "embedding_function": "use model=",
    "token": _TOKEN,
    "use_auth_token": _TOKEN,
    "hf_token": _TOKEN,
    "backend": "leave it out: models run on torch",
}


def advice_for(name: str, known: Collection[str]) -> str | None:
    """Return what to pass instead of an argument that a class or function does not have; None if nothing is similar.

    Args:
        name: The unknown argument.
        known: The arguments that it has.
    """
    if (other := next((other for other in _SAME.get(name, ()) if other in known), None)) is not None:
        return f"use {passed(other)}"
    if name in _ADVICE:
        return _ADVICE[name]
    near = difflib.get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(near)}?" if near else None


def moved(arguments: Mapping[str, object] | Iterable[str], known: Collection[str]) -> tuple[str, str] | None:
    """Return the first argument that a class does not have but for which there is advice, and the advice."""
    for name in arguments:
        if name not in known and (advice := advice_for(name, known)):
            return name, advice
    return None


def raise_unknown(name: str, user: str, known: Collection[str]) -> NoReturn:
    """Raise the error for an argument that a class or function does not have.

    Args:
        name: The argument.
        user: The class or function, for the message.
        known: The arguments that it has.

    Raises:
        UnknownArgumentError: Always; it names the argument to use instead, or says why there is none.
    """
    advice = advice_for(name, known) or f"use one of {', '.join(known)}"
    raise UnknownArgumentError(f"{user} has no argument {name}=", argument=name, advice=advice)

"""The arguments of sentence-transformers, FlagEmbedding and their wrappers that have another name here, or none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NoReturn

from bge_integrations.errors import UnknownArgumentError

_DTYPE = "use dtype='float16' or 'bfloat16' on CUDA, 'bfloat16' or 'int8' on the CPU"
_ENCODE_KWARGS = "vectors have unit length unless you set normalize=False; the instruction is query_instruction="
_NO_BATCHES = "leave it out: texts are packed into batches by their number of tokens"
_NORMALIZE = "leave it out: vectors have unit length unless you set normalize=False"
_DEVICES = "use device=, which also takes a list of CUDA devices"
_TOKEN = "log in with `hf auth login`, or set the environment variable HF_TOKEN"

#: What to do instead, by the name that the argument has elsewhere.
ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "use_fp16": _DTYPE,
        "use_bf16": _DTYPE,
        "fp16": _DTYPE,
        "bf16": _DTYPE,
        "torch_dtype": "use dtype=",
        "load_in_8bit": "use dtype='int8', which runs on the CPU",
        "load_in_4bit": "leave it out: 4-bit weights are not supported; dtype='int8' runs on the CPU",
        "quantization_config": "leave it out: quantized weights are not supported; dtype='int8' runs on the CPU",
        "model_kwargs": "pass its entries by name: device=, dtype= (for torch_dtype), revision=, cache_folder=",
        "tokenizer_kwargs": "use max_length=; the tokenizer's other settings come from the checkpoint",
        "config_kwargs": "leave it out: the settings come from the checkpoint's config.json",
        "encode_kwargs": _ENCODE_KWARGS,
        "query_encode_kwargs": _ENCODE_KWARGS,
        "batch_size": _NO_BATCHES,
        "normalize_embeddings": _NORMALIZE,
        "cache_dir": "use cache_folder=",
        "device_map": "use device=",
        "devices": _DEVICES,
        "target_devices": _DEVICES,
        "multi_process": _DEVICES,
        "parallel_process": _DEVICES,
        "trust_remote_code": "leave it out: code from a repository is never run",
        "attn_implementation": "leave it out: the fastest attention for the device is used",
        "low_cpu_mem_usage": "leave it out: weights are never held twice",
        "model_name_or_path": "pass it as the model",
        "model_name": "pass it as the model",
        "model_id": "pass it as the model",
        "peft_model_id": "pass the adapter's folder as the model; its base is loaded with it",
        "max_seq_length": "use max_length=",
        "max_tokens": "use max_length=",
        "passage_max_length": "use max_length=, which a call of encode can also set",
        "query_instruction_for_retrieval": "use query_instruction=",
        "query_instruction_for_rerank": "leave it out: the pair's format comes from the model",
        "passage_instruction_for_rerank": "leave it out: the pair's format comes from the model",
        "query_instruction_format": "use query_instruction= with the whole text that precedes a query",
        "embed_instruction": "use passage_instruction=",
        "passage_instruction_for_retrieval": "use passage_instruction=",
        "text_instruction": "use passage_instruction=",
        "prompts": "use query_instruction= and passage_instruction=",
        "default_prompt_name": "choose the instruction by kind='query' or 'passage' in encode",
        "pooling_method": "use pooling=",
        "pooling_mode": "use pooling=",
        "examples_for_task": "use examples=",
        "matryoshka_dim": "use truncate_dim=",
        "convert_to_numpy": "leave it out: results are numpy arrays",
        "convert_to_tensor": "leave it out: results are numpy arrays, which torch.from_numpy reads without a copy",
        "show_progress_bar": "use show_progress=True of encode or score",
        "return_dense": "use dense= of encode",
        "return_sparse": "use sparse= of encode",
        "return_colbert_vecs": "use multi_vector= of encode",
        "activation_fn": "use normalize=True of score for the sigmoid",
        "default_activation_function": "use normalize=True of score for the sigmoid",
        "num_labels": "leave it out: rerankers have one score",
        "top_k": "use top_n=, an argument of the reranking adapters",
        "topn": "use top_n=, an argument of the reranking adapters",
        "token": _TOKEN,
        "use_auth_token": _TOKEN,
        "hf_token": _TOKEN,
        "backend": "leave it out: models run on torch",
    }
)


def raise_unknown(name: str, user: str, known: Iterable[str]) -> NoReturn:
    """Raise the error for an argument that `user` does not have.

    Args:
        name: The argument.
        user: The function or class, for the message.
        known: The arguments that it has.

    Raises:
        UnknownArgumentError: Always; it names the argument to use instead, or says why there is none.
    """
    choices = list(known)
    near = difflib.get_close_matches(name, choices, n=1)
    advice = ADVICE.get(name) or (f"did you mean {near[0]}=?" if near else f"use one of {', '.join(choices)}")
    raise UnknownArgumentError(f"{user} has no argument {name}=", argument=name, advice=advice)

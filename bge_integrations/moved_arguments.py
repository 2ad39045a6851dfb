"""Arguments of the classes that people move from: what to pass here instead."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping

#: Other names of an argument, by the argument. The first one that a class has is suggested.
_SAME: dict[str, tuple[str, ...]] = {
    "model": ("model_name", "model"),
    "model_name": ("model", "model_name"),
    "model_name_or_path": ("model", "model_name"),
    "model_path": ("model", "model_name"),
    "query_instruction_for_retrieval": ("query_instruction",),
    "query_instruction_for_rerank": (),
    "embed_instruction": ("passage_instruction", "text_instruction"),
    "text_instruction": ("passage_instruction",),
    "passage_instruction": ("text_instruction",),
    "passage_instruction_for_retrieval": ("passage_instruction", "text_instruction"),
    "document_instruction": ("passage_instruction", "text_instruction"),
    "devices": ("device",),
    "target_devices": ("device",),
    "cache_dir": ("cache_folder",),
    "torch_dtype": ("dtype",),
    "max_seq_length": ("max_length",),
    "doc_maxlen": ("max_length",),
    "passage_max_length": ("max_length",),
    "query_maxlen": ("query_max_length", "max_length"),
    "top_k": ("top_n", "k", "similarity_top_k"),
    "topk": ("top_n", "k", "similarity_top_k"),
    "topn": ("top_n", "k", "similarity_top_k"),
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
#: What to do about arguments that have no counterpart, or more than one.
_ADVICE = {
    "encode_kwargs": "leave it out: vectors are normalized and batches packed for you; an instruction (prompt) is "
    "query_instruction=",
    "query_encode_kwargs": "use query_instruction= for a prompt, and leave out the rest",
    "model_kwargs": "pass what it contains by itself, such as device= and dtype=; leave out trust_remote_code",
    "tokenizer_kwargs": "use max_length=, and leave out the rest",
    "processor_kwargs": "use max_length=, and leave out the rest",
    "config_kwargs": "leave it out: the checkpoint's own configuration is used",
    "use_fp16": "use dtype='float16' (CUDA only), or leave it out for bfloat16 on CUDA and float32 on the CPU",
    "use_bf16": "use dtype='bfloat16', or leave it out: it is the default on CUDA",
    "normalize_embeddings": "leave it out: vectors are always normalized",
    "batch_size": "leave it out: batches are packed by the number of tokens",
    "multi_process": "use device= with a list of CUDA devices",
    "parallel_process": "use device= with a list of CUDA devices",
    "pool": "use device= with a list of CUDA devices",
    "trust_remote_code": "leave it out: code from a checkpoint is never run",
    "pooling_method": "leave it out: the checkpoint says how its states are pooled",
    "pooling_mode": "leave it out: the checkpoint says how its states are pooled",
    "prompts": "use query_instruction=",
    "prompt_name": "use query_instruction=, or leave it out for the model's own",
    "default_prompt_name": "leave it out: each query gets the model's own instruction",
    "query_instruction_format": "leave it out: the model's own format is used",
    "query_instruction_for_rerank": "leave it out: rerankers read the query as it is (LLM rerankers take prompt=)",
    "query_max_length": "use max_length=, which applies to queries and documents",
    "query_maxlen": "use max_length=, which applies to queries and documents",
    "convert_to_numpy": "leave it out: the results have the framework's own types",
    "convert_to_tensor": "leave it out: the results have the framework's own types",
    "tokenizer_name": "leave it out: the checkpoint's own tokenizer is used",
    "tokenizer": "leave it out: the checkpoint's own tokenizer is used",
    "top_n": "pass a reranker with top_n=",
    "top_k": "set the number of results where you search",
    "embedding_function": "use model=",
}


def advice_for(name: str, known: Collection[str]) -> str | None:
    """Return what to pass instead of an argument that a class does not have; None if nothing is similar.

    Args:
        name: The unknown argument.
        known: The arguments that the class has.
    """
    if (other := next((other for other in _SAME.get(name, ()) if other in known), None)) is not None:
        return f"use {other}="
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

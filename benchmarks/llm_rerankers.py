"""LLM rerankers of real width with few layers: comparison with FlagEmbedding, and the gain from stopping early.

    python benchmarks/llm_rerankers.py

writes benchmarks/llm_rerankers.json. Weights are random; the vocabulary is the pocket tokenizer's, so that the logits
of every token, which FlagEmbedding computes, fit in memory. FlagEmbedding's layerwise and lightweight rerankers need an
old version of transformers and are not measured here.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import CHECKPOINTS, passages, questions
from options import add_results, positive
from safetensors.torch import save_file
from timing import alternate, machine

from bge_integrations import load_reranker

RESULTS = Path(__file__).parent / "llm_rerankers.json"
_TOKENIZER = Path(__file__).parent.parent / "bge_integrations" / "pocket" / "reranker"
_LAYERS = 4
_NORMS = ("input_layernorm", "post_attention_layernorm")
_SANDWICH = (*_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")


def gemma(folder: Path) -> Path:
    """Create bge-reranker-v2-gemma, as wide as Gemma 2B."""
    config = {
        "architectures": ["GemmaForCausalLM"],
        "model_type": "gemma",
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
    }
    return _written(folder / "bge-reranker-v2-gemma", config, _NORMS)


def minicpm(folder: Path) -> Path:
    """Create bge-reranker-v2-minicpm-layerwise, as wide as MiniCPM 2B, with a score after each layer."""
    config = {
        "model_type": "minicpm",
        "hidden_size": 2304,
        "intermediate_size": 5760,
        "num_attention_heads": 36,
        "num_key_value_heads": 36,
        "hidden_act": "silu",
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 256,
        "head_type": "simple",
        "start_layer": 1,
    }
    return _written(folder / "bge-reranker-v2-minicpm-layerwise", config, _NORMS)


def gemma2(folder: Path) -> Path:
    """Create bge-reranker-v2.5-gemma2-lightweight, as wide as Gemma 2 9B, with a score after each layer."""
    config = {
        "model_type": "cost_wise_gemma",
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "final_logit_softcapping": 30.0,
        "start_layer": 1,
        "layer_sep": 1,
    }
    return _written(folder / "bge-reranker-v2.5-gemma2-lightweight", config, _SANDWICH)


def _written(target: Path, config: dict[str, Any], norms: tuple[str, ...]) -> Path:
    """Create the checkpoint in `target` unless it exists, in bfloat16 like the published ones."""
    if (target / "model.safetensors").is_file():
        return target
    from transformers import AutoTokenizer

    target.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(_TOKENIZER)
    tokenizer.save_pretrained(target)
    config |= {
        "num_hidden_layers": _LAYERS,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-6,
        "torch_dtype": "bfloat16",
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    size = config.get("head_dim", hidden // heads)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (len(tokenizer), hidden)}
    for i in range(_LAYERS):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.{norm}.weight": (hidden,) for norm in norms}
        for part, count in (("q", heads), ("k", config["num_key_value_heads"]), ("v", config["num_key_value_heads"])):
            shapes[f"{layer}.self_attn.{part}_proj.weight"] = (count * size, hidden)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (hidden, heads * size)
        shapes |= {f"{layer}.mlp.{part}_proj.weight": (inner, hidden) for part in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, inner)
        if "start_layer" in config:
            shapes[f"lm_head.{i}.linear_head.weight"] = (1, hidden)
    shapes["model.norm.weight"] = (hidden,)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: (torch.randn(shape, generator=generator) * 0.02).to(torch.bfloat16) for name, shape in shapes.items()
    }
    save_file(weights, target / "model.safetensors.part", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(config, indent=1))
    shutil.move(target / "model.safetensors.part", target / "model.safetensors")
    return target


def beside_flag_embedding(folder: Path, pairs: list[tuple[str, str]], rounds: int) -> dict[str, Any]:
    from FlagEmbedding import FlagLLMReranker

    peer = FlagLLMReranker(str(folder), devices="cpu")
    lists = [list(pair) for pair in pairs]
    with load_reranker(folder, device="cpu") as reranker:
        found = alternate(rounds, lambda: reranker.score(pairs), {"FlagEmbedding": lambda: peer.compute_score(lists)})
        expected = np.array(peer.compute_score(lists))
        found["largest difference"] = float(np.abs(reranker.score(pairs) - expected).max() / np.abs(expected).max())
    return found


def stopping_early(
    folder: Path, pairs: list[tuple[str, str]], rounds: int, options: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Compare the whole reranker with ones that compute less; the ratio is how many times faster they are."""
    loaded = {name: load_reranker(folder, device="cpu", **less) for name, less in options.items()}
    with load_reranker(folder, device="cpu") as whole:
        found = alternate(
            rounds,
            lambda: whole.score(pairs),
            {name: lambda r=reranker: r.score(pairs) for name, reranker in loaded.items()},  # type: ignore[misc]
        )
    for reranker in loaded.values():
        reranker.close()
    found["times faster"] = {name: 1 / ratio[0] for name, ratio in found.pop("ratio").items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--passages", type=positive, default=32)
    add_results(parser, RESULTS)
    options = parser.parse_args()
    pairs = [(questions(1)[0], text) for text in passages(options.passages)]
    half = _LAYERS // 2
    results = {
        "machine": machine(),
        "layers": _LAYERS,
        "pairs": len(pairs),
        "v2-gemma": beside_flag_embedding(gemma(CHECKPOINTS), pairs, options.rounds),
        "v2-minicpm-layerwise": stopping_early(
            minicpm(CHECKPOINTS), pairs, options.rounds, {"half of the layers": {"cutoff_layers": half}}
        ),
        "v2.5-gemma2-lightweight": stopping_early(
            gemma2(CHECKPOINTS),
            pairs,
            options.rounds,
            {
                "half of the layers": {"cutoff_layers": half},
                "compressed by 2 before layer 1": {"compress_ratio": 2, "compress_layers": 1},
                "compressed by 8 before layer 1": {"compress_ratio": 8, "compress_layers": 1},
            },
        ),
    }
    options.results.write_text(json.dumps(results, indent=1) + "\n")
    print(options.results.read_text())


if __name__ == "__main__":
    main()

"""Read long texts with a plain model and with Activation Beacon at several ratios: time, and memory that is kept.

    python benchmarks/long_context.py

writes benchmarks/long_context.json. The model is a small Llama with random weights, so only time and memory are
measured, not answers.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from options import add_results, positive
from transformers import LlamaConfig, LlamaForCausalLM

from bge_integrations.generation.beacon_config import BeaconConfig
from bge_integrations.generation.beacon_model import BeaconModel, with_beacons
from bge_integrations.generation.interface import LanguageModel
from bge_integrations.generation.plain_model import PlainModel

RESULTS = Path(__file__).parent / "long_context.json"
RATIOS = (2, 4, 8, 16, 32)
WINDOW = 512
NEW_TOKENS = 8
SETTINGS: dict[str, Any] = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 65536,
    "beacon_window": WINDOW,
    "beacon_stride": WINDOW,
    "beacon_param": ["q", "k", "v"],
}


def make_models() -> dict[str, LanguageModel]:
    """Return the plain model and a beacon model for each ratio, all with the same weights."""
    torch.manual_seed(0)
    config = BeaconConfig.read(SETTINGS)
    network = with_beacons(LlamaForCausalLM, config)(LlamaConfig(**SETTINGS)).eval()
    beacons = {
        f"beacon, ratio {ratio}": BeaconModel(network, BeaconConfig.read(SETTINGS, ratio), {}) for ratio in RATIOS
    }
    return {"plain": PlainModel(network, config.positions, {}), **beacons}


@torch.inference_mode()
def measure(model: LanguageModel, tokens: int) -> dict[str, Any]:
    """Read a text and generate a few tokens."""
    ids = torch.randint(0, SETTINGS["vocab_size"], (tokens,), generator=torch.Generator().manual_seed(tokens)).tolist()
    memory = model.start(tokens)
    begin = time.perf_counter()
    logits = model.read(ids, memory, lambda: None)
    read = time.perf_counter()
    kept = memory.bytes
    for _ in range(NEW_TOKENS):
        logits = model.read([int(logits.argmax())], memory, lambda: None)
    spent = time.perf_counter() - read
    return {
        "seconds to read": round(read - begin, 2),
        "milliseconds per new token": round(1000 * spent / NEW_TOKENS, 1),
        "kept, MB": round(kept / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--longest", type=positive, default=16384, help="tokens of the longest text")
    add_results(parser, RESULTS)
    options = parser.parse_args()
    lengths = [tokens for tokens in (2048, 4096, 8192, 16384, 32768, 65536) if tokens <= options.longest]
    models, rows = make_models(), []
    measure(models["plain"], WINDOW)  # warm up
    for tokens in lengths:
        for name, model in models.items():
            rows.append({"model": name, "tokens": tokens, **measure(model, tokens)})
            print(rows[-1], flush=True)
        results = {"model": SETTINGS, "threads": torch.get_num_threads(), "torch": torch.__version__, "texts": rows}
        options.results.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

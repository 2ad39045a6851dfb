"""GPU benchmark: parity with the CPU, and tokens per second against the card's matmul limit and sentence-transformers.

    python benchmarks/gpu.py

writes benchmarks/gpu.json in less than 8 minutes. It needs only torch >= 2.11, transformers, sentence-transformers and
numpy, and no network. Weights are random, in the published sizes. Use `--device cpu --quick` to try the script itself.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from checkpoints import CHECKPOINTS, random_embedder, random_m3
from numpy.typing import NDArray
from options import add_results

from bge_integrations import Embedder, load_embedder
from bge_integrations.models import graphs
from bge_integrations.models.encoder_model import EncoderModel

RESULTS = Path(__file__).parent / "gpu.json"
_WORDS = ("the", "of", "panda", "bamboo", "river", "city", "light", "water", "system", "early", "people", "music")


@dataclass(frozen=True)
class Sizes:
    """The amount of work."""

    models: tuple[str, ...]
    texts: int
    long_texts: int
    parity_texts: int
    matmul: int
    queries: int


def text_of(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(_WORDS, k=words))


def timed(work: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul_tflops(device: str, size: int) -> float:
    """Return the card's bfloat16 matmul limit: the best of a few square products."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    torch.mm(a, b)
    return 2 * size**3 / min(timed(lambda: torch.mm(a, b), device) for _ in range(20)) / 1e12


def work_per_token(embedder: Embedder, length: int) -> float:
    """Return the floating-point operations of linears and attention per token of a text of this length."""
    model = embedder._session.model
    assert isinstance(model, EncoderModel)
    config = model.config
    linears = 4 * config.hidden_size**2 + 2 * config.hidden_size * config.intermediate_size
    whole_layer = 2.0 * linears + 4.0 * length * config.hidden_size
    # for most tokens the last layer computes only queries, keys and values
    return (config.layers - 1) * whole_layer + 6.0 * config.hidden_size**2


def parity(folder: Path, device: str, count: int) -> dict[str, Any]:
    """Return the largest difference and the smallest cosine to float32 on the CPU, for texts of mixed lengths."""
    texts = [text_of(3 + 40 * i % 380, i) for i in range(count)]
    found: dict[str, Any] = {}
    with load_embedder(folder, device="cpu") as exact:
        everything: dict[str, Any] = {
            "sparse": exact.has_sparse,
            "multi_vector": exact.has_multi_vector,
            "on_truncate": "ignore",
        }
        expected = exact.encode(texts, **everything)
    for dtype in ("float32", "bfloat16", *(("float16",) if device != "cpu" else ())):
        with load_embedder(folder, device=device, dtype=dtype) as embedder:
            outputs = embedder.encode(texts, **everything)
            alone = one_at_a_time(embedder, texts)
        assert outputs.dense is not None
        assert expected.dense is not None
        found[dtype] = {
            "largest difference": float(np.abs(outputs.dense - expected.dense).max()),
            "smallest cosine": float((outputs.dense * expected.dense).sum(1).min()),
            "one at a time, smallest cosine": float((alone * expected.dense).sum(1).min()),
        }
        if outputs.multi_vector is not None and expected.multi_vector is not None:
            difference = np.abs(outputs.multi_vector.vectors - expected.multi_vector.vectors)
            found[dtype]["multi-vectors, largest difference"] = float(difference.max())
    return found


def one_at_a_time(embedder: Embedder, texts: list[str]) -> NDArray[np.float32]:
    """Return each text's dense vector, encoded alone and for the second time: the first call records a CUDA graph."""
    vectors = []
    for text in texts * 2:
        dense = embedder.encode([text], on_truncate="ignore").dense
        assert dense is not None
        vectors.append(dense[0])
    return np.stack(vectors[len(texts) :])


def throughput(folder: Path, device: str, count: int, limit: float) -> dict[str, Any]:
    """Return the tokens per second at full length, and their share of the card's limit."""
    texts = [text_of(600, i) for i in range(count)]
    with load_embedder(folder, device=device, max_length=512) as embedder:
        embedder.encode(texts[:64], on_truncate="ignore")
        spent = min(timed(lambda: embedder.encode(texts, on_truncate="ignore"), device) for _ in range(3))
        rate = count * 512 / spent
        return {"tokens/s": rate, "share of the matmul limit": rate * work_per_token(embedder, 512) / limit / 1e12}


def beside_sentence_transformers(folder: Path, device: str, count: int) -> dict[str, Any]:
    """Alternate with sentence-transformers in float16, on texts of 5 to 500 words, truncated at 512 tokens."""
    from sentence_transformers import SentenceTransformer

    texts = [text_of(int(5 * 100 ** random.Random(i).random()), i) for i in range(count)]
    peer = SentenceTransformer(str(folder), device=device)
    peer.max_seq_length = 512
    peer = peer.half() if device != "cpu" else peer
    with load_embedder(folder, device=device, max_length=512) as embedder:
        rounds: list[tuple[float, float]] = []
        for begin in range(4):  # the first warms up
            ours = timed(lambda: embedder.encode(texts, on_truncate="ignore"), device)
            theirs = timed(lambda: peer.encode(texts, normalize_embeddings=True), device)
            rounds += [(ours, theirs)] if begin else []
    ratios = [theirs / ours for ours, theirs in rounds]
    return {
        "texts/s": count / statistics.median(ours for ours, _ in rounds),
        "times as fast as sentence-transformers": [statistics.median(ratios), min(ratios), max(ratios)],
    }


def lone_query(folder: Path, device: str, count: int) -> dict[str, Any]:
    """Time single queries, one after another, in ms; leave out the first ones, which record the CUDA graphs."""
    with load_embedder(folder, device=device) as embedder:
        queries = [text_of(12, i) for i in range(count)]
        spent = [timed(lambda query=query: embedder.encode([query]), device) for query in queries]  # type: ignore[misc]
    later = sorted(spent[len(spent) // 5 :])
    return {"median, ms": statistics.median(later) * 1e3, "p99, ms": float(np.percentile(later, 99)) * 1e3}


def describe(device: str) -> dict[str, Any]:
    name = "CPU" if device == "cpu" else torch.cuda.get_device_name(device)
    return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="use tiny sizes to try the script; write no results")
    add_results(parser, RESULTS)
    options = parser.parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; use --device cpu --quick to try the script without one")
    sizes = Sizes(("small", "base", "large", "m3"), 4096, 4096, 24, 8192, 200)
    if options.quick:
        sizes = Sizes(("small",), 4, 16, 4, 512, 10)
    device = options.device
    limit = matmul_tflops(device, sizes.matmul)
    results: dict[str, Any] = {"machine": describe(device), "bfloat16 matmul limit, TFLOP/s": limit}
    for model in sizes.models:
        folder = random_m3(CHECKPOINTS) if model == "m3" else random_embedder(CHECKPOINTS, model)
        found = results[model] = {"parity": parity(folder, device, sizes.parity_texts)}
        found["512 tokens"] = throughput(folder, device, sizes.texts, limit)
        found["mixed lengths"] = beside_sentence_transformers(folder, device, sizes.long_texts)
        found["lone query"] = lone_query(folder, device, sizes.queries)
        if device != "cpu":
            with patch.object(graphs, "SIZES", ()):
                found["lone query without CUDA graphs"] = lone_query(folder, device, sizes.queries)
        print(model, json.dumps(found, indent=1), flush=True)
    if not options.quick:
        options.results.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

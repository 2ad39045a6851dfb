"""Texts, pictures and both, embedded by a model of BGE-VL-base's size, beside the plain way in transformers.

    python benchmarks/images.py

writes benchmarks/images.json. Weights are random; the tokenizer is the tests', and the texts are cut to the lengths of
captions and paragraphs in tokens. The plain way is CLIPModel with its processor, in batches of 32 in the given order,
and input by input as in the model card. Beside float32, ours is also timed in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import CHECKPOINTS, PROJECT, passages
from options import add_results, positive
from PIL import Image
from timing import alternate, machine
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from bge_integrations import load_embedder
from bge_integrations.core.embedder import Embedder, Input

RESULTS = Path(__file__).parent / "images.json"
_TOKENIZER = PROJECT / "tests" / "oracle" / "vision" / "checkpoints" / "bge-vl-clip"
_BATCH = 32
#: Tokens of a caption and of a paragraph, at least and at most.
_CAPTION, _PARAGRAPH = (8, 24), (40, 77)
_SIZES = ((640, 480), (480, 640), (1024, 768), (500, 500))


def random_clip(folder: Path) -> Path:
    """Create BGE-VL-base in `folder` unless it exists: CLIP ViT-B/16, with the vocabulary of the tests' tokenizer."""
    target = folder / "BGE-VL-base"
    if not (target / "model.safetensors").is_file():
        target.mkdir(parents=True, exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json"):
            shutil.copy(_TOKENIZER / name, target)
        processor = json.loads((_TOKENIZER / "preprocessor_config.json").read_text()) | {"size": 224, "crop_size": 224}
        (target / "preprocessor_config.json").write_text(json.dumps(processor))
        torch.manual_seed(0)
        vocabulary = len(json.loads((_TOKENIZER / "vocab.json").read_text()))
        config = CLIPConfig(
            text_config={"vocab_size": vocabulary, "eos_token_id": 2},
            vision_config={"patch_size": 16},
            projection_dim=512,
        )
        CLIPModel(config).save_pretrained(target)
    return target


def mixed_inputs(count: int, embedder: Embedder, folder: Path) -> list[Input]:
    """Return inputs in random order: captions, paragraphs, pictures, and pictures with captions, a quarter each."""
    chance = random.Random(0)
    texts = iter(passages(count))
    pictures = iter(_pictures(count, folder))

    def text(least: int, most: int) -> str:
        words = next(texts).split()
        (tokens,) = embedder.count_tokens([" ".join(words)])
        return " ".join(words[: max(1, len(words) * chance.randint(least, most) // tokens)])

    makers: list[Callable[[], Input]] = [
        lambda: text(*_CAPTION),
        lambda: text(*_PARAGRAPH),
        lambda: {"image": str(next(pictures))},
        lambda: {"image": str(next(pictures)), "text": text(*_CAPTION)},
    ]
    inputs = [makers[i % len(makers)]() for i in range(count)]
    chance.shuffle(inputs)
    return inputs


def _pictures(count: int, folder: Path) -> list[Path]:
    """Write JPEG files of soft random colours, which compress like photographs."""
    colours = np.random.default_rng(0)
    files = []
    for i in range(count):
        small = Image.fromarray(colours.integers(0, 256, (24, 32, 3), np.uint8))
        files.append(folder / f"{i}.jpg")
        small.resize(_SIZES[i % len(_SIZES)], Image.Resampling.BICUBIC).save(files[-1], quality=90)
    return files


class PlainWay:
    """CLIPModel and CLIPProcessor, as their documentation uses them; pictures with texts as BGE-VL adds them."""

    def __init__(self, folder: Path, batch: int) -> None:
        self._model: Any = CLIPModel.from_pretrained(folder, dtype=torch.float32)
        self._model.eval()  # type: ignore[no-untyped-call]
        self._processor = CLIPProcessor.from_pretrained(folder)
        self._batch = batch

    def encode(self, inputs: Sequence[Input]) -> np.ndarray:
        parts = [inputs[i : i + self._batch] for i in range(0, len(inputs), self._batch)]
        return np.concatenate([self._encode(part) for part in parts])

    @torch.inference_mode()
    def _encode(self, inputs: Sequence[Input]) -> np.ndarray:
        each = [{"text": given} if isinstance(given, str) else given for given in inputs]
        features = torch.zeros(len(inputs), self._model.config.projection_dim)
        if rows := [i for i, given in enumerate(each) if "text" in given]:
            texts = [each[i]["text"] for i in rows]
            tokens = self._processor(text=texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
            features[rows] += self._model.get_text_features(**tokens).pooler_output
        if rows := [i for i, given in enumerate(each) if "image" in given]:
            images = [Image.open(each[i]["image"]).convert("RGB") for i in rows]
            pixels = self._processor(images=images, return_tensors="pt")
            features[rows] += self._model.get_image_features(**pixels).pooler_output
        return torch.nn.functional.normalize(features, dim=-1).numpy()


def measure(
    embedder: Embedder, half: Embedder, plain: PlainWay, single: PlainWay, inputs: list[Input], rounds: int
) -> dict[str, Any]:
    """Time all ways of embedding the same inputs, and compare their vectors; `half` is ours in bfloat16."""
    ours = partial(embedder.encode_dense, inputs, on_truncate="ignore")
    peers: dict[str, Callable[[], Any]] = {
        f"transformers, batches of {_BATCH}": partial(plain.encode, inputs),
        "transformers, input by input": partial(single.encode, inputs),
        "ours, bfloat16": partial(half.encode_dense, inputs, on_truncate="ignore"),
    }
    found = alternate(rounds, ours, peers)
    vectors = ours()
    found["inputs"] = len(inputs)
    found["largest difference"] = float(np.abs(vectors - plain.encode(inputs)).max())
    found["smallest cosine in bfloat16"] = float((vectors * peers["ours, bfloat16"]()).sum(1).min())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--inputs", type=positive, default=64)
    add_results(parser, RESULTS)
    options = parser.parse_args()
    checkpoint = random_clip(CHECKPOINTS)
    plain, single = PlainWay(checkpoint, _BATCH), PlainWay(checkpoint, 1)
    with (
        load_embedder(checkpoint, device="cpu") as embedder,
        load_embedder(checkpoint, device="cpu", dtype="bfloat16") as half,
        tempfile.TemporaryDirectory() as folder,
    ):
        mixed = mixed_inputs(options.inputs, embedder, Path(folder))
        kinds: dict[str, list[Input]] = {
            "mixed": mixed,
            "texts": [each for each in mixed if isinstance(each, str)],
            "pictures": [each for each in mixed if not isinstance(each, str) and "text" not in each],
        }
        results = {"machine": machine()} | {
            name: measure(embedder, half, plain, single, inputs, options.rounds) for name, inputs in kinds.items()
        }
    options.results.write_text(json.dumps(results, indent=1) + "\n")
    print(options.results.read_text())


if __name__ == "__main__":
    main()

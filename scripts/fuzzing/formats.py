"""The formats that are read from files: a valid file, how it is damaged, and who reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bge_integrations import load_embedder, load_reranker
from bge_integrations.core.embedder import Embedder
from bge_integrations.core.reranker import Reranker
from bge_integrations.documents.reading import read_content
from bge_integrations.documents.splitting import read_passages
from bge_integrations.evaluation import Dataset, Run
from bge_integrations.index import M3Index
from bge_integrations.index.folder import IndexFiles
from bge_integrations.jobs.inputs import find_inputs
from bge_integrations.jobs.plan import Plan, make_plan
from bge_integrations.jobs.reading import joined_schema, read_tables, scan
from bge_integrations.training.layouts import read_training_data
from bge_integrations.training.texts import read_texts
from fuzzing import seeds
from fuzzing.mutations import (
    Mutation,
    mutate_archive,
    mutate_bytes,
    mutate_json,
    mutate_json_lines,
    mutate_safetensors,
)

_ORACLE = Path(__file__).parents[2] / "tests" / "oracle"
_CHECKPOINTS = _ORACLE / "checkpoints"
Reader = Callable[[bytes], object]
#: The files that sentence-transformers saves with a checkpoint.
_SENTENCE_TRANSFORMERS_FILES: dict[str, Any] = {
    "modules.json": [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate((("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")))
    ],
    "1_Pooling/config.json": {"word_embedding_dimension": 64, "pooling_mode_cls_token": True},
    "sentence_bert_config.json": {"max_seq_length": 64, "do_lower_case": False},
    "config_sentence_transformers.json": {"prompts": {"query": "q: ", "passage": ""}, "truncate_dim": None},
}


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        prepare: Returns a valid file, and a function that reads a damaged one; both may use the folder that it gets.
        mutate: Damages the file.
        share: How many inputs it gets, relative to the others.
    """

    prepare: Callable[[Path], tuple[bytes, Reader]]
    mutate: Mutation = mutate_bytes
    share: int = 4


def _document(name: str, make: Callable[[], bytes]) -> Callable[[Path], tuple[bytes, Reader]]:
    """A document, which is read and split into passages."""

    def prepare(folder: Path) -> tuple[bytes, Reader]:
        pocket = load_embedder("pocket")
        file = folder / name

        def read(data: bytes) -> None:
            file.write_bytes(data)
            read_content(file)
            list(read_passages(file, pocket))

        return make(), read

    return prepare


def _checkpoint(source: str, name: str, **settings: Any) -> Callable[[Path], tuple[bytes, Reader]]:
    """A file of a checkpoint, which is loaded and computes a vector or a score."""

    def prepare(folder: Path) -> tuple[bytes, Reader]:
        checkpoint = folder / Path(source).name
        shutil.copytree(_ORACLE / source, checkpoint)
        if name in _SENTENCE_TRANSFORMERS_FILES:
            for file, content in _SENTENCE_TRANSFORMERS_FILES.items():
                (checkpoint / file).parent.mkdir(exist_ok=True)
                (checkpoint / file).write_text(json.dumps(content))
        if name == "pytorch_model.bin":
            from safetensors.torch import load_file

            torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / name)
            (checkpoint / "model.safetensors").unlink()
        elif name == "model.safetensors.index.json":
            from safetensors import safe_open

            (checkpoint / "model.safetensors").rename(checkpoint / "model-1.safetensors")
            with safe_open(checkpoint / "model-1.safetensors", "pt") as opened:
                weights = dict.fromkeys(opened.keys(), "model-1.safetensors")
            (checkpoint / name).write_text(json.dumps({"weight_map": weights}))
        seed = (checkpoint / name).read_bytes()

        def read(data: bytes) -> None:
            (checkpoint / name).write_bytes(data)
            load: Callable[..., Embedder | Reranker] = load_reranker if "reranker" in source else load_embedder
            with load(checkpoint, **settings) as model:
                if isinstance(model, Embedder):
                    model.encode(["a text [CLS] <s>"], sparse=model.has_sparse, multi_vector=model.has_multi_vector)
                else:
                    model.score([("a question", "a text")])

        return seed, read

    return prepare


def _image(kind: str) -> Callable[[Path], tuple[bytes, Reader]]:
    def prepare(folder: Path) -> tuple[bytes, Reader]:
        embedder = load_embedder(_ORACLE / "vision" / "checkpoints" / "bge-vl-clip")
        return seeds.image(kind), lambda data: embedder.encode([{"image": data}])

    return prepare


def _file(name: str, seed: bytes, read_path: Callable[[Path], object]) -> Callable[[Path], tuple[bytes, Reader]]:
    """A single file that one function reads."""

    def prepare(folder: Path) -> tuple[bytes, Reader]:
        file = folder / name

        def read(data: bytes) -> None:
            file.write_bytes(data)
            read_path(file)

        return seed, read

    return prepare


def _dataset(name: str) -> Callable[[Path], tuple[bytes, Reader]]:
    """A file of a data set in BEIR's layout."""

    def prepare(folder: Path) -> tuple[bytes, Reader]:
        corpus = seeds.json_lines(*({"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(seeds.TEXTS)))
        files = {
            "corpus.jsonl": corpus,
            "queries.jsonl": seeds.json_lines({"_id": "q1", "text": "What do pandas eat?"}),
            "qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq1\td0\t1\nq1\td1\t0\n",
        }
        (folder / "qrels").mkdir()
        for file, content in files.items():
            (folder / file).write_bytes(content)

        def read(data: bytes) -> None:
            (folder / name).write_bytes(data)
            Dataset.read(folder)
            read_training_data(folder, split="test")

        return files[name], read

    return prepare


def _read_job(file: Path) -> None:
    """Scan a job's input, plan it, and read the rows back."""
    inputs = find_inputs(str(file))
    scanned = [scan(each, "text", 2) for each in inputs]
    schema = joined_schema(scanned)
    plan = make_plan(inputs, scanned, {}, 2)
    for part in plan.parts:
        source = inputs[part.input]
        for _ in read_tables(source, "text", schema, part.start, part.rows, part.mark, 2):
            pass


def _plan() -> bytes:
    schema = seeds.table().schema
    return Plan([], schema, [], {"model": "pocket"}).to_json()


def _index(name: str) -> Callable[[Path], tuple[bytes, Reader]]:
    """A file of an index's folder, which is opened and searched, and gets a new document."""

    def prepare(folder: Path) -> tuple[bytes, Reader]:
        pocket = load_embedder("pocket")
        whole, damaged = folder / "whole", folder / "damaged"
        with M3Index.open(whole, pocket) as index:
            index.add(list(seeds.TEXTS), ids=["1", "2", "3"])
        seed = (whole / name).read_bytes()
        if name.startswith("m") and name.endswith(".json"):
            damaged.mkdir()
            shutil.copy(whole / "current.json", damaged)

        def read(data: bytes) -> None:
            if name == "manifest.json":  # much faster than opening the index, which reads the same
                (damaged / name).write_bytes(data)
                IndexFiles(damaged).manifest()
                return
            (whole / name).write_bytes(data)
            with M3Index.open(whole, pocket, read_only=True) as index:
                index.search("What do pandas eat?")
                list(index.scan())

        return seed, read

    return prepare


_ROWS = seeds.json_lines(
    {"query": "What do pandas eat?", "pos": ["Bamboo."], "neg": ["Fish.", "Rice."], "pos_scores": [1.5],
     "neg_scores": [0.1, 0.2], "prompt": "q: ", "type": "normal"},
    {"query": "b", "pos": ["c"], "neg": []},
)  # fmt: skip
_TRAINING = b"query\tpassage\tlabel\nWhat do pandas eat?\tBamboo.\t1\nWhat do pandas eat?\tFish.\t0\n"
_JOB_ROWS = seeds.json_lines(*({"id": i, "text": text, "more": [i]} for i, text in enumerate(seeds.TEXTS)))
_BASE, _M3 = "checkpoints/bge-base-en-v1.5", "checkpoints/bge-m3"
_GEMMA = "checkpoints/bge-multilingual-gemma2"
_DOCUMENTS: dict[str, tuple[Callable[[], bytes], Mutation]] = {
    "a.html": (lambda: seeds.HTML, mutate_bytes),
    "a.md": (lambda: seeds.MARKDOWN, mutate_bytes),
    "a.txt": (lambda: "\n".join(seeds.TEXTS).encode(), mutate_bytes),
    "a.py": (lambda: b"def f(x):\n    return x\n" * 3, mutate_bytes),
    "a.pdf": (seeds.pdf, mutate_bytes),
    "a.docx": (seeds.word_document, mutate_archive),
    "a.pptx": (seeds.presentation, mutate_archive),
    "a.xlsx": (seeds.workbook, mutate_archive),
    "a.epub": (seeds.book, mutate_archive),
    "a.csv": (lambda: b'animal,food\npanda,"bamboo, much"\nheron,fish\n', mutate_bytes),
    "a.json": (lambda: b'{"a": [{"b": "panda", "c": [1, 2.5, null]}, "x"], "d": {"e": true}}', mutate_json),
    "a.jsonl": (lambda: _JOB_ROWS, mutate_json_lines),
}
#: The formats by name.
FORMATS: dict[str, Format] = {
    **{f"document {name}": Format(_document(name, make), mutate) for name, (make, mutate) in _DOCUMENTS.items()},
    **{
        f"image {kind}": Format(_image(kind), share=2)
        for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000")
    },
    "checkpoint config.json": Format(_checkpoint(_BASE, "config.json"), mutate_json, 2),
    "checkpoint config.json of a decoder": Format(_checkpoint(_GEMMA, "config.json"), mutate_json, 2),
    "checkpoint tokenizer.json": Format(_checkpoint(_BASE, "tokenizer.json"), mutate_json, 2),
    "checkpoint tokenizer.json of bge-m3": Format(_checkpoint(_M3, "tokenizer.json"), mutate_json, 2),
    "checkpoint tokenizer_config.json": Format(_checkpoint(_BASE, "tokenizer_config.json"), mutate_json, 1),
    **{
        f"checkpoint {name}": Format(_checkpoint(_BASE, name), mutate_json, 1)
        for name in (
            *("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"),
            *("config_sentence_transformers.json", "model.safetensors.index.json"),
        )
    },
    "checkpoint model.safetensors": Format(_checkpoint(_BASE, "model.safetensors"), mutate_safetensors, 2),
    "checkpoint pytorch_model.bin": Format(_checkpoint(_BASE, "pytorch_model.bin"), mutate_archive, 1),
    "checkpoint sparse_linear.pt": Format(_checkpoint(_M3, "sparse_linear.pt"), mutate_archive, 2),
    "checkpoint colbert_linear.pt": Format(_checkpoint(_M3, "colbert_linear.pt"), mutate_bytes, 1),
    "checkpoint config.json of a reranker": Format(
        _checkpoint("checkpoints/bge-reranker-v2-m3", "config.json"), mutate_json, 1
    ),
    "checkpoint config.json of CLIP": Format(
        _checkpoint("vision/checkpoints/bge-vl-clip", "config.json"), mutate_json, 1
    ),
    "checkpoint weights of Visualized-BGE": Format(
        _checkpoint("vision/checkpoints/visualized-base", "Visualized_base_en_v1.5.pth"), mutate_archive, 1
    ),
    "run": Format(
        _file("a.trec", b"q1 Q0 d1 1 2.5 bm25\nq1 Q0 d2 2 1.5 bm25\nq2 Q0 d1 1 1e-3 bm25\n", Run.read), share=6
    ),
    "data set corpus.jsonl": Format(_dataset("corpus.jsonl"), mutate_json_lines, 6),
    "data set queries.jsonl": Format(_dataset("queries.jsonl"), mutate_json_lines, 4),
    "data set qrels": Format(_dataset("qrels/test.tsv"), share=6),
    "training rows": Format(_file("a.jsonl", _ROWS, lambda file: read_training_data(file)), mutate_json_lines, 6),
    "training table": Format(_file("a.tsv", _TRAINING, lambda file: read_training_data(file)), share=4),
    "training table in Parquet": Format(
        lambda folder: _file("a.parquet", seeds.parquet(seeds.pairs()), lambda file: read_training_data(file))(folder)
    ),
    "texts to pretrain on": Format(
        _file("a.jsonl", _JOB_ROWS, lambda file: list(read_texts(file))), mutate_json_lines, 4
    ),
    "job rows in JSON": Format(_file("a.jsonl", _JOB_ROWS, _read_job), mutate_json_lines, 6),
    "job rows in gzip": Format(_file("a.jsonl.gz", seeds.compressed(_JOB_ROWS), _read_job)),
    "job rows in Parquet": Format(lambda folder: _file("a.parquet", seeds.parquet(seeds.table()), _read_job)(folder)),
    "job rows in Arrow": Format(lambda folder: _file("a.arrow", seeds.arrow(), _read_job)(folder)),
    "job plan": Format(lambda _: (_plan(), partial(Plan.from_json, source="plan")), mutate_json),
    "index manifest.json": Format(_index("manifest.json"), mutate_json),
    "index current.json": Format(_index("current.json"), mutate_json, 1),
    "index multi-vectors": Format(_index("multi_vectors/rows-000001"), share=1),
}

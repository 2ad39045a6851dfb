"""FlagEmbedding, the reference implementation: batches of 256 passages and 128 pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from FlagEmbedding import BGEM3FlagModel, FlagModel, FlagReranker
from numpy.typing import NDArray


def _max_length(folder: str) -> int:
    return int(json.loads((Path(folder) / "sentence_bert_config.json").read_text())["max_seq_length"])


class Embedder:
    def __init__(self, folder: str) -> None:
        length = _max_length(folder)
        self._model = FlagModel(folder, use_fp16=False, devices="cpu", passage_max_length=length)

    def passages(self, texts: list[str]) -> NDArray[np.float32]:
        return np.asarray(self._model.encode_corpus(texts))

    def query(self, text: str) -> NDArray[np.float32]:
        return np.asarray(self._model.encode_queries([text])[0])


class Reranker:
    def __init__(self, folder: str) -> None:
        self._model = FlagReranker(folder, use_fp16=False, devices="cpu")

    def scores(self, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
        return np.asarray(self._model.compute_score(pairs, normalize=True), np.float32)


class ThreeOutputs:
    def __init__(self, folder: str) -> None:
        self._model = BGEM3FlagModel(folder, use_fp16=False, devices="cpu")

    def passages(self, texts: list[str]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        encoded = self._model.encode(texts, return_dense=True, return_sparse=True, return_colbert_vecs=True)
        sparse = np.zeros((len(texts), len(self._model.tokenizer)), np.float32)
        for row, weights in zip(sparse, encoded["lexical_weights"], strict=True):
            row[[int(token) for token in weights]] = list(weights.values())
        return np.asarray(encoded["dense_vecs"]), sparse, np.concatenate(encoded["colbert_vecs"])

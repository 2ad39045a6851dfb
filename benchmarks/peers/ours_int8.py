"""This package with linears in 8 bits."""

from __future__ import annotations

from peers import ours


class Embedder(ours.Embedder):
    def __init__(self, folder: str) -> None:
        super().__init__(folder, dtype="int8")


class Reranker(ours.Reranker):
    def __init__(self, folder: str) -> None:
        super().__init__(folder, dtype="int8")

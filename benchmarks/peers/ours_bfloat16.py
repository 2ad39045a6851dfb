"""This package with weights and linears in bfloat16."""

from __future__ import annotations

from peers import ours


class Embedder(ours.Embedder):
    def __init__(self, folder: str) -> None:
        super().__init__(folder, dtype="bfloat16")


class Reranker(ours.Reranker):
    def __init__(self, folder: str) -> None:
        super().__init__(folder, dtype="bfloat16")

"""MTEB adapters: `mteb.evaluate` runs any BGE embedder, bge-m3's sparse, multi-vector and hybrid search, and rerankers.

Each adapter implements one of mteb's protocols: `BGEEncoder` is an encoder, `BGEM3Search` a search model, and
`BGECrossEncoder` a cross-encoder.
"""

from bge_integrations.optional import how_to_install

try:
    from bge_integrations.mteb.cross_encoder import BGECrossEncoder
    from bge_integrations.mteb.encoder import BGEEncoder
    from bge_integrations.mteb.m3_search import BGEM3Search
except ImportError as error:  # also raised by an mteb that is too old
    raise ImportError(f"bge_integrations.mteb needs mteb: {how_to_install('mteb')}", name=error.name) from error

__all__ = ["BGECrossEncoder", "BGEEncoder", "BGEM3Search"]

"""The LlamaIndex adapters: the contract, real stores, caches, copies, async."""

import pickle
from typing import ClassVar

import numpy as np
import pytest
from conftest import BASE, M3, RERANKER, assert_close
from llama_index.core import Document, MockEmbedding, Settings, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index_contract import EmbeddingContract, NodePostprocessorContract
from pydantic import ValidationError

from bge_integrations.core.residency import resident_models
from bge_integrations.errors import CheckpointNotFoundError, InvalidInputError, UnknownModelError
from bge_integrations.llama_index import BGEEmbedding, BGERerank, BGESparseEmbedding

TEXTS = [
    "Pandas live in the bamboo forests of China.",
    "BM25 ranks documents by their words.",
    "hi",
    "A dense retriever compares vectors.",
]


class TestEmbeddingContract(EmbeddingContract):
    changes: ClassVar = {
        "model_name": M3,
        "query_instruction": "Represent: ",
        "text_instruction": "Represent: ",
        "normalize": False,
        "max_length": 8,
        "truncate_dim": 16,
        "pooling": "mean",
        "dtype": "bfloat16",
    }
    with_query_instruction: ClassVar = {}
    without_query_instruction: ClassVar = {"query_instruction": ""}

    def make(self, **fields):
        return BGEEmbedding(**{"model_name": BASE, **fields})


class TestRerankContract(NodePostprocessorContract):
    def make(self, **fields):
        return BGERerank(**{"model": RERANKER, **fields})

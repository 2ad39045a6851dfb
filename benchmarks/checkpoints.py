"""Checkpoints of the published sizes with random weights: speed does not depend on what a model has learnt."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import XLMRobertaConfig

PROJECT = Path(__file__).parent.parent
#: Where the benchmarks keep what they have made.
CHECKPOINTS = Path(tempfile.gettempdir()) / "bge-benchmark-checkpoints"
_TOKENIZER = PROJECT / "tests" / "model_files" / "bge-small-en-v1.5-tokenizer"
_M3_HEADS = PROJECT / "tests" / "model_files" / "bge-m3-heads"
_RERANKER_TOKENIZER = PROJECT / "bge_integrations" / "pocket" / "reranker"
_SIZES = {"small": (384, 12, 12, 1536), "base": (768, 12, 12, 3072)}


def random_embedder(folder: Path, size: str) -> Path:
    """A bge-{size}-en-v1.5 in `folder`, made once: the published tokenizer, config and size."""
    from transformers import BertConfig, BertModel

    target = folder / f"bge-{size}-en-v1.5"
    if (target / "model.safetensors").is_file():
        return target
    shutil.copytree(_TOKENIZER, target, dirs_exist_ok=True)
    hidden, layers, heads, inner = _SIZES[size]
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner
    )
    BertModel(config).save_pretrained(target)
    pooling = target / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"embedding_dimension": hidden, "pooling_mode": "cls"}))
    return target


def random_reranker(folder: Path) -> Path:
    """A bge-reranker-base in `folder`, made once: its trunk's size, with the vocabulary of the pocket tokenizer."""
    from transformers import XLMRobertaForSequenceClassification

    target = folder / "bge-reranker-base"
    if not (target / "model.safetensors").is_file():
        config = _xlm_roberta(target, hidden=768, layers=12, heads=12, positions=514)
        config.num_labels = 1
        XLMRobertaForSequenceClassification(config).save_pretrained(target)
    return target


def random_m3(folder: Path) -> Path:
    """A bge-m3 in `folder`, made once: its trunk's size and its own heads, with the pocket tokenizer's vocabulary."""
    from transformers import XLMRobertaModel

    target = folder / "bge-m3"
    if not (target / "model.safetensors").is_file():
        XLMRobertaModel(_xlm_roberta(target, hidden=1024, layers=24, heads=16, positions=8194)).save_pretrained(target)
        shutil.copytree(_M3_HEADS, target, dirs_exist_ok=True)
    return target


def _xlm_roberta(target: Path, hidden: int, layers: int, heads: int, positions: int) -> XLMRobertaConfig:
    """The config of a trunk of that size for the pocket tokenizer, which is put into `target`; torch is seeded."""
    from transformers import AutoTokenizer, XLMRobertaConfig

    tokenizer = AutoTokenizer.from_pretrained(_RERANKER_TOKENIZER)
    tokenizer.save_pretrained(target)
    torch.manual_seed(0)
    return XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=positions,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        layer_norm_eps=1e-5,
    )


def passages(count: int) -> list[str]:
    """Real passages of about 100 tokens: the bundled demonstration documents, repeated with a number if need be."""
    file = PROJECT / "bge_integrations" / "demo_documents" / "passages.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    texts = [f"{row['title']}: {row['text']}" for row in rows]
    return [texts[i] if i < len(texts) else f"{i}. {texts[i % len(texts)]}" for i in range(count)]


def questions(count: int) -> list[str]:
    """Short queries, all different."""
    file = PROJECT / "bge_integrations" / "demo_documents" / "questions.jsonl"
    found = [json.loads(line)["question"] for line in file.read_text("utf-8").splitlines()]
    return [f"{found[i % len(found)]} ({i})" if i >= len(found) else found[i] for i in range(count)]

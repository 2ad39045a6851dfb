"""Checkpoints of the published sizes with random weights: speed does not depend on training."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import XLMRobertaConfig

PROJECT = Path(__file__).parent.parent
#: Where the benchmarks cache the checkpoints that they create.
CHECKPOINTS = Path(tempfile.gettempdir()) / "bge-benchmark-checkpoints"
_TOKENIZER = PROJECT / "tests" / "model_files" / "bge-small-en-v1.5-tokenizer"
_M3_HEADS = PROJECT / "tests" / "model_files" / "bge-m3-heads"
_RERANKER_TOKENIZER = PROJECT / "bge_integrations" / "pocket" / "reranker"
_SIZES = {"small": (384, 12, 12, 1536), "base": (768, 12, 12, 3072), "large": (1024, 24, 16, 4096)}
#: Tokens per word of the pocket tokenizer in the bundled passages, rounded up so that texts are never too long.
_TOKENS_A_WORD = 1.35
#: The modules in the form of the published checkpoints: sentence-transformers before 5.4 can't read newer forms.
_MODULES = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")


def random_embedder(folder: Path, size: str) -> Path:
    """Create bge-{size}-en-v1.5 in `folder` unless it exists: the published tokenizer, config and size."""
    import torch
    from transformers import BertConfig, BertModel

    target = folder / f"bge-{size}-en-v1.5"
    hidden, layers, heads, inner = _SIZES[size]
    if not (target / "model.safetensors").is_file():
        shutil.copytree(_TOKENIZER, target, dirs_exist_ok=True)
        torch.manual_seed(0)
        config = BertConfig(
            hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inner
        )
        BertModel(config).save_pretrained(target)
    _describe_pooling(target, hidden, max_length=512)
    return target


def random_reranker(folder: Path) -> Path:
    """Create bge-reranker-base in `folder` unless it exists: its backbone's size, the pocket tokenizer's vocabulary."""
    from transformers import XLMRobertaForSequenceClassification

    target = folder / "bge-reranker-base"
    if not (target / "model.safetensors").is_file():
        config = _xlm_roberta(target, hidden=768, layers=12, heads=12, positions=514)
        config.num_labels = 1
        XLMRobertaForSequenceClassification(config).save_pretrained(target)
    return target


def random_m3(folder: Path, layers: int = 24) -> Path:
    """Create bge-m3 in `folder` unless it exists: its backbone's size, its heads, the pocket tokenizer's vocabulary."""
    from transformers import XLMRobertaModel

    target = folder / "bge-m3"
    if not (target / "model.safetensors").is_file():
        config = _xlm_roberta(target, hidden=1024, layers=layers, heads=16, positions=8194)
        XLMRobertaModel(config).save_pretrained(target)
        shutil.copytree(_M3_HEADS, target, dirs_exist_ok=True)
    _describe_pooling(target, 1024, max_length=8192)
    return target


def _describe_pooling(target: Path, hidden: int, max_length: int) -> None:
    """Write the files of sentence-transformers: CLS pooling, normalized, and `max_length`."""
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(_MODULES)
    ]
    (target / "modules.json").write_text(json.dumps(modules))
    (target / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_length}))
    (target / "2_Normalize").mkdir(exist_ok=True)
    (target / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (target / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def _xlm_roberta(target: Path, hidden: int, layers: int, heads: int, positions: int) -> XLMRobertaConfig:
    """Write the pocket tokenizer to `target`, seed torch, and return the config of a backbone of this size.

    Pairs have the template of XLM-RoBERTa's own tokenizer.
    """
    import torch
    from transformers import XLMRobertaConfig

    target.mkdir(parents=True, exist_ok=True)
    tokenizer = json.loads((_RERANKER_TOKENIZER / "tokenizer.json").read_text("utf-8"))
    tokenizer["post_processor"]["pair"] = [
        {"Sequence" if name in "AB" else "SpecialToken": {"id": name, "type_id": 0}}
        for name in ("<s>", "A", "</s>", "</s>", "B", "</s>")
    ]
    (target / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
    described = json.loads((_RERANKER_TOKENIZER / "tokenizer_config.json").read_text("utf-8"))
    described |= {"model_input_names": ["input_ids", "attention_mask"], "model_max_length": positions - 2}
    (target / "tokenizer_config.json").write_text(json.dumps(described))
    torch.manual_seed(0)
    return XLMRobertaConfig(
        vocab_size=len(tokenizer["model"]["vocab"]),
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
    """Return real passages of about 100 tokens: the bundled demo documents, repeated with a number if necessary."""
    file = PROJECT / "bge_integrations" / "demo_documents" / "passages.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    texts = [f"{row['title']}: {row['text']}" for row in rows]
    return [texts[i] if i < len(texts) else f"{i}. {texts[i % len(texts)]}" for i in range(count)]


def varied_passages(count: int) -> list[str]:
    """Return real text cut to realistic lengths: log-normal, median 88 tokens, mean 111, at most 512."""
    words = " ".join(passages(499)).split()
    drawn = 88 * np.exp(0.68 * np.random.default_rng(0).standard_normal(count))
    lengths = (np.clip(drawn, 8, 512) / _TOKENS_A_WORD).astype(int)
    begins = np.random.default_rng(1).integers(0, len(words) - int(lengths.max()), count)
    return [" ".join(words[begin : begin + length]) for begin, length in zip(begins, lengths, strict=True)]


def questions(count: int) -> list[str]:
    """Return short queries, all different."""
    file = PROJECT / "bge_integrations" / "demo_documents" / "questions.jsonl"
    texts = [json.loads(line)["question"] for line in file.read_text("utf-8").splitlines()]
    return [f"{texts[i % len(texts)]} ({i})" if i >= len(texts) else texts[i] for i in range(count)]


def long_passages(longest: int) -> list[str]:
    """Return texts of about 1/32, 1/16, … and all of `longest` tokens of the pocket tokenizer, and none longer."""
    words = " ".join(passages(499)).split()
    return [" ".join(words[: int(longest / part / _TOKENS_A_WORD)]) for part in (32, 16, 8, 4, 2, 1)]

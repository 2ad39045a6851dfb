"""The corpus as token ids, the tokenizer trained on it, and the pairs that may be trained on."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

BOS, PAD, EOS, UNK, MASK = range(5)
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
VOCABULARY_SIZE = 15_000
MAX_LENGTH = 512


@dataclass
class Corpus:
    """Texts of the corpus. `pairs` holds (query index, passage index) without the pairs of the demonstration."""

    passage_ids: list[str]
    titles: list[str]
    texts: list[str]
    queries: list[str]
    kinds: list[str]
    pairs: np.ndarray
    is_demo: np.ndarray


@dataclass
class Tokens:
    """Token ids without special tokens, one array per text."""

    titles: list[np.ndarray]
    texts: list[np.ndarray]
    queries: list[np.ndarray]

    def passage(self, index: int, with_title: bool, length: int) -> np.ndarray:
        """Ids of a passage, behind its title if asked, cut to `length` ids."""
        ids = self.texts[index]
        if with_title:
            ids = np.concatenate([self.titles[index], ids])
        return ids[:length]


def read_corpus(folder: Path, demo_folder: Path) -> Corpus:
    """Read the passages and pairs; a pair whose passage is in the demonstration collection is left out."""
    passage_ids, titles, texts = [], [], []
    with gzip.open(folder / "passages.jsonl.gz", "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            passage_ids.append(record["id"])
            titles.append(record["title"] or "")
            texts.append(record["text"])
    with (demo_folder / "passages.jsonl").open(encoding="utf-8") as lines:
        demo = {json.loads(line)["id"] for line in lines}
    row = {passage_id: i for i, passage_id in enumerate(passage_ids)}
    queries: dict[str, int] = {}
    kinds, pairs = [], []
    with gzip.open(folder / "pairs.jsonl.gz", "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            if record["passage_id"] in demo:
                continue
            query = record["query"]
            if query not in queries:
                queries[query] = len(queries)
                kinds.append(record["kind"])
            pairs.append((queries[query], row[record["passage_id"]]))
    is_demo = np.array([passage_id in demo for passage_id in passage_ids])
    return Corpus(passage_ids, titles, texts, list(queries), kinds, np.array(pairs), is_demo)


def train_tokenizer(corpus: Corpus) -> Tokenizer:
    """A lower-casing WordPiece with XLM-RoBERTa's special tokens and templates."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>", max_input_chars_per_word=60))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY_SIZE, special_tokens=SPECIAL_TOKENS, limit_alphabet=400, show_progress=False
    )
    texts = (text for part in (corpus.titles, corpus.texts, corpus.queries) for text in part)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", BOS), ("</s>", EOS)],
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json as transformers reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "model_max_length": MAX_LENGTH,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _encode(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    rows: list[np.ndarray] = []
    for start in range(0, len(texts), 5000):
        batch = tokenizer.encode_batch_fast(texts[start : start + 5000], add_special_tokens=False)
        rows.extend(np.array(encoding.ids, dtype=np.int32) for encoding in batch)
    return rows


def tokenize(tokenizer: Tokenizer, corpus: Corpus) -> Tokens:
    """Ids of every title, text and query."""
    return Tokens(
        _encode(tokenizer, corpus.titles), _encode(tokenizer, corpus.texts), _encode(tokenizer, corpus.queries)
    )


def inverse_frequency(tokens: Tokens) -> np.ndarray:
    """idf per token id over the passages, as BM25 defines it; float32 (vocabulary,)."""
    count = np.zeros(VOCABULARY_SIZE)
    for ids in tokens.texts:
        count[np.unique(ids)] += 1
    total = len(tokens.texts)
    return np.log1p((total - count + 0.5) / (count + 0.5)).astype(np.float32)

"""The corpus as token ids, the tokenizer trained on it, and the training pairs."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

BOS, PAD, EOS, UNK, MASK = range(5)
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
VOCABULARY_SIZE = 20_000
MAX_LENGTH = 512
#: Endings that are stripped after a word's first three letters, so that "regulates" and "regulation" are one piece.
ENDINGS = r"(?<=[a-z]{3})(?:ions?|ings?|ies|ied|edly|ed|es|ely|ly|y|e|s)\b"
#: One in this many titles is held out with all its pairs, for validation.
HELD_OUT = 70


@dataclass
class Corpus:
    """Texts of the corpus.

    `pairs` and `held_out` contain (query index, passage index), int64 (n, 2), without pairs of the demo documents.
    Passages with the same title are adjacent; `sections[i]` is (first, end) of the passages with i's title.
    """

    titles: list[str]
    texts: list[str]
    queries: list[str]
    pairs: np.ndarray
    held_out: np.ndarray
    sections: np.ndarray


@dataclass
class Tokens:
    """Token ids without special tokens, one array per text."""

    titles: list[np.ndarray]
    texts: list[np.ndarray]
    queries: list[np.ndarray]


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
    pairs = []
    with gzip.open(folder / "pairs.jsonl.gz", "rt", encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            if record["passage_id"] in demo:
                continue
            query = queries.setdefault(record["query"], len(queries))
            pairs.append((query, row[record["passage_id"]]))
    distinct = sorted(set(titles))
    chosen = np.random.default_rng(0).permutation(len(distinct))[: len(distinct) // HELD_OUT]
    apart = {distinct[i] for i in chosen}
    kept_queries = {query for query, passage in pairs if titles[passage] not in apart}
    is_held_out = np.array([query not in kept_queries for query, _ in pairs])
    all_pairs = np.array(pairs)
    return Corpus(titles, texts, list(queries), all_pairs[~is_held_out], all_pairs[is_held_out], sections(titles))


def sections(titles: list[str]) -> np.ndarray:
    """Return int64 (n, 2): first and end of the adjacent passages with the same title; untitled ones are alone."""
    starts = [i for i, title in enumerate(titles) if i == 0 or not title or title != titles[i - 1]]
    bounds = np.empty((len(titles), 2), dtype=np.int64)
    for first, end in zip(starts, [*starts[1:], len(titles)], strict=True):
        bounds[first:end] = first, end
    return bounds


def train_tokenizer(corpus: Corpus) -> Tokenizer:
    """Train a lower-casing WordPiece tokenizer that strips endings, with XLM-RoBERTa's special tokens and templates.

    In a pair the passage has token type 1, so that a small model can distinguish the texts from its first layer on.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>", max_input_chars_per_word=60))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split(Regex(ENDINGS), "removed")]
    )
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY_SIZE, special_tokens=SPECIAL_TOKENS, limit_alphabet=400, show_progress=False
    )
    texts = (text for part in (corpus.titles, corpus.texts, corpus.queries) for text in part)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> <s>:1 $B:1 </s>:1",
        special_tokens=[("<s>", BOS), ("</s>", EOS)],
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, inputs: list[str]) -> None:
    """Write tokenizer.json and tokenizer_config.json for transformers; `inputs` are the names of the model's inputs."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": inputs,
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


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """Return the ids of each text, without special tokens."""
    rows: list[np.ndarray] = []
    for start in range(0, len(texts), 5000):
        batch = tokenizer.encode_batch_fast(texts[start : start + 5000], add_special_tokens=False)
        rows.extend(np.array(encoding.ids, dtype=np.int32) for encoding in batch)
    return rows


def tokenize(tokenizer: Tokenizer, corpus: Corpus) -> Tokens:
    """Return the ids of every title, text and query."""
    return Tokens(encode(tokenizer, corpus.titles), encode(tokenizer, corpus.texts), encode(tokenizer, corpus.queries))


def inverse_frequency(tokens: Tokens) -> np.ndarray:
    """Return the idf of each token id over the passages, as defined by BM25; float32 (vocabulary,)."""
    count = np.zeros(VOCABULARY_SIZE)
    for ids in tokens.texts:
        count[np.unique(ids)] += 1
    total = len(tokens.texts)
    return np.log1p((total - count + 0.5) / (count + 0.5)).astype(np.float32)


def with_specials(ids: np.ndarray) -> np.ndarray:
    """Return <s> ids </s>."""
    return np.concatenate([[BOS], ids, [EOS]]).astype(np.int64)

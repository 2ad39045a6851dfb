"""The teacher's vectors of words, queries, spans and passages: what the embedder's dense vectors learn.

The teacher is all-MiniLM-L6-v2, loaded by the package's own core. Its vectors stay in the work folder.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.progress import Progress
from tokenizers import Tokenizer

from bge_integrations import load_embedder
from bge_integrations.errors import InstructionWarning
from pocket_training.data import Corpus
from pocket_training.work_files import made_once

WORD = re.compile(r"[^\W_]+")
#: Words of the corpus that occur at least this often are encoded by themselves.
COMMON = 3
SPANS = 30_000
SPAN_WORDS = (4, 25)
JOINED = 2_000
JOINED_WORDS = 170
#: At most this many single passages; the corpus has a few more.
PASSAGES = 120_000
TITLED = 0.7
CHUNK = 4096


@dataclass
class Lessons:
    """Texts that the teacher encodes, and where they come from.

    `queries[i]` is the text of the corpus' query i, or -1. `rows` (texts, 2) are the first and the end of the corpus
    passages that a text was made from, or (-1, -1). `documents` are texts with whole passages: first JOINED of several
    neighbouring passages, as far as they fit, then single passages. `spans` are texts that were cut from a passage.
    """

    texts: list[str]
    queries: np.ndarray
    rows: np.ndarray
    spans: np.ndarray
    documents: np.ndarray


def _words(corpus: Corpus, teacher: Path) -> list[str]:
    """Return the corpus' common words, and the words of the teacher's vocabulary."""
    counts = Counter(word for text in corpus.texts for word in WORD.findall(text.lower()))
    own = Tokenizer.from_file(str(teacher / "tokenizer.json")).get_vocab()
    return sorted({word for word, count in counts.items() if count >= COMMON} | {w for w in own if w.isalpha()})


def _span(text: str, generator: np.random.Generator) -> str:
    words = text.split()
    length = int(generator.integers(*SPAN_WORDS))
    start = int(generator.integers(0, max(1, len(words) - length + 1)))
    return " ".join(words[start : start + length])


def _end_of_joined(row: int, corpus: Corpus) -> int:
    """Return the end of the passages from `row` on that have its title and together at most JOINED_WORDS words."""
    end, words = row + 1, len(corpus.texts[row].split())
    while end < corpus.sections[row, 1]:
        words += len(corpus.texts[end].split())
        if words > JOINED_WORDS:
            break
        end += 1
    return end


def lessons_of(corpus: Corpus, teacher: Path, seed: int) -> Lessons:
    """Return words, spans, joined passages, and single passages with their queries, without the held-out titles.

    A larger PASSAGES only adds texts at the end, so the vectors of the others stay valid.
    """
    generator = np.random.default_rng([seed, 12])
    apart = {corpus.titles[row] for row in corpus.held_out[:, 1]}
    rows = generator.permutation([i for i, title in enumerate(corpus.titles) if title not in apart])
    titled = generator.random((2, len(rows))) < TITLED
    asked: dict[int, list[int]] = {}
    for query, passage in corpus.pairs.tolist():
        asked.setdefault(passage, []).append(query)

    texts, of = _words(corpus, teacher), []
    of += [(-1, -1)] * len(texts)
    spans = len(texts) + np.arange(SPANS)
    for row in generator.choice(rows, SPANS).tolist():
        texts.append(_span(corpus.texts[row], generator))
        of.append((row, row + 1))

    documents = []
    queries = np.full(len(corpus.queries), -1)

    def add(first: int, end: int, with_title: bool) -> None:
        documents.append(len(texts))
        texts.append(" ".join([corpus.titles[first]] * with_title + corpus.texts[first:end]).strip())
        of.append((first, end))

    for row, with_title in zip(rows[:JOINED].tolist(), titled[0].tolist(), strict=False):
        add(row, _end_of_joined(row, corpus), with_title)
    for row, with_title in zip(rows[:PASSAGES].tolist(), titled[1].tolist(), strict=False):
        add(row, row + 1, with_title)
        for query in asked.get(row, ()):
            if queries[query] < 0:
                queries[query] = len(texts)
                texts.append(corpus.queries[query])
                of.append((-1, -1))
    return Lessons(texts, queries, np.array(of), spans, np.array(documents))


def teach(folder: Path, texts: list[str], kept: Path, progress: Progress) -> np.ndarray:
    """Return the teacher's unit vectors, float16 (texts, 384); each chunk is kept in a file of the folder `kept`."""
    kept.mkdir(exist_ok=True)
    parts = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InstructionWarning)
        teacher = load_embedder(str(folder), dtype="bfloat16")

    def write(out: BinaryIO, chunk: list[str]) -> None:
        vectors = teacher.encode(chunk, kind="passage", on_truncate="ignore").dense
        assert vectors is not None
        np.save(out, vectors.astype(np.float16))

    with teacher:
        for start in progress.track(range(0, len(texts), CHUNK), description="teacher"):
            chunk = texts[start : start + CHUNK]
            file = kept / f"{start}-{start + len(chunk)}.npy"
            parts.append(np.load(made_once(file, partial(write, chunk=chunk))))
    return np.concatenate(parts)

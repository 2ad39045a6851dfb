"""Pictures of embeddings for notebooks: words colored by weight, matches between words, and the parts of scores.

The last expression of a cell shows its picture:

    >>> from bge_integrations import load_embedder
    >>> from bge_integrations.embeddings_view import view_matches, view_scores, view_weights
    >>> m3 = load_embedder("BAAI/bge-m3")
    >>> view_weights(m3, "Giant pandas eat bamboo.")
    >>> view_matches(m3, "What do pandas eat?", "Giant pandas eat bamboo.")
    >>> view_scores(m3, "What do pandas eat?", ["Giant pandas eat bamboo.", "Rome is in Italy."])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from bge_integrations.errors import InvalidInputError
from bge_integrations.scoring import REPRESENTATIONS, Weights, hybrid_scores
from bge_integrations.validation import check_query, check_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bge_integrations.core.embedder import Embedder, TextKind
    from bge_integrations.outputs import Token

#: The color of each representation, as red, green and blue; readable on light and on dark pages.
_COLORS = {"dense": "62, 124, 186", "sparse": "196, 120, 40", "multi_vector": "62, 150, 98", "score": "128, 128, 128"}
_LABELS = {"dense": "Dense", "sparse": "Sparse", "multi_vector": "Multi-vector", "score": "Weighted"}


@dataclass(frozen=True)
class View:
    """A picture that notebooks show.

    Attributes:
        html: The picture. All text in it is escaped.
        summary: What it shows, for terminals.
    """

    html: str
    summary: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.summary


def view_weights(embedder: Embedder, text: str, *, kind: TextKind = "passage") -> View:
    """Show a text with its words colored by their lexical weight.

    Args:
        embedder: A model with a sparse head, such as bge-m3 or "pocket".
        text: The text. It is truncated as the model truncates it.
        kind: "query" or "passage".

    Raises:
        InvalidInputError: The model has no sparse head.
    """
    _check_m3(embedder)
    weights = embedder.encode(check_query(text), kind=kind, dense=False, sparse=True).sparse
    assert weights is not None
    by_id = weights[0].to_dict()
    tokens = embedder.tokens([text], kind=kind, max_length=embedder.max_length)[0]
    colored = [(token, by_id.get(token.id, 0.0)) for token in tokens if token.start is not None]
    heaviest = sorted(colored, key=lambda pair: -pair[1])[:5]
    return View(
        _block(_colored_text(text, colored)),
        "Heaviest words: " + ", ".join(f"{token.text} {weight:.3f}" for token, weight in heaviest),
    )


def view_matches(embedder: Embedder, query: str, passage: str) -> View:
    """Show the similarity of each word of a query to each word of a passage, with the best match of each framed.

    The multi-vector score (`scoring.max_sim`) is the mean of these, and of one for the end of the query.

    Args:
        embedder: A model with a multi-vector head, such as bge-m3 or "pocket".
        query, passage: The texts.

    Raises:
        InvalidInputError: The model has no multi-vector head.
    """
    _check_m3(embedder)
    asked, query_vectors = _word_vectors(embedder, query, "query")
    found, passage_vectors = _word_vectors(embedder, passage, "passage")
    if not asked or not found:
        raise InvalidInputError("a text without words has no matches", argument="passage" if asked else "query")
    similarities = query_vectors @ passage_vectors.T
    best = similarities.argmax(axis=1).tolist()
    matches = [
        f"{token.text} → {found[j].text} {similarities[i, j]:.2f}"
        for i, (token, j) in enumerate(zip(asked, best, strict=True))
    ]
    return View(_block(_heat_map(asked, found, similarities)), "\n".join(matches))


def view_scores(embedder: Embedder, query: str, passages: Iterable[str], *, weights: Weights = (1.0, 1.0, 1.0)) -> View:
    """Show the passages, best first, with their dense, sparse and multi-vector scores as bars.

    Args:
        embedder: A model of the bge-m3 family.
        query: The query.
        passages: The passages.
        weights: The weights of dense, sparse and multi-vector scores.

    Raises:
        InvalidInputError: The model has no sparse and multi-vector heads, or the weights are invalid.
    """
    _check_m3(embedder)
    texts = check_texts(passages, "passages")
    asked = embedder.encode(check_query(query), kind="query", sparse=True, multi_vector=True)
    scores = hybrid_scores(asked, embedder.encode(texts, kind="passage", sparse=True, multi_vector=True), weights)
    parts = {name: getattr(scores, name)[0] for name in REPRESENTATIONS} | {"score": scores.hybrid[0]}
    order = np.argsort(-scores.hybrid[0], kind="stable").tolist()
    rows = [_bars(texts[i], {name: float(row[i]) for name, row in parts.items()}, parts) for i in order]
    return View(
        _block("".join(rows)), "\n".join(f"{scores.hybrid[0, i]:.3f} {texts[i][:80]}" for i in order) or "no passages"
    )


def _check_m3(embedder: Embedder) -> None:
    if not embedder.has_sparse:
        raise InvalidInputError(
            f"{embedder.name} has no sparse and multi-vector heads",
            argument="embedder",
            advice="use BAAI/bge-m3 (or 'pocket')",
        )


def _word_vectors(embedder: Embedder, text: str, kind: TextKind) -> tuple[list[Token], NDArray[np.float32]]:
    """Return the tokens of a text without special tokens and instruction, and their vectors."""
    vectors = embedder.encode(check_query(text), kind=kind, dense=False, multi_vector=True).multi_vector
    assert vectors is not None
    tokens = embedder.tokens([text], kind=kind, max_length=embedder.max_length)[0]
    words = [i for i, token in enumerate(tokens) if token.start is not None]
    return [tokens[i] for i in words], vectors[0][[i - 1 for i in words]]  # the first token has no vector


def _colored_text(text: str, colored: Sequence[tuple[Token, float]]) -> str:
    largest = max((weight for _, weight in colored), default=0.0) or 1.0
    pieces, end = [], 0
    for token, weight in colored:
        assert token.start is not None
        assert token.stop is not None
        if token.start < end:  # several tokens of one character
            continue
        style = (
            f"background: rgba({_COLORS['sparse']}, {0.75 * weight / largest:.3f}); border-radius: 2px; padding: 2px 0"
        )
        pieces.append(escape(text[end : token.start]))
        pieces.append(f'<span style="{style}" title="{weight:.3f}">{escape(text[token.start : token.stop])}</span>')
        end = token.stop
    return f'<p style="line-height: 2; white-space: pre-wrap">{"".join(pieces)}{escape(text[end:])}</p>'


def _heat_map(asked: Sequence[Token], found: Sequence[Token], similarities: NDArray[np.float32]) -> str:
    low, high = float(similarities.min()), float(similarities.max())
    strengths = ((similarities - low) / max(high - low, 1e-9)) ** 2
    rotated = "writing-mode: vertical-rl; transform: rotate(180deg); white-space: pre"
    head = "".join(
        f'<th scope="col" style="font-weight: normal; vertical-align: bottom; padding: 2px">'
        f'<span style="{rotated}">{escape(token.text)}</span></th>'
        for token in found
    )
    rows = []
    for i, token in enumerate(asked):
        best = int(similarities[i].argmax())
        cells = "".join(
            f'<td title="{escape(f"{token.text} – {other.text}: {similarities[i, j]:.3f}")}" style="width: 20px; '
            f"height: 20px; padding: 0; background: rgba({_COLORS['multi_vector']}, {strengths[i, j]:.3f}); "
            f'border: {"2px solid currentColor" if j == best else "1px solid transparent"}"></td>'
            for j, other in enumerate(found)
        )
        label = f'<th scope="row" style="font-weight: normal; text-align: right">{escape(token.text)}</th>'
        rows.append(f"<tr>{label}{cells}</tr>")
    return f'<table style="border-collapse: collapse"><tr><td></td>{head}</tr>{"".join(rows)}</table>'


def _bars(text: str, own: dict[str, float], parts: dict[str, NDArray[np.float32]]) -> str:
    rows = []
    for name, score in own.items():
        size = 100 * max(0.0, score) / max(float(parts[name].max()), 1e-9)
        bar = f"background: rgb({_COLORS[name]}); width: {size:.1f}%; height: 8px; border-radius: 4px"
        rows.append(
            f'<div style="display: grid; grid-template-columns: 90px 200px 60px; align-items: center">'
            f'<span>{_LABELS[name]}</span><span><div style="{bar}"></div></span>'
            f'<span style="text-align: right; font-variant-numeric: tabular-nums">{score:.3f}</span></div>'
        )
    return f'<p style="margin: 12px 0 4px; white-space: pre-wrap">{escape(text)}</p>{"".join(rows)}'


def _block(content: str) -> str:
    return f'<div style="overflow-x: auto; font-size: 14px; max-width: 60em">{content}</div>'

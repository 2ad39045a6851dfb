"""Draw docs/m3_index.svg from the pocket embedder's scores and docs/evaluation.svg from the figures in docs/pocket.md.

python scripts/docs_pictures.py
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from bge_integrations import load_embedder
from bge_integrations.scoring import hybrid_scores

DOCS = Path(__file__).resolve().parent.parent / "docs"
QUERY = "What do pandas eat?"
PASSAGES = ["The giant panda eats bamboo.", "The heron eats fish.", "Rome lies on the Tiber."]
COLOURS = {
    "dense": "#3b6fb6",
    "sparse": "#c7702b",
    "multi_vector": "#3c8a5a",
    "hybrid": "#6b4fa0",
    "hybrid + rerank": "#a8487a",
}
NAMES = {"dense": "dense", "sparse": "sparse", "multi_vector": "multi-vector", "hybrid": "hybrid"}
#: Data sets of docs/pocket.md that are drawn. The demo questions are too few.
DATA_SETS = {"scifact": "SciFact", "xquad-en": "XQuAD-en"}
STYLE = """
    text { font-family: "Helvetica Neue", Helvetica, Arial, "DejaVu Sans", sans-serif; font-size: 13px; fill: #1f2933 }
    .s { fill: #52606d }
    .b { font-weight: 600 }
    .w { fill: #ffffff; font-weight: 600 }
    .v { fill: #ffffff }
    .a { stroke: #9aa5b1; stroke-width: 1.5; fill: none; marker-end: url(#tip) }
"""
TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 z" fill="#9aa5b1"/></marker>'
)


def text(x: float, y: float, content: str, style: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">{escape(content)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str = "none") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" fill="{fill}" stroke="{stroke}"/>'


def arrow(*points: tuple[float, float]) -> str:
    return f'<path d="M{" L".join(f"{x:g} {y:g}" for x, y in points)}" class="a"/>'


def picture(title: str, width: int, height: int, parts: list[str]) -> str:
    """Return an SVG on a light card, which is readable on light and dark pages."""
    card = (
        f'<rect x="1" y="1" width="{width - 2}" height="{height - 2}" rx="10" fill="#f7f9fb" stroke="#d9e0e6"/>',
        TIP,
        *parts,
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title">\n'
        f'  <title id="title">{escape(title)}</title>\n  <style>{STYLE}  </style>\n  '
        + "\n  ".join(card)
        + "\n</svg>\n"
    )


def m3_index() -> str:
    """How an M3Index searches: from the query to the hits, with the scores of three passages."""
    with load_embedder("pocket") as embedder:
        query = embedder.encode([QUERY], kind="query", sparse=True, multi_vector=True)
        passages = embedder.encode(PASSAGES, kind="passage", sparse=True, multi_vector=True)
        scores = hybrid_scores(query, passages)
    parts = [
        box(20, 84, 164, 44, "#ffffff", "#9aa5b1"),
        text(32, 102, "query", "s"),
        text(32, 119, QUERY),
        arrow((184, 106), (206, 106)),
        box(208, 84, 110, 44, "#52606d"),
        text(263, 102, "bge-m3", "w", "middle"),
        text(263, 119, "one pass", "w", "middle"),
    ]
    made = {"dense": "one vector", "sparse": "a weight per token", "multi_vector": "a vector per token"}
    for row, (name, what) in enumerate(made.items()):
        y = 30 + 54 * row
        parts += [
            arrow((318, 106), (334, 106), (334, y + 22), (352, y + 22)),
            box(354, y, 150, 44, COLOURS[name]),
            text(366, y + 18, NAMES[name], "w"),
            text(366, y + 35, what, "v"),
        ]
        if name != "multi_vector":
            parts.append(arrow((504, y + 22), (524, y + 22)))
    parts += [
        box(526, 30, 186, 98, "#ffffff", "#9aa5b1"),
        text(538, 52, "1. candidates", "b"),
        text(538, 74, "dense and sparse search", "s"),
        text(538, 92, "propose up to 200", "s"),
        text(538, 110, "documents each", "s"),
        arrow((712, 79), (734, 79)),
        arrow((504, 160), (723, 160), (723, 110), (734, 110)),
        box(736, 30, 149, 98, "#ffffff", "#9aa5b1"),
        text(748, 52, "2. scores", "b"),
        text(748, 74, "every candidate", "s"),
        text(748, 92, "gets all three", "s"),
        arrow((805, 128), (805, 212)),
        text(793, 184, "3. weighted mean", "b", "end"),
        text(793, 201, "or rank fusion", "s", "end"),
    ]
    columns = {"dense": 260, "sparse": 420, "multi_vector": 580, "hybrid": 740}
    parts.append(text(20, 232, "hits", "b"))
    parts += [text(x, 232, NAMES[name], "b") for name, x in columns.items()]
    for row, passage in enumerate(PASSAGES):
        y = 244 + 32 * row
        parts.append(text(20, y + 16, passage))
        for name, x in columns.items():
            score = float(getattr(scores, name)[0, row])
            parts += [
                box(x, y, max(1.0, 90 * score), 22, COLOURS[name]),
                text(x + 90 * score + 8, y + 16, f"{score:.2f}"),
            ]
    parts.append(text(20, 356, "Scores computed with the pocket embedder, which has the same layout as bge-m3.", "s"))
    title = f"M3Index: three representations, candidates, and scores for the query “{QUERY}”"
    return picture(title, 905, 374, parts)


def read_figures(page: str, data_set: str) -> dict[str, tuple[float, float, float]]:
    """Return nDCG@10 with its interval by method, from the table of a data set."""
    section = page.split(f"\n### {data_set}:")[1].split("\n### ")[0]
    rows = re.findall(r"^\| ([\w+ ]+?) \| ([\d.]+) \[([\d.]+), ([\d.]+)\]", section, re.M)
    return {method: (float(mean), float(lower), float(upper)) for method, mean, lower, upper in rows}


def evaluation() -> str:
    """nDCG@10 of the pocket models by method, with the 95 % intervals."""
    page = (DOCS / "pocket.md").read_text("utf-8")
    panels = {title: read_figures(page, name) for name, title in DATA_SETS.items()}
    methods = list(next(iter(panels.values())))
    parts = [text(140 + 390 * i, 32, f"{title}: nDCG@10", "b") for i, title in enumerate(panels)]
    for row, method in enumerate(methods):
        y = 48 + 32 * row
        parts.append(text(128, y + 16, NAMES.get(method, method), "", "end"))
        for i, figures in enumerate(panels.values()):
            x = 140 + 390 * i
            mean, lower, upper = (300 * figure for figure in figures[method])
            parts += [
                box(x, y, mean, 22, COLOURS.get(method, "#9aa5b1")),
                f'<path d="M{x + lower:g} {y + 11} H{x + upper:g} M{x + lower:g} {y + 7} V{y + 15} '
                f'M{x + upper:g} {y + 7} V{y + 15}" stroke="#1f2933" stroke-width="1.5"/>',
                text(x + upper + 8, y + 16, f"{figures[method][0]:.3f}"),
            ]
    y = 48 + 32 * len(methods)
    parts.append(text(140, y + 20, "The lines are 95 % bootstrap intervals of the mean over queries.", "s"))
    return picture("nDCG@10 of the pocket models on SciFact and XQuAD-en, by method", 905, y + 40, parts)


def main() -> None:
    (DOCS / "m3_index.svg").write_text(m3_index(), "utf-8")
    (DOCS / "evaluation.svg").write_text(evaluation(), "utf-8")


if __name__ == "__main__":
    main()

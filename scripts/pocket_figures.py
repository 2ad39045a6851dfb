"""Measure the bundled pocket models and write the figures into docs/pocket.md.

    python scripts/pocket_figures.py --evaldata DIR

DIR contains data sets in BEIR's layout. `python -m bge_integrations.evaluation` does the same for any model and data.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import zipfile
from functools import partial
from io import BytesIO
from pathlib import Path

from rich.console import Console
from tokenizers import Tokenizer

from bge_integrations import Embedder, load_embedder, load_reranker
from bge_integrations.evaluation import Dataset, Report, compare, evaluate

ROOT = Path(__file__).resolve().parent.parent
POCKET = ROOT / "bge_integrations" / "pocket"
DEMO = ROOT / "bge_integrations" / "demo_documents"
CARD = ROOT / "docs" / "pocket.md"
BEGIN, END = "<!-- figures by scripts/pocket_figures.py -->\n", "<!-- end of figures -->"
DEPTH = 20
PASSAGES, TOKENS, ROUNDS = 4000, 110, 5


def demo_questions() -> Dataset:
    """Return the bundled documents and questions."""
    documents = [json.loads(line) for line in (DEMO / "passages.jsonl").read_text("utf-8").splitlines()]
    questions = [json.loads(line) for line in (DEMO / "questions.jsonl").read_text("utf-8").splitlines()]
    return Dataset(
        queries={f"question {i}": question["question"] for i, question in enumerate(questions)},
        documents={document["id"]: document for document in documents},
        qrels={f"question {i}": dict.fromkeys(q["answer_ids"], 1) for i, q in enumerate(questions)},
        name="demo questions",
    )


def passages() -> list[str]:
    """Return different passages of 110 tokens, including <s> and </s>, cut from the bundled documents."""
    text = " ".join(json.loads(line)["text"] for line in (DEMO / "passages.jsonl").read_text("utf-8").splitlines())
    offsets = Tokenizer.from_file(str(POCKET / "embedder" / "tokenizer.json")).encode(text).offsets[1:-1]
    length = TOKENS - 2
    step = max(1, (len(offsets) - length) // PASSAGES)
    starts = range(0, len(offsets) - length, step)[:PASSAGES]
    return [text[offsets[i][0] : offsets[i + length - 1][1]] for i in starts]


def passages_per_second(embedder: Embedder) -> float:
    """Measure the speed of dense vectors; return the best of a few rounds."""
    texts = passages()
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        embedder.encode(texts, kind="passage")
        best = min(best, time.perf_counter() - started)
    return len(texts) / best


def megabytes(folder: Path) -> tuple[float, float]:
    """Return the size of a folder's files, uncompressed and compressed as in a wheel."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    return sum(file.stat().st_size for file in files) / 1e6, len(packed.getvalue()) / 1e6


def section(report: Report, dense: Report) -> str:
    """Return a data set's table, and the significance of the differences between its methods."""
    lines = [report.markdown().replace("## ", "### ", 1)]
    for source, first, second in (
        (report, "hybrid", "dense"),
        (report, "hybrid", "sparse"),
        (report, "hybrid", "multi_vector"),
        (report, "hybrid + rerank", "hybrid"),
        (dense, "dense + rerank", "dense"),
    ):
        comparison = compare(source[first], source[second])
        lower, upper = comparison.interval
        difference = f"{comparison.difference:+.3f} [{lower:+.3f}, {upper:+.3f}]"
        lines.append(f"- {first} less {second}: {difference}, p = {comparison.p_value:.4f}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaldata", type=Path, required=True, help="folder with data sets in BEIR's layout")
    parser.add_argument("--datasets", nargs="*", default=["scifact", "xquad-en"])
    arguments = parser.parse_args()
    data_sets = [Dataset.read(arguments.evaldata / name) for name in arguments.datasets]
    parts = []
    with load_embedder("pocket") as embedder, load_reranker("pocket") as reranker:
        speed = passages_per_second(embedder)
        for data in [*data_sets, demo_questions()]:
            measure = partial(evaluate, data, embedder, reranker=reranker, rerank_depth=DEPTH, on_truncate="ignore")
            report = measure(show_progress=True)
            Console().print(report.table())
            parts.append(section(report, measure(modes=["dense"], baseline=False)))
    sizes = {name: megabytes(POCKET / name) for name in ("embedder", "reranker")}
    shown = "; ".join(f"{name} {files:.1f} MB, {packed:.1f} MB in a wheel" for name, (files, packed) in sizes.items())
    parts.append(
        f"Size: {shown}. Speed: {speed:.0f} passages of {TOKENS} tokens per second, dense vectors, float32, on "
        f"{report.about['machine']['cores']} cores ({platform.machine()}), the best of {ROUNDS} rounds.\n"
    )
    before, rest = CARD.read_text("utf-8").split(BEGIN)
    after = rest.split(END)[1]
    CARD.write_text(before + BEGIN + "\n" + "\n".join(parts) + "\n" + END + after, "utf-8")


if __name__ == "__main__":
    main()

"""Choose the bundled demonstration collection from the training corpus.

Only public-domain and CC0 sources are used: whole countries of the World Factbook, well-known Python enhancement
proposals and articles of the 18F blog, which together answer many ordinary questions.

    python scripts/select_demo_documents.py --corpus DIR
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

PACKAGE_FOLDER = Path(__file__).resolve().parent.parent / "bge_integrations" / "demo_documents"

COUNTRIES = (
    "Bhutan", "Chile", "Finland", "Greece", "Iceland", "Japan", "Kenya", "Madagascar", "Mongolia", "Nepal",
    "New Zealand", "Norway", "Peru", "Portugal", "Switzerland",
)  # fmt: skip
PEPS = (8, 257, 343, 405, 427, 428, 435, 440, 484, 492, 498, 518, 557, 572, 703)
ARTICLES = (
    "How to run an efficient meeting",
    "Tips for capturing the best data from user interviews",
    "Best practices for building an accessible website using the Draft",
    "How reusable is open source software?",
    "Introduction to remote moderated usability testing, part 1: What and why",
    "How we test 18f.gsa.gov",
    "How 90 minutes with Lego bricks taught these executives agile",
    "How to design a government site for kids",
)


def is_chosen(passage: dict[str, Any]) -> bool:
    """Return whether a passage belongs to one of the chosen countries, proposals or articles."""
    source, title = passage["source"], passage["title"]
    if source == "world-factbook":
        return title.split(":")[0] in COUNTRIES
    if source == "python-peps":
        return title.split(":")[0] in {f"PEP {number}" for number in PEPS}
    return source == "18f" and title in ARTICLES


def sources_page(table: str, used: Counter[str]) -> str:
    """Return the page SOURCES.md: the corpus table's rows of the used sources, and the number of passages from each."""
    lines = table.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("| source |"))
    rows = [line for line in lines[header:] if line.split("|")[1:2] and line.split("|")[1].strip() in used]
    counts = [f"| {source} | {number} |" for source, number in sorted(used.items())]
    return "\n".join(
        [
            "# Sources of the demo documents",
            "",
            "`passages.jsonl` contains a selection of passages from these sources. We removed markup, code, tables,",
            "lists and footnotes, and merged or split paragraphs. Everything here is in the public domain or under",
            "CC0 1.0 (https://creativecommons.org/publicdomain/zero/1.0/). The repositories are on github.com, at the",
            "commit given. The numbers of passages, words and pairs are for the whole source, not the selection.",
            "",
            *lines[header : header + 2],
            *rows,
            "",
            "| source | selected passages |",
            "|---|---|",
            *counts,
            "",
            "`questions.jsonl` was written for this collection and is also under CC0 1.0.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with passages.jsonl.gz and SOURCES.md")
    parser.add_argument("--out", type=Path, default=PACKAGE_FOLDER)
    arguments = parser.parse_args()

    with gzip.open(arguments.corpus / "passages.jsonl.gz", "rt", encoding="utf-8") as lines:
        chosen = [passage for passage in map(json.loads, lines) if is_chosen(passage)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "passages.jsonl").open("w", encoding="utf-8") as out:
        for passage in chosen:
            out.write(json.dumps({key: passage[key] for key in ("id", "source", "title", "text")}, ensure_ascii=False))
            out.write("\n")
    used = Counter(passage["source"] for passage in chosen)
    table = (arguments.corpus / "SOURCES.md").read_text(encoding="utf-8")
    (arguments.out / "SOURCES.md").write_text(sources_page(table, used), encoding="utf-8")
    print(f"{len(chosen)} passages: " + ", ".join(f"{number} from {source}" for source, number in used.items()))


if __name__ == "__main__":
    main()

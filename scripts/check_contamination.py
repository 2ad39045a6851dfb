"""Look for runs of eight words that the training corpus shares with evaluation sets, whatever their case and signs.

    python scripts/check_contamination.py --corpus DIR --evaldata DIR

The exit status is 1 if anything is shared.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.progress import track

from bge_integrations.evaluation import Dataset

RUN = 8
WORD = re.compile(r"[^\W_]+")


def runs(text: str) -> Iterator[str]:
    """All runs of eight words, letters and digits only."""
    words = WORD.findall(text.lower())
    for start in range(len(words) - RUN + 1):
        yield " ".join(words[start : start + RUN])


def shared(texts: Iterable[str], known: dict[str, str]) -> list[str]:
    """For each text that has a run in `known`, where that run is from, and the run."""
    found = ([run for run in runs(text) if run in known] for text in texts)
    return [f"{known[hits[0]]}: {hits[0]}" for hits in found if hits]


def lines(file: Path, field: str) -> list[str]:
    with gzip.open(file, "rt", encoding="utf-8") as opened:
        return [json.loads(line)[field] for line in opened]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with passages.jsonl.gz and pairs.jsonl.gz")
    parser.add_argument("--evaldata", type=Path, required=True, help="folder with data sets in BEIR's layout")
    parser.add_argument("--datasets", nargs="*", default=["scifact", "xquad-en"])
    arguments = parser.parse_args()
    known: dict[str, str] = {}
    for name in arguments.datasets:
        data = Dataset.read(arguments.evaldata / name)
        for text in track([*data.queries.values(), *data.documents.values()], description=name):
            known.update((run, name) for run in runs(text))
    total = 0
    for file, field in (("passages.jsonl.gz", "text"), ("pairs.jsonl.gz", "query")):
        found = shared(track(lines(arguments.corpus / file, field), description=file), known)
        total += len(found)
        print(f"{file}: {len(found)} texts share a run of {RUN} words with {', '.join(arguments.datasets)}")
        print("".join(f"  {hit}\n" for hit in found[:5]), end="")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())

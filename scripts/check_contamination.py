"""Look for runs of eight words, ignoring case and punctuation, that the training corpus shares with evaluation sets.

    python scripts/check_contamination.py --corpus DIR --evaldata DIR

The exit status is 1 if there are any.
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
    """Yield all runs of eight words, letters and digits only."""
    words = WORD.findall(text.lower())
    for start in range(len(words) - RUN + 1):
        yield " ".join(words[start : start + RUN])


def shared(texts: Iterable[str], known: dict[str, str]) -> list[str]:
    """Return the first shared run of each text that has one, with the data set that it comes from."""
    shared_runs = ([run for run in runs(text) if run in known] for text in texts)
    return [f"{known[hits[0]]}: {hits[0]}" for hits in shared_runs if hits]


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
        hits = shared(track(lines(arguments.corpus / file, field), description=file), known)
        total += len(hits)
        print(f"{file}: {len(hits)} texts share a run of {RUN} words with {', '.join(arguments.datasets)}")
        print("".join(f"  {hit}\n" for hit in hits[:5]), end="")
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())

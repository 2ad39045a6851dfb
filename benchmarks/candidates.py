"""Measure what `candidates` and `weights` cost a search of an M3Index, and how long searches hold the event loop.

    python benchmarks/candidates.py [--rounds 30] [--candidates 200 50 20]

The index has the 499 bundled passages, encoded by the pocket model. The times include encoding the question.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

import numpy as np

from bge_integrations.demo_documents import bundled_passages, bundled_questions
from bge_integrations.index import M3Index

WEIGHTS = ((1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 1, 0))
#: Seconds between two ticks of the event loop.
_TICK = 0.001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--candidates", type=int, nargs="+", default=[200, 50, 20])
    options = parser.parse_args()
    questions = bundled_questions()
    with M3Index.open(":memory:", "pocket") as index:
        index.add([passage.text for passage in bundled_passages()])
        print("| weights | candidates | best | median |\n| --- | --: | --: | --: |")
        for weights in WEIGHTS:
            for candidates in options.candidates:
                seconds = _seconds(index, questions, options.rounds, weights=weights, candidates=candidates)
                best, median = 1000 * min(seconds), 1000 * float(np.median(seconds))
                print(f"| {', '.join(map(str, weights))} | {candidates} | {best:.1f} ms | {median:.1f} ms |")
        for candidates in options.candidates:
            gaps = asyncio.run(_gaps(index, questions, candidates))
            print(f"{candidates} candidates, 32 searches at once: the loop waited up to {1000 * max(gaps):.0f} ms")


def _seconds(index: M3Index, questions: list[str], rounds: int, **settings: Any) -> list[float]:
    seconds = []
    for _ in range(rounds):
        for question in questions:
            started = time.perf_counter()
            index.search(question, 10, **settings)
            seconds.append(time.perf_counter() - started)
    return seconds


async def _gaps(index: M3Index, questions: list[str], candidates: int) -> list[float]:
    """Return the seconds between the ticks of the event loop while 32 searches run."""
    gaps = []

    async def tick() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(_TICK)
            gaps.append(time.perf_counter() - started - _TICK)

    ticking = asyncio.create_task(tick())
    asked = [questions[i % len(questions)] for i in range(32)]
    await asyncio.gather(*(index.asearch(question, 10, candidates=candidates) for question in asked))
    ticking.cancel()
    return gaps


if __name__ == "__main__":
    main()

"""Instructions for the tasks of benchmarks, by name, for embedders that are told the task.

The instructions in task_instructions.json are those of FlagEmbedding's evaluation: `evaluation/mteb`, `beir` and
`bright`, and `research/BGE_Coder/evaluation/coir_eval`. The names are theirs and mteb's. BRIGHT's tasks on long
documents end in "_long".
"""

from __future__ import annotations

import difflib
import json
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_suffix(".json")


@cache
def benchmarks() -> dict[str, dict[str, str]]:
    """Return {benchmark: {task: instruction}}; the benchmark "general" has tasks of no benchmark."""
    stored = json.loads(_FILE.read_text("utf-8"))
    return {
        benchmark: {task: instruction for instruction, tasks in rows.items() for task in tasks}
        for benchmark, rows in stored.items()
    }


def find_task(name: str) -> str | None:
    """Return the instruction of a task, whose name may differ in case; None if it is unknown."""
    return _by_name().get(name.lower())


def near_tasks(name: str) -> list[str]:
    """Return up to three tasks with similar names."""
    names = [task for rows in benchmarks().values() for task in rows]
    tasks = {task.lower(): task for task in reversed(names)}  # of names that differ in case, the first
    return [tasks[near] for near in difflib.get_close_matches(name.lower(), tasks, n=3)]


@cache
def _by_name() -> dict[str, str]:
    return {task.lower(): instruction for rows in benchmarks().values() for task, instruction in rows.items()}

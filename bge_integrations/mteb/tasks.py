"""The task instruction that an instruct decoder gets for an mteb task."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bge_integrations import catalog
from bge_integrations.task_instructions import find_task

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata

    from bge_integrations.core.embedder import Embedder

#: The instruction for all tasks of a type that have none of their own.
_BY_TYPE = {"STS": "sts", "Summarization": "summarization", "BitextMining": "bitext"}
#: Tasks whose subsets are BRIGHT's tasks, and what follows a subset's name.
_BRIGHT = {"BrightRetrieval": "", "BrightLongRetrieval": "_long"}


def is_told_the_task(embedder: Embedder) -> bool:
    """Return whether the model was made for task instructions, and was loaded without an instruction of its own."""
    row = catalog.find(embedder.name)
    if row is None or row.instruction_format is None:
        return False
    default = row.instructions.query + catalog.FAMILIES[row.family].query_suffix
    return embedder.vector_settings("query")["instruction"] == default


def known_task(metadata: TaskMetadata, subset: str) -> str | None:
    """Return the name under which a task has an instruction; None if it has none. Versions (".v2") share one."""
    name = re.sub(r"\.v\d+$", "", metadata.name)
    if name in _BRIGHT:
        name = subset + _BRIGHT[name]
    return name if find_task(name) else _BY_TYPE.get(metadata.type)

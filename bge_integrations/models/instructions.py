"""The texts around a query: its task's instruction and in-context examples, in the format of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bge_integrations import catalog, task_instructions
from bge_integrations.catalog import Instructions
from bge_integrations.errors import InstructionWarning, InvalidInputError
from bge_integrations.reporting import warn_caller
from bge_integrations.spelling import spelled
from bge_integrations.validation import check_text

#: The folders whose missing instruction was reported in this process.
_reported: set[Path] = set()
#: Whether this process was told that calls can name the kind of their texts.
_hinted = False


def check_takes_tasks(name: str, row: catalog.Checkpoint | None) -> catalog.Checkpoint:
    """Return the catalogue's row of this model, or raise InvalidInputError if it has no instructions for tasks."""
    if row is None or not row.takes_tasks:
        raise InvalidInputError(
            f"{name} does not take tasks",
            argument="task",
            advice="leave task= out, or pass your own query_instruction=",
        )
    return row


def instructions_for(row: catalog.Checkpoint, task: str | None, query_instruction: str | None) -> Instructions:
    """Return the instructions of a catalogued checkpoint for a task.

    Raises:
        InvalidInputError: The task is unknown, missing, or given together with `query_instruction`.
    """
    if row.instruction_format:
        if task is None:
            return row.instructions
        if query_instruction is not None:
            raise InvalidInputError(
                "task= and query_instruction= can't be combined",
                argument="task",
                advice="pass one of them",
            )
        return Instructions(formatted_instruction(row.instruction_format, _known_task(task)))
    if not row.tasks:
        return row.instructions
    if task is None and query_instruction is not None:
        return row.instructions
    if not isinstance(task, str) or task not in row.tasks:
        raise InvalidInputError(
            f"{row.name} has a pair of instructions per task",
            argument="task",
            advice=f"pass task= one of {', '.join(row.tasks)}, or your own query_instruction= and passage_instruction=",
        )
    return row.tasks[task]


def _known_task(task: object) -> str:
    """Return the instruction of a task in task_instructions.json."""
    if isinstance(task, str) and (instruction := task_instructions.find_task(task)) is not None:
        return instruction
    near = task_instructions.near_tasks(task) if isinstance(task, str) else []
    raise InvalidInputError(
        f"task={task!r} is not a known task",
        argument="task",
        advice=(f"did you mean {' or '.join(map(repr, near))}? " if near else "")
        + "`bge models --tasks` lists the names; for another task, pass query_instruction=",
    )


def formatted_instruction(instruction_format: str, instruction: str) -> str:
    """Put an instruction into the model's format, unless it is in that format already."""
    head, between, _ = instruction_format.split("{}")
    return (
        instruction if instruction.startswith(head) and instruction.endswith(between) else head + instruction + between
    )


def examples_text(examples: Sequence[Mapping[str, str]], instruction: str, suffix: str) -> str:
    """Format examples for bge-en-icl, each with its own instruction or, if it has none, the queries' instruction.

    Args:
        examples: Each has the keys "query", "response" and optionally "instruct".
        instruction: The instruction of the queries, formatted.
        suffix: The text between a query and its response.

    Raises:
        InvalidInputError: An example has other keys, or a value is not a str.
    """
    parts = []
    for i, example in enumerate(examples):
        keys = set(example) if isinstance(example, Mapping) else set()
        if not {"query", "response"} <= keys <= {"instruct", "query", "response"}:
            raise InvalidInputError(f"examples[{i}] must be a dict of query, response and optionally instruct")
        for key, text in example.items():
            check_text(text, f"examples[{i}][{key!r}]")
        own = formatted_instruction(catalog.BGE_FORMAT, example["instruct"]) if "instruct" in example else instruction
        parts.append(f"{own}{example['query']}{suffix}{example['response']}\n\n")
    return "".join(parts)


def hint_at_kind(name: str) -> None:
    """Hint once per process that a call leaves out `kind`, so that the model's instructions are not used."""
    global _hinted
    if not _hinted:
        _hinted = True
        warn_caller(
            f"{name} has instructions, and this call gets none, because it says no kind: pass kind='query' for "
            "questions and kind='passage' for documents, or kind=None to compare texts of the same kind",
            InstructionWarning,
        )


def warn_no_instruction(name: str, folder: Path, config: Mapping[str, Any]) -> None:
    """Warn once per process and model that its queries get no instruction, because nothing says which one."""
    real = folder.resolve()
    if real in _reported:
        return
    _reported.add(real)
    base = catalog.find(str(config.get("_name_or_path") or ""))
    text = base.instructions.query if base is not None else ""
    hint = f" Its config.json names {base.name}, whose instruction is {text!r}." if base is not None and text else ""
    warn_caller(
        f"{name}: nothing says which instruction its queries need, so they get none.{hint} Pass "
        f"{spelled('query_instruction')} ({spelled('query_instruction', '')} if it was trained without one), or set "
        f"prompts.query in {folder / 'config_sentence_transformers.json'}. A published model is recognised by its "
        "folder's name",
        InstructionWarning,
    )

"""Options that the training commands share, and what they do with them."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from bge_integrations.errors import InvalidInputError

Rows = Annotated[list[str], typer.Argument(metavar="DATA", help="Files of training rows, or folders of them.")]
OutputFile = Annotated[str, typer.Option("--output", metavar="FILE", help="The .jsonl file to write.")]
OutputFolder = Annotated[str, typer.Option("--output", metavar="FOLDER", help="Folder to write; it must not exist.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")]
ModelWeights = Annotated[str | None, typer.Option("--weights", metavar="W,W", help="One per model; equal by default.")]
Epochs = Annotated[float | None, typer.Option("--epochs", help="How often each row or text is used. Defaults to 1.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Queries or texts per batch. Defaults to 8.")]
LearningRate = Annotated[
    float | None, typer.Option("--learning-rate", help="Highest learning rate. Defaults to what suits the model.")
]
Precision = Annotated[str | None, typer.Option("--precision", help="float32, bfloat16 or float16 (CUDA).")]
GradientCheckpointing = Annotated[
    bool | None, typer.Option("--gradient-checkpointing", help="Less memory for activations, more time.")
]
CheckpointSteps = Annotated[
    int | None, typer.Option("--checkpoint-steps", help="Updates between checkpoints. Defaults to 500.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="For all random choices.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu or cuda. Defaults to cuda if there is a GPU.")]
OtherSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, such as warmup=0.2; can be repeated."),
]
Resume = Annotated[bool, typer.Option(" /--restart", help="Discard an interrupted training to FOLDER.")]


def settings_of(options: Mapping[str, Any], other_settings: list[str] | None) -> dict[str, Any]:
    """Return the settings that were given: by options, None if they were not, or by --set.

    Raises:
        InvalidInputError: A value of --set is not NAME=VALUE, or a setting is given twice.
    """
    settings = {name: value for name, value in options.items() if value is not None}
    for assignment in other_settings or []:
        name, equals, value = (part.strip() for part in assignment.partition("="))
        name = name.replace("-", "_")
        if not equals or not name:
            raise InvalidInputError(f"--set {assignment} must be NAME=VALUE", advice="such as --set warmup=0.2")
        if name in settings:
            raise InvalidInputError(f"--set {name} is given twice, or also as an option", advice="give it once")
        settings[name] = _parsed(value)
    return settings


def _parsed(value: str) -> Any:
    """Return what a Python literal or true or false means; anything else is a text."""
    try:
        return literal_eval(value)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(value, value)


def parse_numbers(text: str | None) -> list[float] | None:
    """Return the numbers in the value of --weights, one per model; None if it was not given.

    Raises:
        InvalidInputError: They are not comma-separated numbers.
    """
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise InvalidInputError(f"--weights {text} must be numbers separated by commas, such as 0.7,0.3") from None

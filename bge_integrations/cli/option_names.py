"""The options of a command by the Python arguments that they set, for messages."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Any


def options_of(command: Any) -> dict[str, Any]:
    """Return a command's options by the Python argument that they set."""
    parameters = command.params if command else []
    return {str(each.name): each for each in parameters if each.param_type_name == "option"}


def name_of(option: Any) -> str:
    """Return an option's first long name."""
    names = [*option.opts, *option.secondary_opts]
    return next((name for name in names if name.startswith("--")), str(names[0]))


def spell(options: Mapping[str, Any], argument: str, value: object) -> str:
    """Return how a command writes an argument with a value, or its name alone if the value is ....

    An argument without an option of its own is written with --set if the command has that, and otherwise as in Python.
    """
    option = options.get(argument)
    written = quote(",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
    if option is None and "other_settings" in options:  # --set
        return f"--set {argument}" if value is ... else f"--set {argument}={written}"
    if option is None:
        return argument if value is ... else f"{argument}={value!r}"
    if value is ...:
        return name_of(option)
    if not option.is_flag:
        return f"{name_of(option)} {written}"
    if value is False and option.secondary_opts:
        return str(option.secondary_opts[0])
    return name_of(option) if value else f"no {name_of(option)}"

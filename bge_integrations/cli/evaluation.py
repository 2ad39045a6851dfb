"""`bge eval`: the evaluation's own command line."""

from __future__ import annotations

from typing import Annotated

import typer


def evaluate(arguments: Annotated[list[str] | None, typer.Argument(metavar="FOLDER... --model MODEL")] = None) -> None:
    """Measure a model on data in BEIR's layout. `bge eval --help` has its options."""
    from bge_integrations.evaluation.__main__ import run

    run(arguments or [], "bge eval")

"""The command `bge`: index, search, ask, rerank, embed, eval, serve, train, pretrain, models, download, doctor."""

from __future__ import annotations

import os
import sys

from bge_integrations.cli import output
from bge_integrations.interrupts import exit_status
from bge_integrations.optional import how_to_install
from bge_integrations.terminal import prepare_output


def main(arguments: list[str] | None = None) -> int:
    """Run `bge` with these arguments, or with `sys.argv`.

    Returns:
        The exit status: 0 on success, 1 after an error (explained in one line), 2 for wrong usage, 3 if files were
        skipped, 130 after Ctrl-C, 141 if the output's pipe was closed.
    """
    if sys.stderr is None:  # closed by the caller
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        prepare_output()
        output.say("standard output is closed; redirect it to a file or a terminal")
        return 1
    prepare_output()
    try:
        with exit_status("bge: interrupted") as ended:
            from bge_integrations.cli.app import app
    except ImportError as error:
        output.say(f"the command needs {error.name}: {how_to_install('cli')}")
        return 1
    if ended.status:
        return ended.status
    try:
        app(arguments, prog_name="bge")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    return 0

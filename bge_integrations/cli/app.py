"""All commands as one application, and what becomes of their errors."""

from __future__ import annotations

import os
import re
import sys
import warnings
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from bge_integrations import __version__
from bge_integrations.cli.doctor import doctor
from bge_integrations.cli.embed import embed
from bge_integrations.cli.evaluation import evaluate
from bge_integrations.cli.index import index
from bge_integrations.cli.models import download, models
from bge_integrations.cli.output import say
from bge_integrations.cli.rerank import rerank
from bge_integrations.cli.search import ask, search
from bge_integrations.errors import BGEError, InvalidInputError, TruncationWarning, WrongKindError
from bge_integrations.interrupts import exit_status

#: What to do with a model that is not of the kind wanted.
_OTHER_KIND = {
    "embedder": "rerankers are for `bge rerank` and --rerank",
    "reranker": "embedding models are for `bge index` and `bge embed`",
}
#: What the core's errors advise, in the command's words.
_IN_PYTHON = (
    (r"pass model='pocket'", "name 'pocket'"),
    (
        r"\b(task|device|dtype|max_length|cutoff_layers|compress_ratio|compress_layers)= ?",
        lambda found: f"--{found[1].replace('_', '-')} ",
    ),
)


class _Commands(TyperGroup):
    """Errors that a user can mend become one line; so do warnings."""

    def invoke(self, ctx: Any) -> Any:
        if not sys.stderr.isatty():
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # of a model that is downloaded at its first use
        with warnings.catch_warnings(record=True) as caught:
            try:
                with exit_status("bge: interrupted") as ended:
                    super().invoke(ctx)
                if ended.status:
                    raise typer.Exit(ended.status)
            except WrongKindError as error:
                say(f"{error.finding}; {_OTHER_KIND[error.wanted]}")
                raise typer.Exit(1) from None
            except BGEError as error:
                say(_translated(error))
                raise typer.Exit(1) from None
            except ImportError as error:
                say(error)
                raise typer.Exit(1) from None
            except OSError as error:
                say(f"{error.filename}: {error.strerror}" if error.filename else error)
                raise typer.Exit(1) from None
            finally:
                _repeat(caught)


class _Command(TyperCommand):
    """No argument or option can be empty: an empty path would be the current folder, an empty name the default."""

    def invoke(self, ctx: Any) -> Any:
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            if "" in (value if isinstance(value, list) else [value]):
                name = max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.metavar
                raise InvalidInputError(
                    f"{name or str(parameter.name).upper()} is empty; give a value, or leave it out"
                )
        return super().invoke(ctx)


def _translated(error: BGEError) -> str:
    message = str(error)
    for python, words in _IN_PYTHON:
        message = re.sub(python, words, message)
    return message


def _repeat(caught: list[warnings.WarningMessage]) -> None:
    """The different warnings, those about texts that were cut as one."""
    if any(issubclass(warning.category, TruncationWarning) for warning in caught):
        say("some texts were longer than the model's longest input and were cut; split them, or raise --max-length")
    others = [warning for warning in caught if not issubclass(warning.category, TruncationWarning)]
    for message in dict.fromkeys(str(warning.message) for warning in others):
        say(message)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"bge {__version__}")
        raise typer.Exit


def _start(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Show the version."),
) -> None:
    """BGE embedding and reranker models: index and search your files, embed, rerank, measure."""


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)
app.callback()(_start)
for command in (index, search, ask, rerank, embed, models, download, doctor):
    app.command(cls=_Command)(command)
# its own parser reads the arguments, --help included
app.command("eval", add_help_option=False, context_settings={"ignore_unknown_options": True})(evaluate)

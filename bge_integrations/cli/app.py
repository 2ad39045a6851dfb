"""The typer application: all commands, and how it shows their errors and warnings."""

from __future__ import annotations

import os
import sys
import warnings
from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from bge_integrations import __version__
from bge_integrations.cli.doctor import doctor
from bge_integrations.cli.embed import embed
from bge_integrations.cli.evaluation import evaluate
from bge_integrations.cli.index import index
from bge_integrations.cli.mine import mine
from bge_integrations.cli.mix import mix
from bge_integrations.cli.models import download, models
from bge_integrations.cli.option_names import name_of, options_of, spell
from bge_integrations.cli.output import say
from bge_integrations.cli.pretrain import pretrain
from bge_integrations.cli.rerank import rerank
from bge_integrations.cli.search import ask, search
from bge_integrations.cli.serve import serve
from bge_integrations.cli.teach import teach
from bge_integrations.cli.train import train
from bge_integrations.errors import (
    BGEError,
    InvalidInputError,
    TrainingDataError,
    TruncationWarning,
    UnknownArgumentError,
    WrongKindError,
)
from bge_integrations.interrupts import exit_status
from bge_integrations.spelling import spelling_of

#: Maximum number of truncated texts that are named.
_NAMED = 5
#: Advice for a model of the wrong kind, by the kind that the command expects.
_WRONG_KIND_ADVICE = {
    "embedder": "rerankers are for `bge rerank`, `bge train reranker`, --rerank and --reranker",
    "reranker": "embedding models are for `bge index`, `bge embed`, `bge train embedder` and `bge eval --model`",
}


class _Commands(TyperGroup):
    """Shows warnings and expected errors in one line each, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        if not sys.stderr.isatty():
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # in case a model is downloaded
        with warnings.catch_warnings(record=True) as caught:
            try:
                with exit_status("bge: interrupted") as ended:
                    super().invoke(ctx)
                if ended.status:
                    raise typer.Exit(ended.status)
            except TrainingDataError as error:
                for line in str(error).splitlines():
                    say(line)
                raise typer.Exit(1) from None
            except BGEError as error:
                say(_message(error, _options(self, ctx)))
                raise typer.Exit(1) from None
            except ImportError as error:
                say(error)
                raise typer.Exit(1) from None
            except OSError as error:
                say(f"{error.filename}: {error.strerror}" if error.filename else error)
                raise typer.Exit(1) from None
            finally:
                _show(caught, _options(self, ctx))


class _Command(TyperCommand):
    """Rejects empty values: an empty path would mean the current folder, and an empty name the default."""

    def invoke(self, ctx: Any) -> Any:
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            if "" in (value if isinstance(value, list) else [value]):
                name = name_of(parameter) if parameter.param_type_name == "option" else parameter.metavar
                advice = "give it a value" if parameter.required else "give it a value, or leave it out"
                raise InvalidInputError(f"{name or str(parameter.name).upper()} is empty", advice=advice)
        with spelling_of(partial(spell, options_of(self))):
            return super().invoke(ctx)


def _options(commands: TyperGroup, ctx: Any) -> dict[str, Any]:
    """Return the options of the command that was run, by the Python argument that they set."""
    return options_of(commands.get_command(ctx, ctx.invoked_subcommand or ""))


def _message(error: BGEError, options: dict[str, Any]) -> str:
    """Return the error's message for the command line: with the option's name and advice for the command."""
    if isinstance(error, WrongKindError):
        message = f"{error.finding}; {_WRONG_KIND_ADVICE[error.wanted]}"
    elif isinstance(error, UnknownArgumentError) and "other_settings" in options:
        message = f"--set {error.argument} is not a setting; {error.advice}"
    else:
        message = str(error)
    if error.argument not in options or message.startswith("--"):
        return message
    return f"{name_of(options[error.argument])}: {message}"


def _show(caught: list[warnings.WarningMessage], options: dict[str, Any]) -> None:
    """Print each warning once, and a single line for all truncated texts whose positions are known."""
    messages = [warning.message for warning in caught]
    truncated = [each for each in messages if isinstance(each, TruncationWarning) and each.positions]
    if truncated:
        lengths = [name_of(option) for name, option in options.items() if name.endswith("max_length")]
        _show_truncated(truncated, " or ".join(lengths) or "--max-length")
    for message in dict.fromkeys(str(each) for each in messages if each not in truncated):
        say(message)


def _show_truncated(caught: list[TruncationWarning], lengths: str) -> None:
    """Print how many texts of a command were truncated, and which ones if it encoded one list of texts."""
    count, total = sum(each.count for each in caught), sum(each.total for each in caught)
    which = ""
    if len(caught) == 1:
        names = caught[0].ids or [str(position + 1) for position in caught[0].positions]
        more = ", …" if count > _NAMED else ""
        which = f": {'ids' if caught[0].ids else 'numbers'} {', '.join(names[:_NAMED])}{more}"
    say(
        f"{count} of {total} texts were longer than the model's maximum (the longest has "
        f"{max(each.longest for each in caught)} tokens) and were truncated{which}; split them, or raise {lengths}"
    )


def _print_version(is_given: bool) -> None:
    if is_given:
        print(f"bge {__version__}")
        raise typer.Exit


def _start(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Show the version."),
) -> None:
    """Index and search your files; embed, rerank, evaluate, train and serve with the BGE models."""


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.callback()(_start)
for command in (index, search, ask, rerank, embed, serve, train, mine, teach, mix, pretrain, models, download, doctor):
    app.command(cls=_Command)(command)
app.command("eval", cls=_Command)(evaluate)

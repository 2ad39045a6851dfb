"""The typer application: all commands, and how it shows their errors and warnings."""

from __future__ import annotations

import os
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
from bge_integrations.cli.mine import mine
from bge_integrations.cli.mix import mix
from bge_integrations.cli.models import download, models
from bge_integrations.cli.output import say
from bge_integrations.cli.pretrain import pretrain
from bge_integrations.cli.rerank import rerank
from bge_integrations.cli.search import ask, search
from bge_integrations.cli.serve import serve
from bge_integrations.cli.teach import teach
from bge_integrations.cli.train import train
from bge_integrations.errors import BGEError, InvalidInputError, TrainingDataError, TruncationWarning, WrongKindError
from bge_integrations.interrupts import exit_status

#: Maximum number of truncated texts that are named.
_NAMED = 5
#: Advice for a model of the wrong kind, by the kind that the command expects.
_WRONG_KIND_ADVICE = {
    "embedder": "rerankers are for `bge rerank`, --rerank and --reranker",
    "reranker": "embedding models are for `bge index`, `bge embed` and `bge eval --model`",
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
                say(_message(error, _option_names(self, ctx)))
                raise typer.Exit(1) from None
            except ImportError as error:
                say(error)
                raise typer.Exit(1) from None
            except OSError as error:
                say(f"{error.filename}: {error.strerror}" if error.filename else error)
                raise typer.Exit(1) from None
            finally:
                _show(caught)


class _Command(TyperCommand):
    """Rejects empty values: an empty path would mean the current folder, and an empty name the default."""

    def invoke(self, ctx: Any) -> Any:
        for parameter in self.params:
            value = ctx.params.get(parameter.name)
            if "" in (value if isinstance(value, list) else [value]):
                name = _name_of(parameter) if parameter.param_type_name == "option" else parameter.metavar
                advice = "give it a value" if parameter.required else "give it a value, or leave it out"
                raise InvalidInputError(f"{name or str(parameter.name).upper()} is empty", advice=advice)
        return super().invoke(ctx)


def _name_of(option: Any) -> str:
    """Return an option's first long name."""
    return next((name for name in option.opts if name.startswith("--")), str(option.opts[0]))


def _option_names(commands: TyperGroup, ctx: Any) -> dict[str, str]:
    """Return the options of the command that was run, by the Python argument that they set."""
    command = commands.get_command(ctx, ctx.invoked_subcommand or "")
    parameters = command.params if command else []
    return {str(each.name): _name_of(each) for each in parameters if each.param_type_name == "option"}


def _message(error: BGEError, options: dict[str, str]) -> str:
    """Return the error's message for the command line: with the option's name and advice for the command."""
    message = f"{error.finding}; {_WRONG_KIND_ADVICE[error.wanted]}" if isinstance(error, WrongKindError) else error
    option = options.get(error.argument or "")
    return f"{option}: {message}" if option else str(message)


def _show(caught: list[warnings.WarningMessage]) -> None:
    """Print each warning once, and a single line for all truncated texts."""
    truncated = [warning.message for warning in caught if isinstance(warning.message, TruncationWarning)]
    if truncated:
        _show_truncated(truncated)
    others = [warning.message for warning in caught if not isinstance(warning.message, TruncationWarning)]
    for message in dict.fromkeys(map(str, others)):
        say(message)


def _show_truncated(caught: list[TruncationWarning]) -> None:
    """Print how many texts of a command were truncated, and which ones if it encoded one list of texts."""
    count, total = sum(each.count for each in caught), sum(each.total for each in caught)
    which = ""
    if len(caught) == 1:
        names = caught[0].ids or [str(position + 1) for position in caught[0].positions]
        more = ", …" if count > _NAMED else ""
        which = f": {'ids' if caught[0].ids else 'numbers'} {', '.join(names[:_NAMED])}{more}"
    say(
        f"{count} of {total} texts were longer than the model's maximum (the longest has "
        f"{max(each.longest for each in caught)} tokens) and were truncated{which}; split them, or raise --max-length"
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

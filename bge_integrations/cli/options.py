"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from bge_integrations.errors import InvalidInputError

_MODEL = "hub id, checkpoint folder, the URL of a server, or 'pocket'"


def _check_index(index: str) -> str:
    if index == ":memory:":
        raise InvalidInputError("--index :memory: would be lost when the command ends", advice="pass a folder")
    return index


Index = Annotated[str, typer.Option("--index", metavar="DIR", help="Folder of the index.", callback=_check_index)]
Embedder = Annotated[str, typer.Option("--model", metavar="MODEL", help=f"Embedding model: {_MODEL}.")]
Reranker = Annotated[str, typer.Option("--model", metavar="MODEL", help=f"Reranker: {_MODEL}.")]
#: For commands that work without a reranker.
OptionalReranker = Annotated[str | None, typer.Option(metavar="MODEL", help=f"Rerank with this model: {_MODEL}.")]
Device = Annotated[
    list[str] | None,
    typer.Option(
        help="cpu, cuda or cuda:1; repeat the option to use several GPUs. Defaults to cuda if there is a GPU.",
        callback=lambda given: given or None,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16, float16 (CUDA) or int8 (CPU). Defaults to bfloat16 on CUDA and float32 on the CPU."
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(min=1, help="Maximum tokens per text. Defaults to the length that the model was trained with."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not show progress or notes.")]

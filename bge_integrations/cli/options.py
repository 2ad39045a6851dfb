"""The options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from bge_integrations.errors import InvalidInputError

_MODEL = "Hub id, checkpoint folder, or 'pocket'"


def _kept(index: str) -> str:
    if index == ":memory:":
        raise InvalidInputError("--index :memory: would be gone when the command ends; name a folder")
    return index


Index = Annotated[str, typer.Option("--index", metavar="DIR", help="Folder of the index.", callback=_kept)]
Embedder = Annotated[str, typer.Option("--model", help=f"Embedding model. {_MODEL}.")]
Reranker = Annotated[str, typer.Option("--model", help=f"Reranker. {_MODEL}.")]
Device = Annotated[
    list[str] | None,
    typer.Option(
        help="cpu, cuda, cuda:1; again for each of several CUDA devices. Without it, CUDA where there is one.",
        callback=lambda given: given or None,
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16, float16, int8. Without it, bfloat16 on CUDA and float32 on the CPU."),
]
MaxLength = Annotated[
    int | None, typer.Option(min=1, help="Longest text in tokens. Without it, what the model was made for.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, one object a line.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks.")]

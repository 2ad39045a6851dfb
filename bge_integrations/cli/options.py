"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bge_integrations.errors import InvalidInputError

if TYPE_CHECKING:
    from bge_integrations.representations import Weights

_MODEL = "hub id, checkpoint folder, the URL of a server, or 'pocket'"


def _check_index(index: str) -> str:
    if index == ":memory:":
        raise InvalidInputError("--index :memory: would be lost when the command ends", advice="pass a folder")
    return index


Index = Annotated[str, typer.Option("--index", metavar="DIR", help="Folder of the index.", callback=_check_index)]
Embedder = Annotated[str, typer.Option("--model", metavar="MODEL", help=f"Embedding model: {_MODEL}.")]
Reranker = Annotated[str, typer.Option("--model", metavar="MODEL", help=f"Reranker: {_MODEL}.")]
SearchWeights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="D,S,M",
        help="Weights of the dense, sparse and multi-vector scores: 1,0.3,1. Defaults to the index's own, or 1,1,1.",
    ),
]
Candidates = Annotated[
    int | None,
    typer.Option(
        "--candidates",
        min=1,
        help="Number of passages that dense and sparse search propose. Defaults to the index's, or 200.",
    ),
]
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


def parse_weights(text: str) -> Weights:
    """Return the weights in the value of --weights.

    Raises:
        InvalidInputError: They are not three weights.
    """
    from bge_integrations.scoring import weights_by_name

    try:
        dense, sparse, multi_vector = map(float, text.split(","))
        weights_by_name((dense, sparse, multi_vector))
    except ValueError as error:  # includes InvalidInputError
        raise InvalidInputError(
            f"--weights {text} must be three comma-separated numbers, such as 1,0.3,1: none negative or huge, and at "
            "least one above 0"
        ) from error
    return dense, sparse, multi_vector

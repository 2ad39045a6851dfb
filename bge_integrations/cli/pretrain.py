"""`bge pretrain`: pre-train an encoder on one's own texts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bge_integrations.cli import options
from bge_integrations.cli.output import print_json, progress_is_shown


def pretrain(
    texts: Annotated[
        str,
        typer.Argument(
            metavar="TEXTS", help="JSONL file whose objects have a 'text', or a folder of .jsonl, .txt and .md files."
        ),
    ],
    model: Annotated[str, typer.Option(metavar="MODEL", help="Encoder to start from: hub id or folder.")],
    output: Annotated[str, typer.Option(metavar="FOLDER", help="Folder to write; it must not exist.")],
    epochs: Annotated[float | None, typer.Option(help="How often each text is used. Defaults to 1.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Texts per batch. Defaults to 8.")] = None,
    max_length: options.MaxLength = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate. Defaults to 2e-5.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 (CUDA).")] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory for activations, more time.")
    ] = False,
    checkpoint_steps: Annotated[int | None, typer.Option(help="Updates between checkpoints. Defaults to 500.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order, the masks and the dropout.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Defaults to cuda if there is a GPU.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard an interrupted training to FOLDER.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Pre-train an encoder on texts without questions (RetroMAE), as a start for `bge train embedder`.

    To continue after an interruption, run the same command again.
    """
    from bge_integrations.training import pretrain as run

    given: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "max_length": max_length,
        "learning_rate": learning_rate,
        "precision": precision,
        "checkpoint_steps": checkpoint_steps,
        "seed": seed,
        "device": device,
    }
    trained = run(
        texts,
        model,
        output,
        gradient_checkpointing=gradient_checkpointing,
        resume=not restart,
        show_progress=progress_is_shown(quiet),
        **{name: value for name, value in given.items() if value is not None},
    )
    first, last = trained.losses[0], trained.losses[-1]
    if as_json:
        print_json(
            {
                "folder": str(trained.folder),
                "updates": len(trained.losses),
                "first_loss": first,
                "last_loss": last,
                "seconds": round(trained.seconds, 1),
            }
        )
    else:
        print(
            f"{trained.folder}: {len(trained.losses)} updates, loss {first:.4g} to {last:.4g}; {trained.seconds:.1f} s"
        )

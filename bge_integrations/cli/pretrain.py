"""`bge pretrain`: pre-train an encoder on one's own texts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bge_integrations.cli import options, training_options
from bge_integrations.cli.output import counted, print_json, progress_is_shown


def pretrain(
    texts: Annotated[
        str,
        typer.Argument(
            metavar="TEXTS", help="JSONL file whose objects have a 'text', or a folder of .jsonl, .txt and .md files."
        ),
    ],
    model: Annotated[str, typer.Option(metavar="MODEL", help="Encoder to start from: hub id or folder.")],
    output: training_options.OutputFolder,
    epochs: training_options.Epochs = None,
    batch_size: training_options.BatchSize = None,
    max_length: options.MaxLength = None,
    learning_rate: training_options.LearningRate = None,
    precision: training_options.Precision = None,
    gradient_checkpointing: training_options.GradientCheckpointing = None,
    checkpoint_steps: training_options.CheckpointSteps = None,
    seed: training_options.Seed = None,
    device: training_options.Device = None,
    other_settings: training_options.OtherSettings = None,
    resume: training_options.Resume = True,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Pre-train an encoder on texts without questions (RetroMAE), as a start for `bge train embedder`.

    To continue after an interruption, run the same command again.
    """
    given: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "max_length": max_length,
        "learning_rate": learning_rate,
        "precision": precision,
        "gradient_checkpointing": gradient_checkpointing,
        "checkpoint_steps": checkpoint_steps,
        "seed": seed,
        "device": device,
        "resume": resume,
        "show_progress": progress_is_shown(quiet),
    }
    settings = training_options.settings_of(given, other_settings)
    from bge_integrations.training import pretrain as run

    trained = run(texts, model, output, **settings)
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
        updates = counted(len(trained.losses), "update")
        print(f"{trained.folder}: {updates}, loss {first:.4g} to {last:.4g}; {trained.seconds:.1f} s")

"""`bge mix`: mix fine-tuned models by the weighted sum of their tensors."""

from __future__ import annotations

from typing import Annotated

import typer

from bge_integrations.cli import options, training_options
from bge_integrations.cli.output import print_json, print_table, progress_is_shown
from bge_integrations.errors import InvalidInputError


def mix(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help="Hub ids or checkpoint folders.")],
    output: training_options.OutputFolder,
    weights: training_options.ModelWeights = None,
    examples: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Find the weights by the models' losses on these training rows, or on lines with input and output.",
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(help="With --examples: the higher, the more equal the weights.")] = 5.0,
    layers: Annotated[
        str | None,
        typer.Option(metavar="N-N", help="Mix only these layers: 6-11 or 0,1,2. The rest is the first model's."),
    ] = None,
    tensors: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Mix only tensors with such names: '*.attention.*'; can be repeated."),
    ] = None,
    device: options.Device = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Mix models that were fine-tuned from the same one (LM-Cocktail).

    FOLDER has the tokenizer and settings of the first model. It appears when it is complete.
    """
    numbers = training_options.parse_numbers(weights)
    if weights is not None and examples is not None:
        raise InvalidInputError("--weights and --examples can't be combined", advice="leave one of them out")
    chosen_layers = None if layers is None else _layers(layers)
    from bge_integrations.training.mixing import mix as mix_models
    from bge_integrations.training.mixing_weights import weights_from
    from bge_integrations.training.outputs import check_new_folder

    check_new_folder(output)
    shown = progress_is_shown(quiet)
    losses = None
    if examples is not None:
        found = weights_from(
            models, examples, temperature=temperature, device=device[0] if device else None, show_progress=shown
        )
        numbers, losses = list(found.weights), found.losses
    mixed = mix_models(models, output, weights=numbers, layers=chosen_layers, tensors=tensors, show_progress=shown)
    if as_json:
        row = {"folder": str(mixed.folder), "models": mixed.models, "weights": mixed.weights, "mixed": mixed.mixed}
        print_json({**row, "kept": mixed.kept, **({} if losses is None else {"losses": losses})})
        return
    rows = [
        (name, f"{weight:.4f}", *([] if losses is None else [f"{losses[i]:.4f}"]))
        for i, (name, weight) in enumerate(zip(mixed.models, mixed.weights, strict=True))
    ]
    print_table(rows, ("model", "weight", *([] if losses is None else ["loss"])))


def _layers(text: str) -> list[int]:
    layers: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            layers += range(int(first), int(last or first) + 1)
    except ValueError:
        raise InvalidInputError(f"--layers {text} must be numbers or ranges, such as 6-11 or 0,1,2") from None
    return layers

"""LM-Cocktail (Xiao et al., 2023): mix models by the weighted sum of their tensors, one tensor at a time."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from bge_integrations.errors import CheckpointError, DiskFullError, InvalidInputError
from bge_integrations.models.checkpoint import M3_HEADS
from bge_integrations.models.locating import locate
from bge_integrations.progress import progress_bar
from bge_integrations.spelling import spelled
from bge_integrations.training.mixing_checks import Source, check_fit
from bge_integrations.training.model_folder import copy_settings, new_folder, set_dtype, write_mix_card
from bge_integrations.training.outputs import check_new_folder
from bge_integrations.training.safetensors_files import TensorSpec, write_weights
from bge_integrations.validation import check_texts, check_whole_number

#: Entries of a tensor that are mixed at a time: 16 MB of float32.
_PART = 1 << 22
#: How far the sum of the weights may be from 1.
_ROUNDING = 1e-6
#: The number of the layer in a tensor's name.
_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")


@dataclass(frozen=True)
class Mixed:
    """What `mix` wrote.

    Attributes:
        folder: The mixed model.
        models: The models' names.
        weights: Their weights.
        mixed: Number of tensors that were mixed.
        kept: Number of tensors that are the first model's own: those that were not chosen, and integers.
    """

    folder: Path
    models: tuple[str, ...]
    weights: tuple[float, ...]
    mixed: int
    kept: int


def mix(
    models: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    layers: Collection[int] | None = None,
    tensors: Sequence[str] | None = None,
    max_shard_bytes: int = 5_000_000_000,
    cache_folder: str | None = None,
    local_files_only: bool = False,
    show_progress: bool = False,
) -> Mixed:
    """Mix models that were fine-tuned from the same one: each tensor is the weighted sum of the models' tensors.

    Mixes embedders, rerankers and decoders, and also bge-m3's two heads. Tensors are read, mixed and written in parts
    of 16 MB, so the memory does not depend on the size of the models. The folder has the config, the tokenizer and the
    sentence-transformers files of the first model. It is written whole or not at all.

    Args:
        models: At least two hub ids or checkpoint folders.
        output: The folder to create.
        weights: One number per model, which must sum to 1; a negative weight moves away from a model. None weights
            all models equally. `weights_from` finds weights from a few examples.
        layers: Numbers of the layers to mix, from 0. Everything else, including embeddings and heads, is the first
            model's. None mixes all.
        tensors: Patterns such as "*.attention.*"; a tensor whose name matches none of them is the first model's.
            bge-m3's heads are "sparse_linear.*" and "colbert_linear.*". None mixes all.
        max_shard_bytes: Maximum size of a file of weights; larger weights are split over several files.
        cache_folder, local_files_only: As in `load_embedder`.
        show_progress: Show a progress bar.

    Raises:
        InvalidInputError: The models do not fit together (the message says what differs), the weights do not sum to 1,
            the output exists, or another argument is invalid.
        NotSupportedError: A model is a LoRA adapter, takes images, or is quantized.
        CheckpointNotFoundError, UnknownModelError: A model was not found.
        CheckpointError: A file of a model is missing or damaged, or a tensor has NaN or infinity.
        DiskFullError: There is not enough disk space.
    """
    shares = _check_weights(models, weights)
    check_whole_number(max_shard_bytes, "max_shard_bytes")
    target = check_new_folder(output)
    cache: dict[str, Any] = {"cache_folder": cache_folder, "local_files_only": local_files_only}
    sources = [Source(*locate(model, "embedder", **cache)) for model in models]
    check_fit(sources)
    chosen = _choose(sources[0], layers, tensors)
    mixing = _Mixing(sources, shares, chosen)
    in_file = {name: spec for name, spec in mixing.specs.items() if name not in sources[0].heads}
    _check_disk(target, sum(spec.bytes for spec in in_file.values()))
    with new_folder(target) as folder, progress_bar(len(mixing.specs), "tensor", show_progress) as bar:
        copy_settings(sources[0].name, sources[0].folder, folder)
        if len(dtypes := {source.dtype for source in sources}) > 1:
            set_dtype(folder, reduce(torch.promote_types, dtypes))
        write_mix_card(folder, target.name, [source.name for source in sources], shares)

        def parts(name: str) -> Iterator[torch.Tensor]:
            yield from mixing.parts(name)
            bar.update()

        write_weights(folder, in_file, parts, max_shard_bytes)
        for head in M3_HEADS if sources[0].heads else ():
            stem = Path(head).stem
            state = {part: torch.cat(list(parts(f"{stem}.{part}"))) for part in ("weight", "bias")}
            state["weight"] = state["weight"].reshape(mixing.specs[f"{stem}.weight"].shape)
            torch.save(state, folder / head)
    names = tuple(source.name for source in sources)
    return Mixed(target, names, shares, len(chosen), len(mixing.specs) - len(chosen))


class _Mixing:
    """The mixed tensors by name.

    Args:
        sources: The models, which fit together.
        shares: Their weights.
        chosen: The tensors to mix; the others are the first model's.

    Attributes:
        specs: The types and shapes of all tensors.
    """

    def __init__(self, sources: Sequence[Source], shares: Sequence[float], chosen: Collection[str]) -> None:
        self._sources, self._shares, self._chosen = sources, shares, chosen
        self.specs = {name: self._spec(name) for name in sources[0].names}

    def _spec(self, name: str) -> TensorSpec:
        first = self._sources[0].read(name)
        used = self._sources if name in self._chosen else self._sources[:1]
        return TensorSpec(reduce(torch.promote_types, [each.read(name).dtype for each in used]), tuple(first.shape))

    def parts(self, name: str) -> Iterator[torch.Tensor]:
        """Yield a tensor in consecutive parts of its entries, (entries,) each."""
        spec = self.specs[name]
        for start in range(0, max(1, torch.Size(spec.shape).numel()), _PART):
            if name not in self._chosen:
                yield self._sources[0].read(name).reshape(-1)[start : start + _PART]
                continue
            total: torch.Tensor | None = None
            for source, share in zip(self._sources, self._shares, strict=True):
                # read anew for each part: that releases the pages of the earlier parts
                part = source.read(name).reshape(-1)[start : start + _PART]
                term = part.to(torch.promote_types(part.dtype, torch.float32)) * share
                total = term if total is None else total.add_(term)
            assert total is not None
            mixed = total.to(spec.dtype)
            if not mixed.isfinite().all():
                raise CheckpointError(f"the mixed tensor {name} has NaN or infinity; check the models' weights")
            yield mixed


def _check_weights(models: object, weights: Sequence[float] | None) -> tuple[float, ...]:
    """Return one weight per model."""
    if isinstance(models, (str, os.PathLike)) or not isinstance(models, Sequence) or len(models) < 2:
        raise InvalidInputError("models must be a list of at least two models", argument="models")
    if weights is None:
        return (1 / len(models),) * len(models)
    try:
        numbers = tuple(map(float, weights))
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != len(models) or not all(map(math.isfinite, numbers)):
        raise InvalidInputError(
            f"{spelled('weights', weights)} must be {len(models)} finite numbers, one per model", argument="weights"
        )
    if abs(sum(numbers) - 1) > _ROUNDING:
        raise InvalidInputError(
            f"the weights sum to {sum(numbers):g}, not to 1",
            argument="weights",
            advice="change one of them, or leave them out to weight all models equally",
        )
    return numbers


def _check_disk(target: Path, needed: int) -> None:
    existing = next(parent for parent in target.parents if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise DiskFullError(
            f"{target} needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
            advice="free some space, or choose a folder on another disk",
        )


def _choose(first: Source, layers: Collection[int] | None, tensors: Sequence[str] | None) -> set[str]:
    """Return the names of the tensors to mix."""
    chosen = {name for name in first.names if first.read(name).is_floating_point()}
    if layers is not None:
        layer_of = {name: int(match[1]) for name in chosen if (match := _LAYER.search(name))}
        wanted = {check_whole_number(layer, "layers", least=0) for layer in layers}
        if not wanted or not wanted <= set(layer_of.values()):
            last = max(layer_of.values(), default=0)
            raise InvalidInputError(
                f"{spelled('layers', sorted(wanted))} must be numbers from 0 to {last}, the last layer of {first.name}",
                argument="layers",
            )
        chosen = {name for name, layer in layer_of.items() if layer in wanted}
    if tensors is not None:
        patterns = check_texts(tensors, "tensors")
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in first.names):
                raise InvalidInputError(
                    f"no tensor of {first.name} matches {pattern!r}",
                    argument="tensors",
                    advice=f"its names are like {', '.join(list(first.names)[:3])}",
                )
        chosen = {name for name in chosen if any(fnmatchcase(name, pattern) for pattern in patterns)}
    if not chosen:
        raise InvalidInputError(
            "no tensor is left to mix", argument="tensors", advice="choose other layers or other patterns"
        )
    return chosen

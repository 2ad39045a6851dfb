"""A LoRA adapter's folder: its settings, and the base model that it was trained on."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bge_integrations import catalog
from bge_integrations.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    InvalidInputError,
    NotSupportedError,
    UnknownModelError,
)
from bge_integrations.models.checkpoint import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    M3_HEADS,
    hash_files,
    is_adapter,
    read_json,
    weights_digest,
)
from bge_integrations.models.locating import locate

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Fields of adapter_config.json that the merged weights do not depend on, because the tensors' names and shapes say
#: what was trained, or because they only matter for training.
_NOT_NEEDED = frozenset(
    {
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "bias", "fan_in_fan_out"),
        *("inference_mode", "auto_mapping", "peft_version", "lora_dropout", "lora_bias", "runtime_config"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "velora_config"),
        *("megatron_core", "qalora_group_size"),  # have a value even if their feature is off
    }
)
#: Fields that are read.
_READ = frozenset(
    {
        *("peft_type", "base_model_name_or_path", "revision", "task_type", "init_lora_weights", "modules_to_save"),
        *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"),
    }
)
#: Initializations that leave the base's weights as they are; the others subtract something from them.
_PLAIN_INITIALIZATIONS = (True, False, None, "gaussian", "orthogonal", "eva")
_MERGE = "merge it with peft's merge_and_unload(), save the result and the tokenizer, and load that folder"


@dataclass(frozen=True)
class AdapterConfig:
    """The parts of adapter_config.json that say how the tensors are merged.

    Attributes:
        rank, alpha: The update's rank and its strength, unless a pattern matches the module.
        rank_pattern, alpha_pattern: {regular expression of a module's name: its own value}.
        uses_rslora: Whether updates are scaled by alpha / √rank instead of alpha / rank.
        uses_dora: Whether the rows of a merged weight are scaled to a stored length.
        modules_to_save: Names of modules that were trained and stored whole.
        is_classifier: Whether a classifier was trained, that is, a reranker.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    uses_rslora: bool = False
    uses_dora: bool = False
    modules_to_save: tuple[str, ...] = ()
    is_classifier: bool = False

    @classmethod
    def read(cls, folder: Path) -> AdapterConfig:
        """Read a folder's adapter_config.json.

        Raises:
            NotSupportedError: It is another kind of adapter, or uses something that can't be merged here.
            CheckpointError: It is missing, damaged, or lacks a value.
        """
        stored = _read(folder)
        file = folder / ADAPTER_CONFIG
        _check_supported(file, stored)
        try:
            return cls(
                rank=_rank(stored["r"]),
                alpha=_alpha(stored["lora_alpha"]),
                rank_pattern={key: _rank(rank) for key, rank in (stored.get("rank_pattern") or {}).items()},
                alpha_pattern={key: _alpha(alpha) for key, alpha in (stored.get("alpha_pattern") or {}).items()},
                uses_rslora=bool(stored.get("use_rslora")),
                uses_dora=bool(stored.get("use_dora")),
                modules_to_save=tuple(map(str, stored.get("modules_to_save") or ())),
                is_classifier=stored.get("task_type") == "SEQ_CLS",
            )
        except KeyError as error:
            raise CheckpointError(f"{file} lacks {error}") from error
        except (TypeError, ValueError, OverflowError, AttributeError) as error:
            raise CheckpointError(f"{file} contains a value of the wrong type ({error})") from error

    def rank_of(self, module: str) -> int:
        """Return the rank of a module's update."""
        return self.rank_pattern.get(_matching(self.rank_pattern, module), self.rank)

    def scaling_of(self, module: str) -> float:
        """Return the factor of a module's update."""
        rank = self.rank_of(module)
        alpha = self.alpha_pattern.get(_matching(self.alpha_pattern, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.uses_rslora else rank)


def locate_base(
    folder: Path,
    kind: catalog.Kind | Literal["generator"],
    *,
    cache_folder: str | None = None,
    local_files_only: bool = False,
) -> Path | None:
    """Return the folder of the base model if `folder` has a LoRA adapter; None if it has a whole model.

    The base is the folder or hub id in adapter_config.json. A relative path starts at the working directory, at the
    adapter's folder, or at the folder above it.

    Raises:
        CheckpointNotFoundError: The base is not there and could not be downloaded.
        CheckpointError: adapter_config.json is missing, damaged, or names no base.
        NotSupportedError: The adapter can't be merged here.
    """
    if not is_adapter(folder):
        return None
    AdapterConfig.read(folder)  # raises if it can't be merged, before anything is downloaded
    stored = _read(folder)
    name = stored.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise CheckpointError(
            f"{folder} is a LoRA adapter, but its {ADAPTER_CONFIG} names no base model",
            advice="set base_model_name_or_path in it to the base model's folder or hub id",
        )
    nearby = [start / name for start in (folder, folder.parent) if not Path(name).expanduser().is_dir()]
    named = next((os.fspath(path) for path in nearby if path.is_dir()), name)
    try:
        _, base = locate(
            named,
            kind,
            revision=stored.get("revision") or None,
            cache_folder=cache_folder,
            local_files_only=local_files_only,
        )
    except (CheckpointNotFoundError, InvalidInputError, UnknownModelError) as error:
        row = catalog.find(name)
        like = f" (its name is that of {row.name})" if row is not None and row.name != name else ""
        raise CheckpointNotFoundError(
            f"{folder} is a LoRA adapter of {name}{like}, and that base model was not found ({error.finding})",
            advice=f"set base_model_name_or_path in {folder / ADAPTER_CONFIG} to the base model's folder or hub id",
        ) from error
    if is_adapter(base):
        raise NotSupportedError(
            f"{folder} is a LoRA adapter of {name}, which is an adapter itself",
            advice="merge that one into its base first, with peft's merge_and_unload()",
        )
    return base


def folder_with(names: tuple[str, ...], folder: Path, base: Path | None) -> Path:
    """Return where to read one of these files: the adapter's folder if it has one, otherwise the base's.

    Without a base, it is `folder`.
    """
    if base is None or any((folder / name).is_file() for name in names):
        return folder
    return base


def adapted_digest(folder: Path, base: Path) -> str:
    """Return a digest of an adapter merged into its base, independent of both paths."""
    settings = asdict(AdapterConfig.read(folder))
    whole = hashlib.sha256()
    whole.update(weights_digest(base).encode())
    whole.update(json.dumps(settings, sort_keys=True).encode())
    hash_files(whole, sorted(folder / name for name in (*ADAPTER_FILES, *M3_HEADS) if (folder / name).is_file()))
    return whole.hexdigest()


def _read(folder: Path) -> dict[str, Any]:
    if not (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{folder} has the weights of an adapter, but no {ADAPTER_CONFIG}",
            advice="copy it from where it was trained",
        )
    return read_json(folder, ADAPTER_CONFIG) or {}


def _check_supported(file: Path, stored: Mapping[str, Any]) -> None:
    kind = stored.get("peft_type")
    if kind != "LORA":
        raise NotSupportedError(
            f"{file.parent} is a {kind or 'PEFT'} adapter of {stored.get('base_model_name_or_path')}, and only LoRA "
            "adapters are loaded over their base",
            advice=_MERGE,
        )
    unsupported = sorted(name for name in stored.keys() - _NOT_NEEDED - _READ if stored[name])
    if stored.get("init_lora_weights", True) not in _PLAIN_INITIALIZATIONS:
        unsupported.append(f"init_lora_weights={stored['init_lora_weights']!r}")
    if unsupported:
        raise NotSupportedError(f"{file}: {', '.join(unsupported)} is not supported", advice=_MERGE)


def _rank(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{value!r} is not a rank")
    return value


def _alpha(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not an alpha")
    return float(value)


def _matching(pattern: Mapping[str, Any], module: str) -> str:
    """Return the first key that matches the module's name or the end of it, as peft does; "" if none does."""
    for key in pattern:
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return key
        except re.error as error:
            raise CheckpointError(
                f"{ADAPTER_CONFIG}: {key!r} in a pattern is not a regular expression ({error})"
            ) from error
    return ""

"""Merge a LoRA adapter's tensors into the weights of its base model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from bge_integrations.errors import CheckpointError, NotSupportedError
from bge_integrations.models.adapter import AdapterConfig
from bge_integrations.models.checkpoint import ADAPTER_FILES
from bge_integrations.models.weights import Weights, fitting, read_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import Tensor

#: What peft prepends to the names of the model that it wraps.
_PEFT_PREFIX = "base_model.model."
#: What transformers prepends to the backbone's names, depending on the head that it was saved with.
_BACKBONE_PREFIXES = ("bert.", "roberta.", "model.")
#: The parts of an update, by the end of their names.
_PARTS = {
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_B.bias": "bias",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_embedding_A": "embedding_a",
    ".lora_embedding_B": "embedding_b",
}
_LINEAR, _EMBEDDING = ({"a", "b"}, {"embedding_a", "embedding_b"})
_EMBEDDINGS = ("embeddings.word_embeddings.weight", "embed_tokens.weight")


@dataclass(frozen=True)
class _Update:
    """A low-rank update of one module.

    Attributes:
        delta: What is added to the weight, as the factors (out, rank) and (rank, in).
        scaling: Multiplies the product of the factors.
        bias: Added to the module's bias after scaling; None if there is none.
        magnitude: The lengths of the merged weight's rows (DoRA); None if they are not set.
    """

    delta: tuple[Tensor, Tensor]
    scaling: float
    bias: Tensor | None = None
    magnitude: Tensor | None = None

    def fits(self, stored: Tensor, kind: str) -> bool:
        """Return whether the shapes fit a stored weight or bias; torch would broadcast some that do not."""
        rows = len(self.delta[0])
        if kind == "weight":
            has_shape = stored.shape == (rows, self.delta[1].shape[1])
            return has_shape and (self.magnitude is None or self.magnitude.shape == (rows,))
        return self.bias is None or stored.shape == self.bias.shape == (rows,)

    def weight(self, stored: Tensor) -> Tensor:
        """Return the merged weight in float32."""
        merged = torch.addmm(stored.float(), self.delta[0].float(), self.delta[1].float(), alpha=self.scaling)
        if self.magnitude is None:
            return merged
        lengths: Tensor = torch.linalg.norm(merged, dim=1)
        return merged * (self.magnitude.float() / lengths)[:, None]


class LoraAdapter:
    """The tensors of a LoRA adapter by the names of its base, which here have no backbone prefix.

    Attributes:
        folder: The adapter's folder.
        config: Its settings.
        updates: {module: its low-rank update}.
        whole: {tensor: its new value}: heads, biases and embeddings that were stored whole.

    Raises:
        CheckpointError: The weights are missing, damaged, or don't fit adapter_config.json.
        NotSupportedError: A tensor is of a kind that can't be merged here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = AdapterConfig.read(folder)
        self.file = next(
            (folder / name for name in ADAPTER_FILES if (folder / name).exists()), folder / ADAPTER_FILES[0]
        )
        parts: dict[str, dict[str, Tensor]] = {}
        self.whole: dict[str, Tensor] = {}
        for name, tensor in read_tensors(self.file).items():
            own = name.removeprefix(_PEFT_PREFIX)
            end = next((end for end in _PARTS if own.endswith(end)), None)
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                raise CheckpointError(f"{self.file}: {name} is not a floating-point tensor")
            if end is not None:
                parts.setdefault(own.removesuffix(end), {})[_PARTS[end]] = tensor
            elif ".lora_" in own or ".trainable_tokens_" in own:
                raise NotSupportedError(f"{self.file}: {name} can't be merged; merge the adapter with peft")
            else:
                self.whole[bare_name(own.replace(".base_layer.", "."))] = tensor
        self.updates = {bare_name(module): self._update(module, tensors) for module, tensors in parts.items()}

    def _update(self, module: str, tensors: dict[str, Tensor]) -> _Update:
        is_embedding = tensors.keys() == _EMBEDDING
        needed = _EMBEDDING if is_embedding else _LINEAR | ({"magnitude"} if self.config.uses_dora else set())
        if not needed <= tensors.keys() <= needed | {"bias"} or (is_embedding and self.config.uses_dora):
            raise CheckpointError(
                f"{self.file}: {module} has the tensors {', '.join(sorted(tensors))}; needed: "
                f"{', '.join(sorted(needed))}"
            )
        a, b = (tensors[part] for part in sorted(needed - {"magnitude"}))
        rank = self.config.rank_of(module)
        if a.dim() != 2 or b.dim() != 2 or len(a) != rank or b.shape[1] != rank:
            raise CheckpointError(
                f"{self.file}: the update of {module} has the shapes {tuple(b.shape)} and {tuple(a.shape)}, "
                f"adapter_config.json asks for rank {rank}"
            )
        # peft stores an embedding's update transposed
        delta = (a.T, b.T) if is_embedding else (b, a)
        return _Update(delta, self.config.scaling_of(module), tensors.get("bias"), tensors.get("magnitude"))

    def adapt(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the base's config.json with the number of tokens that the adapter's own embeddings have."""
        rows = [len(self.whole[name]) for name in _EMBEDDINGS if name in self.whole]
        return {**config, "vocab_size": rows[0]} if rows else config

    def changes(self, *names: str) -> bool:
        """Return whether it changes one of these tensors."""
        return any(name in self.whole or name.removesuffix(".weight") in self.updates for name in names)


class AdaptedWeights(Weights):
    """The weights of a base model with an adapter merged in. Merged tensors are float32.

    Raises:
        CheckpointError: The base has no such module as the adapter changes, or their shapes differ.
    """

    def __init__(self, base: Path, adapter: LoraAdapter) -> None:
        super().__init__(base)
        self._adapter = adapter
        names = {bare_name(name) for name in self._stored} | adapter.whole.keys()
        changed = [f"{module}.weight" for module in adapter.updates]
        changed += [f"{module}.bias" for module, update in adapter.updates.items() if update.bias is not None]
        self._refuse([name for name in changed if name not in names], "changes")
        #: New tensors, such as a head's, that the model must take.
        self._new = adapter.whole.keys() - {bare_name(name) for name in self._stored}
        saved = adapter.config.modules_to_save
        missing = [each for each in saved if _has_module(names, each) and not _has_module(adapter.whole, each)]
        self._refuse(missing, "was trained with its own copies of", f"but {adapter.file.name} lacks them")

    def __contains__(self, name: str) -> bool:
        return super().__contains__(name) or bare_name(name) in self._adapter.whole

    def take(self, name: str, *shape: int) -> Tensor:
        """Return the tensor `name`, merged; see `Weights.take`."""
        bare = bare_name(name)
        own = self._adapter.whole.get(bare)
        stored = super().take(name, *shape) if own is None else fitting(self._adapter.file, name, own, shape)
        self._new.discard(bare)
        module, _, kind = bare.rpartition(".")
        update = self._adapter.updates.get(module)
        if update is None:
            return stored
        if not update.fits(stored, kind):
            raise CheckpointError(
                f"{self._adapter.file}: the update of {module} does not fit the base's {kind} {tuple(stored.shape)}"
            )
        if kind == "weight":
            return update.weight(stored)
        return stored if update.bias is None else stored.float() + update.bias.float() * update.scaling

    def check_all_used(self) -> None:
        """Raise CheckpointError if the model has not taken a tensor that the base does not have."""
        self._refuse(sorted(self._new), "has tensors for")

    def _refuse(self, names: list[str], verb: str, reason: str = "which its base does not have") -> None:
        if names:
            shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
            raise CheckpointError(
                f"{self._adapter.folder} {verb} {shown}, {reason} ({self.folder})",
                advice="use the base model and the files that it was trained with",
            )


def _has_module(names: Iterable[str], module: str) -> bool:
    return any(f".{module}." in f".{name}" for name in names)


def bare_name(name: str) -> str:
    """Return a tensor's or module's name without the prefix of the backbone."""
    prefix = next((prefix for prefix in _BACKBONE_PREFIXES if name.startswith(prefix)), "")
    return name.removeprefix(prefix)

"""A checkpoint's tensors, read safely: no code in pickles, no truncated files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bge_integrations.errors import CheckpointError
from bge_integrations.models.checkpoint import check_not_pointer, tensor_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


def read_state(file: Path) -> Mapping[str, torch.Tensor]:
    """Read the tensors of a `.pt` or `.bin` file with `weights_only=True`, so no code in it can run."""
    check_not_pointer(file)
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; this checkpoint can't be used without it")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} contains more than tensors or is damaged, and was not loaded ({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # torch's unpickler raises almost anything for a damaged file
        raise CheckpointError(f"{file} is cut short or damaged ({error}); download it again") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"{file} must contain a dict of tensors by name")
    return state


def read_tensors(file: Path) -> Mapping[str, torch.Tensor]:
    """Read all tensors of a `.safetensors`, `.pt` or `.bin` file."""
    if file.suffix != ".safetensors":
        return read_state(file)
    with _safetensors(file) as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


class Weights:
    """The tensors of a checkpoint folder by name, read on demand.

    A safetensors file is memory-mapped again for each tensor, so that its pages are released with the tensor: loading
    and converting a large model does not need memory for its files as well. Copy a tensor to keep it, because it keeps
    the whole file mapped.

    Raises:
        CheckpointError: There are no weights, a shard is missing, or a file is cut short; the message names the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = tensor_files(folder)
        self._stored: dict[str, tuple[Path, str]] = {}
        self._states: dict[Path, Mapping[str, torch.Tensor]] = {}
        for file in dict.fromkeys(files.values()):
            for name in self._names(file):
                self._stored[_current_name(name)] = file, name
        for name, file in files.items():
            if name != "*" and self._stored.get(_current_name(name)) != (file, name):
                raise CheckpointError(f"{file} lacks the tensor {name} that the index lists")

    def _names(self, file: Path) -> Iterable[str]:
        if file.suffix != ".safetensors":
            self._states[file] = read_state(file)
            return self._states[file].keys()
        with _safetensors(file) as opened:
            names: list[str] = opened.keys()
        return names

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def prefix_of(self, name: str) -> str:
        """Return what precedes `name` in this checkpoint: "bert.", "roberta." or ""."""
        for stored in self._stored:
            if stored == name or stored.endswith("." + name):
                return stored.removesuffix(name)
        raise CheckpointError(
            f"{self.folder}: no tensor {name} in the weights (found {', '.join(list(self._stored)[:5])} …)"
        )

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """Return the tensor `name` as stored, if its shape fits (-1 matches any size). Copy it if you keep it."""
        if name not in self._stored:
            raise CheckpointError(f"{self.folder}: the weights lack the tensor {name}")
        return fitting(self._stored[name][0], name, self.read(name), shape)

    def read(self, name: str) -> torch.Tensor:
        """Return the tensor `name` as stored, of any type and shape. Copy it if you keep it."""
        file, stored = self._stored[name]
        if file in self._states:
            return self._states[file][stored]
        with _safetensors(file) as opened:
            tensor: torch.Tensor = opened.get_tensor(stored)
        return tensor


def _safetensors(file: Path) -> Any:
    """Open the file, as a context manager."""
    from safetensors import SafetensorError, safe_open

    check_not_pointer(file)
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; the weights are incomplete, download it again")
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is cut short or damaged ({error}); download it again") from error
    except RuntimeError as error:  # torch's, if the system can't open one more file
        if "unable to open file" not in str(error):
            raise
        raise CheckpointError(f"{file} can't be opened ({error})") from error


def _current_name(name: str) -> str:
    """Return the name by which we take a tensor.

    TensorFlow and transformers 5.0 call the weight and bias of BERT's norms gamma and beta. Visualized-BGE puts "bge_"
    before the parts of its text model.
    """
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return name.removeprefix("bge_")


def fitting(file: Path, name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return `tensor` if it is floating point and has this shape (-1 matches any size), else raise."""
    if not isinstance(tensor, torch.Tensor):
        raise CheckpointError(f"{file}: {name} is not a tensor")
    fits = tensor.dim() == len(shape) and all(
        want in (-1, have) for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        raise CheckpointError(f"{file}: tensor {name} has shape {tuple(tensor.shape)}, config.json asks for {shape}")
    if not tensor.is_floating_point():
        raise CheckpointError(f"{file}: tensor {name} is {tensor.dtype}; only floating-point weights can be read")
    return tensor

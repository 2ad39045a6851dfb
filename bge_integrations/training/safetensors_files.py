"""Write a checkpoint's tensors to safetensors files one after the other, so that they are never all in memory.

The safetensors library writes a file from tensors that are all in memory. The format is simple: the length of a JSON
header as 8 bytes, the header with each tensor's type, shape and position, and the tensors' bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from bge_integrations.errors import NotSupportedError

#: The types of tensors by their names in the format.
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class TensorSpec:
    """The type and shape of a tensor that will be written."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in _TYPES:
            raise NotSupportedError(
                f"tensors of type {self.dtype} are not supported", advice="use a checkpoint that is not quantized"
            )

    @property
    def bytes(self) -> int:
        """The tensor's size in bytes."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


def write_weights(
    folder: Path,
    specs: Mapping[str, TensorSpec],
    parts: Callable[[str], Iterator[torch.Tensor]],
    max_shard_bytes: int,
) -> None:
    """Write model.safetensors, or several shards and their index if the tensors are larger than one shard.

    Args:
        folder: Where to write.
        specs: What will be written.
        parts: Returns a tensor by its name, in consecutive parts of its entries.
        max_shard_bytes: Maximum size of a shard; a larger tensor has a shard of its own.
    """
    shards = _shards(specs, max_shard_bytes)
    if len(shards) == 1:
        names = {"model.safetensors": shards[0]}
    else:
        names = {f"model-{i:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards, start=1)}
        index = {
            "metadata": {"total_size": sum(spec.bytes for spec in specs.values())},
            "weight_map": {tensor: file for file, shard in names.items() for tensor in shard},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    for file, shard in names.items():
        with (folder / file).open("xb") as opened:
            _write_header(opened, {name: specs[name] for name in shard})
            for name in shard:
                for part in parts(name):
                    opened.write(part.reshape(-1).contiguous().view(torch.uint8).numpy().data)


def _shards(specs: Mapping[str, TensorSpec], max_bytes: int) -> Sequence[Sequence[str]]:
    """Return the tensors' names, split into shards of at most `max_bytes`."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, spec in specs.items():
        if shards[-1] and size + spec.bytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += spec.bytes
    return shards


def _write_header(file: BinaryIO, specs: Mapping[str, TensorSpec]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, spec in specs.items():
        start, end = end, end + spec.bytes
        header[name] = {"dtype": _TYPES[spec.dtype], "shape": list(spec.shape), "data_offsets": [start, end]}
    content = json.dumps(header, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)  # the tensors begin at a multiple of 8 bytes
    file.write(len(content).to_bytes(8, "little") + content)

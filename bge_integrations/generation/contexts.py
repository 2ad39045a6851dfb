"""Documents that were read: kept in memory for many questions, and saved to a file."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_integrations.atomic_files import move_atomically
from bge_integrations.errors import ContextFileError, DiskFullError, StorageError, WrongModelError

if TYPE_CHECKING:
    from torch import Tensor

    from bge_integrations.generation.interface import Memory

#: The file of a context that is saved to a folder.
FILE = "context.safetensors"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Context:
    """A document as a model has read it. Questions about it don't change it, so it can be shared by threads.

    `Generator.read` and `Generator.load_context` return it.

    Attributes:
        tokens: Number of tokens that were read.
        model: The name of the model that read it.
        system: The system's message before the document; None if there is none.
        raw: Whether it was read without the chat template.
    """

    tokens: int
    model: str
    system: str | None
    raw: bool
    _memory: Memory = field(repr=False)
    _identity: str = field(repr=False)
    _state_of: Callable[[Any], tuple[dict[str, Tensor], dict[str, Any]]] = field(repr=False)

    @property
    def bytes(self) -> int:
        """Bytes of the keys and values that are kept of it."""
        return self._memory.bytes

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the context to a file, whole or not at all, and return the file.

        Args:
            path: A file whose name ends with .safetensors, or a folder, in which it is "context.safetensors"; the
                folder is created if needed. An existing file is replaced.

        Raises:
            NotSupportedError: The model keeps more than keys and values.
            DiskFullError: There is not enough disk space.
            StorageError: The file can't be written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors, values = self._state_of(self._memory)
        header = {
            "format": _FORMAT,
            "identity": self._identity,
            "model": self.model,
            "tokens": self.tokens,
            "system": self.system,
            "raw": self.raw,
            "state": values,
        }
        file = context_file(path)
        new = file.with_name(f".{file.name}.{secrets.token_hex(4)}.new")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            whole = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
            save_file(whole, new, metadata={"context": json.dumps(header)})
            move_atomically(new, file)
        except (OSError, SafetensorError) as error:
            full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
            kind = DiskFullError if full else StorageError
            raise kind(f"the context could not be written to {file} ({error})", argument="path") from error
        finally:
            with suppress(OSError):  # it was moved, or its folder is a file
                new.unlink()
        return file


def context_file(path: str | os.PathLike[str]) -> Path:
    """Return the file that a context's path stands for."""
    given = Path(path).expanduser()
    return given if given.suffix == ".safetensors" else given / FILE


def read_context(path: str | os.PathLike[str], identity: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header and the tensors of a saved context.

    Args:
        path: What `Context.save` was given, or what it returned.
        identity: The identity of the model that will use it.

    Raises:
        ContextFileError: There is no such file, or it is not a context, is damaged, or is newer than this release.
        WrongModelError: Another model has read the document.
    """
    from safetensors import SafetensorError, safe_open

    file = context_file(path)
    if not file.is_file():
        raise ContextFileError(
            f"there is no context {file}", argument="path", advice="save one with context.save(path)"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            header = json.loads((opened.metadata() or {}).get("context", "null"))
            if not isinstance(header, dict) or not isinstance(header.get("format"), int):
                raise ContextFileError(f"{file} is not a saved context", argument="path")
            if header["format"] > _FORMAT:
                raise ContextFileError(
                    f"{file} has format {header['format']}, but this release reads only up to {_FORMAT}",
                    argument="path",
                    advice="upgrade bge-integrations",
                )
            if header["identity"] != identity:
                raise WrongModelError(
                    f"{file} was read by {header['model']}, which has other weights or settings than this model",
                    argument="path",
                    advice="load that model, or read the document again",
                )
            return header, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if isinstance(error, (ContextFileError, WrongModelError)):
            raise
        raise ContextFileError(
            f"{file} is damaged ({error})", argument="path", advice="read the document again and save it"
        ) from error

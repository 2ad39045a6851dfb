"""The folder beside the output where a training keeps its checkpoints until its result is complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bge_integrations.atomic_files import sync_folder, write_atomically
from bge_integrations.errors import InvalidInputError
from bge_integrations.spelling import spelled
from bge_integrations.training.outputs import check_new_folder

#: What a work folder says about the training that it belongs to.
_IDENTITY = "training.json"
_LOCK = "lock"
#: Written last into a checkpoint.
_STATE = "trainer_state.json"


class WorkFolder:
    """`.NAME.training` beside the output folder NAME. The output appears whole, or not at all.

    Args:
        output: The folder to write in the end.
        identity: What the result depends on: settings, data and model, as JSON.
        resume: Continue what an interrupted training left; False discards it.

    Raises:
        InvalidInputError: The output exists, or the interrupted training had other settings, data or model.
    """

    def __init__(self, output: str | os.PathLike[str], identity: Mapping[str, Any], resume: bool) -> None:
        self.output = check_new_folder(output)
        self.path = self.output.with_name(f".{self.output.name}.training")
        self._identity = json.loads(json.dumps(identity))
        self._resume = resume
        self._is_finished = False
        if resume and self.checkpoint() is not None:
            self._check_identity()

    def checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint; None if there is none."""
        complete = [folder for folder in self.path.glob("checkpoint-*") if _is_complete(folder)]
        return max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Create the folder, or empty it unless it has a checkpoint to continue from, and keep others out.

        Raises:
            InvalidInputError: Another process is training to the same output.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InvalidInputError(
                f"another process is training to {self.output}", argument="output", advice="choose another folder"
            ) from None
        try:
            if not self._resume or self.checkpoint() is None:
                self._clear()
            write_atomically(self.path / _IDENTITY, json.dumps(self._identity, indent=1).encode())
            yield
        finally:
            lock.release()
            if self._is_finished:
                shutil.rmtree(self.path, ignore_errors=True)

    def finish(self, save: Callable[[Path], None]) -> None:
        """Write the result with `save`, and move it to the output. The checkpoints go when the folder is closed."""
        result = self.path / "result"
        shutil.rmtree(result, ignore_errors=True)
        result.mkdir()
        save(result)
        readable = result.stat().st_mode & 0o666
        for file in result.rglob("*.safetensors"):
            file.chmod(readable)  # safetensors writes files that only their owner can read
        if self.output.exists():
            self.output.rmdir()  # it is empty
        result.replace(self.output)
        sync_folder(self.output.parent)
        self._is_finished = True

    def _clear(self) -> None:
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()

    def _check_identity(self) -> None:
        stored = _read(self.path / _IDENTITY) or {}
        different = [key for key in self._identity if stored.get(key) != self._identity[key]]
        if not different:
            return
        key = different[0]
        was = f" ({key} was {stored[key]!r})" if isinstance(stored.get(key), (int, float, str, bool)) else ""
        raise InvalidInputError(
            f"an interrupted training to {self.output} had other settings, data or model: {', '.join(different)}{was}",
            argument="resume",
            advice=f"continue it with those that it had, or start again with {spelled('resume', False)}",
        )


def _is_complete(checkpoint: Path) -> bool:
    return checkpoint.name.rpartition("-")[2].isdigit() and _read(checkpoint / _STATE) is not None


def _read(file: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if it is missing or was not written whole."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None

"""The output folder of a job, on this machine's disks or in an object store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import fsspec
from filelock import FileLock, Timeout

from bge_integrations.atomic_files import atomic_writer
from bge_integrations.errors import InvalidInputError
from bge_integrations.jobs.inputs import is_local

_PLAN = "_plan.json"
_CLAIMS = ".claims"


class OutputFolder:
    """A folder whose files are written whole or not at all.

    On this machine's disks, processes claim files by locks, which the system releases if a process dies. An object
    store has no locks.

    Args:
        url: A path, or a URL such as s3://bucket/vectors.

    Raises:
        InvalidInputError: It is a file, or contains files but no plan.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._system, self._path = fsspec.core.url_to_fs(url)
        self._path = self._path.rstrip("/")
        self.is_local = is_local(self._system)
        if self._system.isfile(self._path):
            raise InvalidInputError(f"{url} is a file", argument="output", advice="pass a folder")
        foreign = [name for name in self._names() if not name.startswith(".")]
        self._is_new = not self._system.exists(self._path)
        if foreign and _PLAN not in foreign:
            raise InvalidInputError(
                f"{url} is not empty (it contains {foreign[0]}), and was not written by this command",
                argument="output",
                advice="pass another folder",
            )

    def contains(self, url: str) -> bool:
        """Return whether a file is in this folder or below it."""
        system, path = fsspec.core.url_to_fs(url)
        return type(system) is type(self._system) and str(path).startswith(f"{self._path}/")

    @contextmanager
    def planning(self) -> Iterator[bytes | None]:
        """Yield the plan, None if there is none yet, and keep other processes from making one.

        If the block raises before there is a plan, the lock files are removed, and the folder if it is new.
        """
        with self.claim(_PLAN, wait=True):
            plan = self._read_plan()
            try:
                yield plan
            except BaseException:
                if plan is None and self.is_local:
                    self.remove_claims()  # while this one is held, so that no other process can hold one of them
                    if self._is_new:
                        with suppress(OSError):  # another process may use it
                            Path(self._path).rmdir()
                raise

    def write_plan(self, content: bytes) -> None:
        with self.writer(_PLAN) as file:
            file.write(content)

    def finished(self) -> set[str]:
        """Return the names of the finished files."""
        self._system.invalidate_cache(self._path)
        return {name for name in self._names() if name.endswith(".parquet") and not name.startswith(".")}

    def is_finished(self, name: str) -> bool:
        """Return whether this file is finished, without listing the others."""
        self._system.invalidate_cache(self._path)
        return bool(self._system.exists(f"{self._path}/{name}"))

    @contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        """Yield a file that becomes this file of the folder when the block ends without an error."""
        if self.is_local:
            with atomic_writer(Path(self._path) / name) as file:
                yield file
            return
        with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
            yield file  # type: ignore[misc]
            file.flush()
            hidden = f"{self._path}/.{name}.{os.getpid()}.new"
            self._system.put_file(file.name, hidden)
            self._system.mv(hidden, f"{self._path}/{name}")  # not every store replaces a file only when it is complete

    @contextmanager
    def claim(self, name: str, wait: bool = False) -> Iterator[bool]:
        """Yield whether this process now holds the claim to a file; it is released when the block or process ends."""
        if not self.is_local:
            yield True
            return
        claims = Path(self._path) / _CLAIMS
        lock = FileLock(claims / f"{name}.lock")
        while not lock.is_locked:
            try:
                claims.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=-1 if wait else 0)
            except Timeout:
                yield False
                return
            except FileNotFoundError:  # another process has just removed the folders
                continue
        try:
            yield True
        finally:
            lock.release()

    def remove_claims(self) -> None:
        """Remove the lock files."""
        if self.is_local:
            folder = Path(self._path) / _CLAIMS
            with suppress(OSError):  # another process may be doing the same
                for file in folder.iterdir():
                    file.unlink(missing_ok=True)
                folder.rmdir()

    def _read_plan(self) -> bytes | None:
        self._system.invalidate_cache(self._path)
        try:
            content: bytes = self._system.cat_file(f"{self._path}/{_PLAN}")
        except FileNotFoundError:
            return None
        return content

    def _names(self) -> list[str]:
        if not self._system.isdir(self._path):
            return []
        return sorted(str(each).rstrip("/").rsplit("/", 1)[-1] for each in self._system.ls(self._path, detail=False))

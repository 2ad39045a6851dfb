"""The folder of an index: its lock, its manifest, the shard in use, and the free disk space."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bge_integrations.atomic_files import write_atomically
from bge_integrations.errors import (
    DiskFullError,
    IndexFormatError,
    IndexLockedError,
    IndexNotFoundError,
    StorageError,
)
from bge_integrations.index.files import write_error
from bge_integrations.index.lock_holder import holder_of
from bge_integrations.index.manifest import Manifest
from bge_integrations.index.vector_files import FILE_NAME

_LOCK = ".lock"
#: Seconds to wait for the lock. A reader in another process holds it for a moment when it looks whether it is free.
_LOCK_SECONDS = 0.1
_MANIFEST = "manifest.json"
_CURRENT = "current.json"
_MULTI_VECTORS = "multi_vectors"
_SHARD = re.compile(r"shard-[0-9a-f]{12}")
#: All names in an index's folder. A process that was killed while writing a file leaves a name with ".new".
_OWN = re.compile(rf"\.lock|{_SHARD.pattern}|(manifest|current)\.json(\.new)?|\.(manifest|current)\.json\.\w+\.new")
#: The folders that are open in this process.
_open: dict[Path, Folder] = {}
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_open.clear)  # they are open in the parent
#: Bytes of disk space that always stay free. The engine memory-maps its files, and the system kills a process that
#: writes to a mapped file on a full disk.
_RESERVE = 64 << 20


class IndexFiles:
    """Reads the files of an index's folder, without locking it.

        manifest.json      the settings that the index was made with
        current.json       the shard in use (null while the index is being created), and the number of points it had
                           when it was optimised
        shard-<random>/    the engine's files
        multi_vectors/     the multi-vectors, which do not belong to a shard; see `vector_files`

    Args:
        path: The folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().resolve()

    @property
    def lock_file(self) -> Path:
        return self.path / _LOCK

    @property
    def multi_vectors(self) -> Path:
        return self.path / _MULTI_VECTORS

    @property
    def location(self) -> str:
        return os.fspath(self.path)

    @property
    def _manifest(self) -> Path:
        return self.path / _MANIFEST

    def manifest(self) -> Manifest | None:
        """Return the index's manifest; None if there is no index yet, or its creation was interrupted."""
        if (self.path / _CURRENT).exists():
            complete = self._current()["shard"] is not None
        else:
            complete = self._manifest.exists() or bool(self._shards())  # current.json was lost
        return Manifest.read(self._read(_MANIFEST), os.fspath(self._manifest)) if complete else None

    def shard(self) -> Path:
        """Return the folder of the shard in use."""
        current = self.path / str(self._current()["shard"])
        if not current.is_dir():
            raise IndexFormatError(f"{current} is missing", advice="restore the index from a copy")
        return current

    def optimized_points(self) -> int:
        """Return the number of points that the shard had when it was optimised."""
        return int(self._current()["optimized_points"])

    def can_be_written(self) -> bool:
        """Return whether this process may write to the folder and to everything in it."""
        return all(os.access(path, os.W_OK) for path in (self.path, *self.path.rglob("*")))

    def _current(self) -> dict[str, Any]:
        match current := self._read(_CURRENT):
            case {"shard": None, "optimized_points": int()}:
                return dict(current)
            case {"shard": str(name), "optimized_points": int()} if _SHARD.fullmatch(name):
                return dict(current)
        raise IndexFormatError(f"{self.path / _CURRENT} is damaged", advice="restore the index from a copy")

    def _shards(self) -> list[Path]:
        return [path for path in self.path.iterdir() if _SHARD.fullmatch(path.name)]

    def _read(self, name: str) -> Any:
        path = self.path / name
        try:
            return json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise IndexFormatError(f"{path} is missing", advice="restore the index from a copy") from None
        except (ValueError, RecursionError) as error:
            raise IndexFormatError(f"{path} is damaged ({error})", advice="restore the index from a copy") from error
        except OSError as error:  # such as too many open files
            raise StorageError(f"{path} can't be read ({error})") from error


class Folder(IndexFiles):
    """An index's folder, which this process locks until `close`.

    Args:
        path: The folder.
        create: Create the folder if it does not exist.

    Raises:
        IndexNotFoundError: The folder contains no index, and `create` is False.
        IndexLockedError: The folder is open already: in another process, or as another `Folder`.
        IndexFormatError: The path is a file, or the folder contains something else.
    """

    def __init__(self, path: str | os.PathLike[str], create: bool = True) -> None:
        super().__init__(path)
        if self.path.exists() and not self.path.is_dir():
            raise IndexFormatError(f"{self.path} is a file", advice="pass a folder for the index")
        if self.path.exists() and not self._manifest.exists() and (foreign := self._foreign()):
            raise IndexFormatError(
                f"{self.path} is not an index and not empty (it contains {foreign})",
                advice="pass another folder, or a new one",
            )
        # before the lock file is created, so that a damaged folder stays unchanged
        self._is_index = self.path.exists() and self.manifest() is not None
        if not self._is_index and not create:
            raise IndexNotFoundError(
                f"there is no index in {self.path}", advice="check the path, or create an index first"
            )
        self._created = [path for path in (self.path, *self.path.parents) if not path.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.lock_file, thread_local=False)  # close() may be called in any thread
        try:
            self._lock.acquire(timeout=_LOCK_SECONDS, poll_interval=0.01)
        except Timeout:
            if self.path in _open:
                where = "in this process"
                advice = "share that M3Index, or close() it (or the retriever or store that opened it) first"
            else:
                where = f"in {holder_of(self.lock_file)}"
                advice = "close it there, or run a Qdrant server and open its URL"
            raise IndexLockedError(f"{self.path} is already open {where}", advice=advice) from None
        self._shard_in_use: Path | None = None
        _open[self.path] = self

    def shard(self) -> Path:
        self._shard_in_use = super().shard()
        return self._shard_in_use

    @property
    def is_gone(self) -> bool:
        """Whether the shard in use was removed or moved. Another index can be at the same path by now."""
        return self._shard_in_use is not None and not self._shard_in_use.is_dir()

    def check_exists(self) -> None:
        """Raise StorageError if the shard in use was removed or moved."""
        if self.is_gone:
            raise StorageError(
                f"the files of the index in {self.path} are gone: the folder was removed, moved or replaced while the "
                "index was open",
                advice="restore the folder if its documents are still needed, and open the index again",
            )

    def new_shard(self) -> Path:
        """Return an unused path for a shard."""
        return self.path / f"shard-{uuid.uuid4().hex[:12]}"

    def begin(self) -> Path:
        """Remove what an interrupted creation left, and return a path for the first shard."""
        self._write(_CURRENT, {"shard": None, "optimized_points": 0})
        self.remove_shards()
        shutil.rmtree(self.multi_vectors, ignore_errors=True)
        return self.new_shard()

    def complete(self, shard: Path, manifest: Manifest, optimized_points: int = 0) -> None:
        """Finish the creation. From now on, the folder is an index."""
        self._write(_MANIFEST, manifest.to_dict())
        self._is_index = True
        self.switch(shard, optimized_points)

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest of the index."""
        self.check_exists()
        self._write(_MANIFEST, manifest.to_dict())

    def switch(self, shard: Path, optimized_points: int) -> None:
        """Make this the shard in use."""
        self._write(_CURRENT, {"shard": shard.name, "optimized_points": optimized_points})
        self._shard_in_use = shard

    def remove_shards(self, keep: Path | None = None) -> None:
        """Remove shards that were left by a process that ended while creating or removing them."""
        for shard in self._shards():
            if shard != keep:
                shutil.rmtree(shard, ignore_errors=True)

    def check_room(self, size: int) -> None:
        """Raise DiskFullError unless `size` bytes can be written."""
        self.check_exists()
        free = shutil.disk_usage(self.path).free
        if free < size + _RESERVE:
            raise DiskFullError(
                errno.ENOSPC,
                f"{free >> 20} MB are free, but {(size + _RESERVE >> 20) + 1} MB are needed; this step wrote nothing",
                os.fspath(self.path),
                advice="free some disk space and run it again: documents that are stored already are skipped",
            )

    def close(self) -> None:
        if _open.get(self.path) is self:  # otherwise, this folder is gone, and another index is in its place
            del _open[self.path]
        if not self._is_index and not (self.path / _CURRENT).exists() and not self._manifest.exists():
            self._remove_created()
        self._lock.release()

    def _remove_created(self) -> None:
        """Remove what `__init__` created. There is no index, and the held lock prevents others from creating one."""
        with suppress(OSError):  # folders that are not empty stay
            self.lock_file.unlink(missing_ok=True)
            for path in self._created:
                path.rmdir()

    def _foreign(self) -> str:
        """Return the name of a file or folder that does not belong to an index, or ""."""
        return next((path.name for path in self.path.iterdir() if not self._is_own(path)), "")

    def _is_own(self, path: Path) -> bool:
        if path == self.multi_vectors and path.is_dir():
            return all(FILE_NAME.fullmatch(inner.name) for inner in path.iterdir())
        return _OWN.fullmatch(path.name) is not None

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        path = self.path / name
        try:
            write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False).encode())
        except OSError as error:
            raise write_error(path, error) from error

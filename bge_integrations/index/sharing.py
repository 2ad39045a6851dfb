"""The folders that are open in this process. Indexes on the same folder share its lock and engine."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bge_integrations.index.folder import Folder
from bge_integrations.index.read_only import copy_for_reading

if TYPE_CHECKING:
    from bge_integrations.index.store import SharedEngine


class OpenFolder:
    """A folder that is open in this process, closed when its last holder releases it.

    Attributes:
        opening: Held while an index on the folder is being opened, so that the next one finds the engine.
        engine: The engine, once the first index is open.
        owned: Closes the engine and the folder.
    """

    def __init__(self, path: Path) -> None:
        self.location = os.fspath(path)
        self.opening = threading.Lock()
        self.engine: SharedEngine | None = None
        self.owned = ExitStack()
        self._path = path
        self._folder: Folder | None = None
        self._holders = 0
        self._closing = False
        self._closed = threading.Event()

    @classmethod
    def copy_of(cls, path: Path) -> OpenFolder:
        """Return a private copy of a folder, for reading only."""
        copy = cls(path)
        with ExitStack() as owned:
            copy._folder = copy_for_reading(path, owned)
            copy.owned = owned.pop_all()
        copy.hold()
        return copy

    def folder(self, create: bool) -> Folder:
        """Return the folder, and lock it if this is the first call. The caller holds `opening`."""
        if self._folder is None:
            self._folder = Folder(self._path, create)
            self.owned.callback(self._folder.close)
        return self._folder

    @property
    def is_gone(self) -> bool:
        """Whether the folder's files were removed or moved."""
        return self._folder is not None and self._folder.is_gone

    def hold(self) -> bool:
        """Count one more holder, unless the folder is being closed. The caller holds the registry's lock."""
        self._holders += 1  # before the check, because a garbage collection can release another holder
        if self._closing:
            self._holders -= 1
        return not self._closing

    def wait_until_closed(self) -> None:
        self._closed.wait()

    def release(self) -> None:
        """Count one holder less. The last one closes the folder."""
        with _registry.lock:
            self._holders -= 1
            if self._holders or self._closing:
                return
            self._closing = True
        try:
            self.owned.close()  # without the lock, which a thread of the engine may need to finish
        finally:
            with _registry.lock:
                if _registry.folders.get(self._path) is self:
                    del _registry.folders[self._path]
            self._closed.set()


class _Registry:
    """The open folders by path."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything; in a forked child, the folders are open in its parent."""
        #: Reentrant, because a garbage collection inside it can release a folder.
        self.lock = threading.RLock()
        self.folders: dict[Path, OpenFolder] = {}


_registry = _Registry()
if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_registry.reset)


def hold_folder(path: str | os.PathLike[str], owned: ExitStack) -> OpenFolder:
    """Return the open folder at this path, a new one if there is none. `owned` releases it."""
    resolved = Path(path).expanduser().resolve()
    while True:
        with _registry.lock:
            found = _registry.folders.get(resolved)
            if found is None or found.is_gone:
                found = _registry.folders[resolved] = OpenFolder(resolved)
            held = found.hold()
        if held:
            owned.callback(found.release)
            return found
        found.wait_until_closed()


def hold_folder_for_reading(path: str | os.PathLike[str], owned: ExitStack) -> OpenFolder:
    """Return the folder at this path if this process has it open, otherwise a private copy. `owned` releases it."""
    resolved = Path(path).expanduser().resolve()
    with _registry.lock:
        found = _registry.folders.get(resolved)
        held = found if found is not None and not found.is_gone and found.hold() else None
    if held is not None:
        owned.callback(held.release)
        with held.opening:
            if held.engine is not None:
                return held
    if found is not None and held is None and not found.is_gone:
        found.wait_until_closed()
    copy = OpenFolder.copy_of(resolved)
    owned.callback(copy.release)
    return copy

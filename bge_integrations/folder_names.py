"""The names that hubs, archives and copies give to the folder of a published checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

#: A branch, or a commit: 40 hex digits, or at least 7 with a letter and a digit, so that no word or date is one.
_REVISION = r"(?:main|master|head|[0-9a-f]{40}|(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{7,39})"
#: The last parts of a path that say where in a hub's cache a model lies, but not which model it is.
_PLACE_IN_CACHE = re.compile(
    rf"/(?:{_REVISION}|snapshots?(?:/(?:{_REVISION}|v?\d+(?:\.\d+)*))?|blobs|versions/\d+"
    r"|(?:transformers|pytorch)/[^/]+/(?:versions/)?\d+)$"
)
#: What archives, file managers and hubs append to a name.
_SUFFIX = re.compile(
    rf"(?:[-_.@: ]+{_REVISION}|[@:](?:latest|v?\d+(?:\.\d+)*)|\.(?:git|zip|tar|tgz|gz|bz2|xz|7z)"
    r"|\s*\((?:\d+|copy)\)|\s\d{1,2}|[-_ ]+(?:copy|kopie|copie|copia|副本)(?:[-_ ]?\d+)?)$"
)
_SEPARATORS = re.compile(r"[-_.+@:%\s]+")


def name_key(name: str) -> str:
    """Return the name without case and separators: hubs that forbid dots write v1.5 as v1___5, v1_5, v1-5 or v15."""
    return _SEPARATORS.sub("", name.lower())


def possible_names(path: str) -> Iterator[str]:
    """Yield the model names that a path may contain, in lower case: first its last part as it is, then shorter ones."""
    parts = "/".join(unquote(part).lower() for part in Path(path).parts)
    while True:
        name = parts.rpartition("/")[2]
        while name:
            yield name
            shorter = _SUFFIX.sub("", name)
            if shorter == name:
                break
            name = shorter
        above = _PLACE_IN_CACHE.sub("", parts)
        if above == parts and (head := _hub_snapshot(parts)):
            above = head
        if above == parts:
            return
        parts = above


def _hub_snapshot(parts: str) -> str:
    """Return the folder `models--owner--name` if this is the path of one of its snapshots, whatever its revision."""
    folder, _, snapshot = parts.rpartition("/snapshots/")
    is_hub = folder.rpartition("/")[2].startswith("models--") and "/" not in snapshot
    return folder if is_hub else ""

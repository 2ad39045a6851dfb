"""The inputs of a job: files on this machine or in object stores, or a data set of Hugging Face."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal

import fsspec

from bge_integrations.errors import InvalidInputError

if TYPE_CHECKING:
    from datasets import Dataset
    from fsspec import AbstractFileSystem

Format = Literal["jsonl", "parquet", "arrow", "dataset"]
_FORMATS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
#: Bytes at each end of a file that its digest is made from.
_DIGESTED = 1 << 20


@dataclass(frozen=True)
class InputFile:
    """A file of rows, or a data set of Hugging Face.

    Attributes:
        url: Its path, or its URL on another file system than this machine's; of a data set, its name.
        format: What it contains.
        size: Its size in bytes; of a data set, the number of its rows.
        digest: A fingerprint of its size and of its first and last megabyte; of a data set, its own fingerprint.
        dataset: The data set; it is not written into the plan.
    """

    url: str
    format: Format
    size: int
    digest: str
    dataset: Dataset | None = field(default=None, compare=False, repr=False)

    @property
    def is_compressed(self) -> bool:
        return self.url.endswith(".gz")

    def open(self) -> IO[bytes]:
        """Open the file for reading; a compressed one is decompressed."""
        opened: Any = fsspec.open(self.url, "rb", compression="gzip" if self.is_compressed else None)
        stream: IO[bytes] = opened.open()
        return stream


def find_inputs(inputs: str | Sequence[str] | Dataset) -> list[InputFile]:
    """Return the files of rows behind paths, folders, patterns and URLs, sorted by name, each once.

    Args:
        inputs: Such as "rows.jsonl", "corpus/", "corpus/*.parquet" or "s3://bucket/corpus". Folders are searched with
            their subfolders; files and folders whose names start with "." or "_" are left out. Or a data set.

    Raises:
        InvalidInputError: One of them names no file of rows, or a data set has several splits or is a stream.
        ImportError: The file system of a URL needs another package.
    """
    if type(inputs).__module__.split(".")[0] == "datasets":  # without importing it
        return [_described(inputs)]
    found: dict[str, InputFile] = {}
    for given in [inputs] if isinstance(inputs, str) else inputs:
        if not given:
            raise InvalidInputError("an input is empty", argument="inputs", advice="pass a file, folder or pattern")
        system, path = fsspec.core.url_to_fs(given)
        paths = [each for each in sorted(_expand(system, path)) if _format_of(each)]
        if not paths:
            raise InvalidInputError(
                f"{given} has no file of rows",
                argument="inputs",
                advice=f"pass files that end with {', '.join(_FORMATS)}, a folder of them, or a pattern",
            )
        for each in paths:
            url = each if is_local(system) else system.unstrip_protocol(each)
            found.setdefault(url, _describe(system, each, url))
    return sorted(found.values(), key=lambda file: file.url)


def _described(given: Any) -> InputFile:
    from datasets import Dataset

    if not isinstance(given, Dataset):
        raise InvalidInputError(
            f"inputs is a {type(given).__name__}",
            argument="inputs",
            advice='pass one split that is not a stream, such as dataset["train"]',
        )
    name = str(given.info.dataset_name or "dataset")
    return InputFile(name, "dataset", len(given), given._fingerprint, given)


def _expand(system: AbstractFileSystem, path: str) -> Iterable[str]:
    if any(character in path for character in "*?["):
        return [each for each in system.glob(path) if system.isfile(each)]
    if system.isdir(path):
        inside = len(path.rstrip("/"))
        return [
            each for each in system.find(path) if not any(part[:1] in "._" for part in each[inside:].split("/")[1:])
        ]
    return [path] if system.isfile(path) else []


def _format_of(path: str) -> Format | None:
    return next((form for suffix, form in _FORMATS.items() if path.endswith(suffix)), None)


def is_local(system: AbstractFileSystem) -> bool:
    """Return whether a file system is this machine's."""
    return "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)


def _describe(system: AbstractFileSystem, path: str, url: str) -> InputFile:
    size = int(system.size(path))
    fingerprint = hashlib.blake2b(str(size).encode(), digest_size=16)
    with system.open(path, "rb") as stream:
        fingerprint.update(stream.read(_DIGESTED))
        if size > _DIGESTED:
            stream.seek(max(_DIGESTED, size - _DIGESTED))
            fingerprint.update(stream.read())
    form = _format_of(path)
    assert form is not None
    return InputFile(url, form, size, fingerprint.hexdigest())

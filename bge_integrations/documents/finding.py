"""Find the files of a folder that can be read, and count the others."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from bge_integrations.documents.pictures import PICTURE_SUFFIXES
from bge_integrations.documents.reading import DOCUMENT_SUFFIXES, SUFFIXES
from bge_integrations.errors import InvalidInputError
from bge_integrations.optional import import_library
from bge_integrations.validation import check_list

#: The files that an M3Index keeps in its folder, which may be inside the folder that it is made from.
_INDEX_FILES = ("manifest.json", "current.json")


@dataclass(frozen=True)
class Survey:
    """The files in a folder.

    Attributes:
        files: The files to read, sorted.
        passed_over: Number of other files and folders by kind: ".zip", "without suffix", "hidden", "excluded", "index",
            "linked folder". A folder counts once. The most frequent kinds come first.
    """

    files: list[Path]
    passed_over: dict[str, int]


def find_files(
    path: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = (), follow_links: bool = False
) -> list[Path]:
    """Return the supported files in a folder and its subfolders, sorted and without hidden ones; or `path`, if a file.

    Args:
        path: A folder or a file.
        include: Patterns as in .gitignore, such as "*.md" or "guides/**"; only files that match one are returned.
        exclude: Patterns of files and folders to leave out, such as "drafts/".
        follow_links: Also search linked folders. Each folder is searched once, so circles of links do no harm.

    Raises:
        InvalidInputError: The path does not exist, contains no such file, or has a folder that can't be read; or a
            pattern is invalid.
    """
    return survey(path, include=include, exclude=exclude, follow_links=follow_links).files


def survey(
    path: Path,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    follow_links: bool = False,
    pictures: bool = False,
) -> Survey:
    """Return the files that `find_files` returns, with `pictures` also pictures, and count the others.

    Other arguments and errors are as in `find_files`.
    """
    suffixes = {*SUFFIXES, *(PICTURE_SUFFIXES if pictures else ())}
    included, excluded = _matcher(include, "include"), _matcher(exclude, "exclude")
    kinds: Counter[str] = Counter()
    files: list[Path] = []
    found: Iterator[tuple[Path, str | None]]
    if path.is_file():
        if path.suffix.lower() not in suffixes:
            raise InvalidInputError(
                f"{path} is not a supported file", advice=f"convert it to one of {', '.join(DOCUMENT_SUFFIXES)}"
            )
        found = iter([(path, None)])
        root = path.parent
    elif path.is_dir():
        found = _walk(path, excluded, follow_links)
        root = path
    else:
        raise InvalidInputError(f"{path} does not exist", advice="check the path")
    for file, kind in found:
        kind = kind or _kind_passed_over(file, suffixes)
        name = _name(file, root)
        if kind is None and ((included and not included(name)) or (excluded and excluded(name))):
            kind = "excluded"
        if kind is None:
            files.append(file)
        else:
            kinds[kind] += 1
    if not files:
        advice = (
            "change the patterns" if kinds["excluded"] else f"add files that end with {', '.join(DOCUMENT_SUFFIXES)}"
        )
        raise InvalidInputError(f"{path} contains no supported files", advice=advice)
    return Survey(sorted(files), dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0]))))


def sources_of(files: Sequence[Path], path: Path) -> list[str]:
    """Return the `Passage.source` of each file in `path`, which is a folder or the file itself.

    Sources are in NFC, so that a name is the same on every system. If two names differ only in their form, which some
    file systems allow, the one that is not in NFC stays as it is.
    """
    names = [file.relative_to(path).as_posix() if path.is_dir() else file.name for file in files]
    composed = [unicodedata.normalize("NFC", name) for name in names]
    taken = Counter(composed)
    return [
        name if name != source and taken[source] > 1 else source for name, source in zip(names, composed, strict=True)
    ]


def _matcher(patterns: Sequence[str], argument: str) -> Callable[[str], bool] | None:
    """Return a function that says whether a name in a folder matches a pattern; None if there are no patterns."""
    each_is_text = all(isinstance(each, str) for each in check_list(patterns, argument, "patterns"))
    if isinstance(patterns, str) or not each_is_text:
        raise InvalidInputError(f"{argument}={patterns!r} must be a list of patterns", argument=argument)
    given = [unicodedata.normalize("NFC", pattern) for pattern in patterns]
    if not given:
        return None
    library = import_library("pathspec", "files", "matching patterns")
    try:
        matches: Callable[[str], bool] = library.GitIgnoreSpec.from_lines(given).match_file
    except ValueError as error:
        raise InvalidInputError(f"{argument}={given} has an invalid pattern ({error})", argument=argument) from error
    return matches


def _name(file: Path, root: Path) -> str:
    return unicodedata.normalize("NFC", file.relative_to(root).as_posix())


def _walk(path: Path, excluded: Callable[[str], bool] | None, follow_links: bool) -> Iterator[tuple[Path, str | None]]:
    """Yield all files, with None, and the folders that are not searched, with the reason."""
    searched = {path.resolve()}
    for folder, folders, names in os.walk(path, onerror=_raise_unreadable, followlinks=follow_links):
        inner: list[str] = []
        for name in sorted(folders):
            subfolder = Path(folder, name)
            if name.startswith("."):
                yield subfolder, "hidden"
            elif excluded and excluded(_name(subfolder, path) + "/"):
                yield subfolder, "excluded"
            elif all((subfolder / file).is_file() for file in _INDEX_FILES):
                yield subfolder, "index"
            elif subfolder.is_symlink() and not _is_new(subfolder, searched, follow_links):
                yield subfolder, "linked folder"
            else:
                inner.append(name)
        folders[:] = inner
        yield from ((Path(folder, name), None) for name in names)


def _is_new(link: Path, searched: set[Path], follow_links: bool) -> bool:
    """Return whether a linked folder is to be searched: neither it nor a folder around it is, nor is it around one."""
    target = link.resolve()
    if not follow_links or any(target.is_relative_to(other) or other.is_relative_to(target) for other in searched):
        return False
    searched.add(target)
    return True


def _kind_passed_over(file: Path, suffixes: Set[str]) -> str | None:
    """Return the kind of a file that is not read, or None if it is: if it has one of the suffixes."""
    if file.name.startswith("."):
        return "hidden"
    suffix = file.suffix.lower()
    if suffix not in suffixes:
        return suffix.encode("utf-8", "backslashreplace").decode() or "without suffix"
    return None if file.is_file() else "broken link" if file.is_symlink() else "not a file"


def _raise_unreadable(error: OSError) -> None:
    raise InvalidInputError(
        f"{error.filename} can't be read ({error.strerror})", advice="make it readable, or move it out of the folder"
    ) from error

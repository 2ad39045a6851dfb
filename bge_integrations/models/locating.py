"""Find a checkpoint by its name: a folder, "pocket", or a repository of the hub, which is downloaded."""

from __future__ import annotations

import difflib
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bge_integrations import catalog
from bge_integrations.atomic_files import link_files
from bge_integrations.catalog import POCKET
from bge_integrations.errors import BGEError, CheckpointError, CheckpointNotFoundError, UnknownModelError
from bge_integrations.models.architecture import check_architecture
from bge_integrations.models.checkpoint import (
    M3_HEADS,
    TEMPLATE_FILE,
    TOKENIZER_FILES,
    WEIGHT_FILES,
    has_config_and_tokenizer,
    is_complete,
    read_config,
    tensor_files,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: Seconds to wait for the hub.
_HUB_TIMEOUT = 20.0
_POCKET_FOLDER = Path(__file__).parent.parent / "pocket"


def locate(
    model: str | os.PathLike[str],
    kind: catalog.Kind | Literal["generator"],
    *,
    revision: str | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
) -> tuple[str, Path]:
    """Return the full name and the folder of a checkpoint.

    `kind` says which pocket model is meant, and generators may have any architecture.

    `model` is a folder, "pocket", a hub id, or a catalogued name without its owner. A checkpoint that is complete in
    the hub's cache is used without any network call; otherwise it is downloaded.

    Raises:
        CheckpointNotFoundError: No such folder, or not in the cache and the download failed.
        UnknownModelError: The name is not a path, not a hub id and not in the catalogue.
        NotSupportedError: Its architecture can't be run; its weights were not downloaded.
    """
    name = os.fspath(model)
    folder = Path(name).expanduser()
    if name == POCKET:
        return name, _POCKET_FOLDER / kind
    if folder.is_dir():
        return name, folder
    if folder.exists():
        raise CheckpointNotFoundError(f"{name} is a file; pass the folder with config.json and the weights")
    if name.startswith((".", "/", "~")) or name.endswith("/") or "\\" in name or name.count("/") > 1:
        raise CheckpointNotFoundError(f"there is no folder {name}; pass a checkpoint folder or a hub id owner/name")
    row = catalog.find(name)
    if row is not None and name.lower() in (row.short_name, row.name.lower()):
        name = row.name
    elif name.lower() in ("baai/bge-visualized", "bge-visualized"):
        models = [row.name for row in catalog.CHECKPOINTS if row.parts is not None]
        raise UnknownModelError(f"{name} is the repository of several models", advice=f"load {' or '.join(models)}")
    elif "/" not in name:
        choices = "pass a folder, a hub id owner/name, or a name that `bge models` lists"
        hint = did_you_mean(name)
        raise UnknownModelError(f"unknown model {name!r}", advice=f"{hint} Otherwise {choices}" if hint else choices)
    where: dict[str, Any] = {"revision": revision, "cache_folder": cache_folder, "local_files_only": local_files_only}
    if row is not None and row.parts is not None:
        return name, _assembled(row, row.parts, **where)
    check = _accept_any if kind == "generator" else check_architecture
    return name, _from_hub(name, **where, is_usable=partial(_is_usable, row=row), wanted=_wanted, check=check)


def published(name: str, folder: Path) -> catalog.Checkpoint | None:
    """Return the catalogue's row of a located checkpoint; None if nothing says which one it is.

    The row is that of `name` if it is known; otherwise that of the folder's own path (`name` may be "."), of what a
    symbolic link points to, or of the folder that the weights are linked from.
    """
    row = catalog.find(name)
    if row is not None or name == POCKET:
        return row
    return next((row for place in _places(folder) if (row := catalog.find(os.fspath(place)))), None)


def _places(folder: Path) -> Iterator[Path]:
    """Yield the paths under which a folder is known, from the one that was given to its real one."""
    path = Path(os.path.abspath(folder))
    yield path
    shell = os.environ.get("PWD", "")
    if folder == Path() and os.path.isabs(shell) and os.path.isdir(shell) and os.path.samefile(shell, folder):
        yield Path(shell)  # as the user sees it: the working directory itself has no symbolic links
    while path.is_symlink():
        path = path.parent / path.readlink()
        yield Path(os.path.normpath(path))
    yield folder.resolve()
    try:
        files = tensor_files(folder).values()
    except CheckpointError:  # reported when the weights are read
        return
    yield from sorted({file.resolve().parent for file in files if file.is_symlink()})


def did_you_mean(name: str) -> str:
    """Return a question with up to three names that a misspelt name may mean; "" if none is similar."""
    names = {POCKET: POCKET, **{row.short_name: row.name for row in catalog.CHECKPOINTS}}
    near = difflib.get_close_matches(name.rpartition("/")[2].lower(), names, n=3)
    return f"did you mean {' or '.join(names[each] for each in near)}?" if near else ""


def _near(name: str) -> str:
    """Return a hint with similar names from the catalogue, unless this name is in it or is where weights come from."""
    known = [row.name for row in catalog.CHECKPOINTS]
    sources = [row.parts.weights_repository for row in catalog.CHECKPOINTS if row.parts]
    hint = "" if name in known + sources else did_you_mean(name)
    return hint.replace("did", " Did", 1)


def _assembled(
    row: catalog.Checkpoint,
    parts: catalog.Parts,
    *,
    revision: str | None,
    cache_folder: str | None,
    local_files_only: bool,
) -> Path:
    """Return a folder with links to the files of a checkpoint whose weights and text model are in two repositories.

    `revision` is that of the weights. The folder is inside the cache's folder of the weights' repository.
    """
    where: dict[str, Any] = {"cache_folder": cache_folder, "local_files_only": local_files_only}
    weights = _from_hub(
        parts.weights_repository,
        revision=revision,
        **where,
        is_usable=lambda folder: (folder / parts.weights_file).is_file(),
        wanted=lambda files: [file for file in files if file == parts.weights_file],
    )
    text = _from_hub(
        parts.text_model,
        revision=None,
        **where,
        is_usable=has_config_and_tokenizer,
        wanted=lambda files: [f for f in files if "/" not in f and (f.endswith(".json") or f in TOKENIZER_FILES)],
    )
    if not (weights / parts.weights_file).is_file():
        raise CheckpointNotFoundError(f"{parts.weights_repository} has no file {parts.weights_file}")
    folder = weights.parent.parent / "bge_integrations" / f"{weights.name}-{text.name}" / row.short_name
    files = [file for file in text.iterdir() if file.suffix == ".json" or file.name in TOKENIZER_FILES]
    files = [file for file in files if file.name not in (*WEIGHT_FILES, "modules.json")]
    link_files([weights / parts.weights_file, *files], folder)
    return folder


def _accept_any(name: str, config: dict[str, Any]) -> None:
    """Accept any architecture."""


def _is_usable(folder: Path, row: catalog.Checkpoint | None) -> bool:
    """Return whether a folder of the hub's cache has all files of the checkpoint."""
    has_heads = all((folder / head).is_file() for head in M3_HEADS)
    return is_complete(folder) and (has_heads or row is None or row.family != "m3")


def _from_hub(
    name: str,
    *,
    revision: str | None,
    cache_folder: str | None,
    local_files_only: bool,
    is_usable: Callable[[Path], bool],
    wanted: Callable[[Iterable[str]], list[str]],
    check: Callable[[str, dict[str, Any]], None] = check_architecture,
) -> Path:
    """Return a repository's folder in the hub's cache, downloaded unless it is usable already.

    Args:
        name, revision, cache_folder, local_files_only: See `locate`.
        is_usable: Whether a folder has all files that are needed.
        wanted: Selects the files to download from all files of the repository.
        check: Called with the name and the config.json, before the weights are downloaded.
    """
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    where: dict[str, Any] = {"repo_id": name, "revision": revision, "cache_dir": cache_folder}
    try:
        folder = Path(snapshot_download(**where, local_files_only=True))
        if (folder / "config.json").is_file():
            check(name, read_config(folder))
        if is_usable(folder):
            return folder
        cached = f"only a part of it is in the cache ({folder})"
    except (LocalEntryNotFoundError, FileNotFoundError):
        cached = "it is not in the cache"
    except HFValidationError as error:
        raise UnknownModelError(f"{name!r} is neither a folder nor a hub id owner/name ({error})") from None
    advice = (
        f"On a machine with network access, run `hf download {name} --local-dir FOLDER`; copy the folder here and pass "
        "its path. To try this package without a download, use the model 'pocket'." + _near(name)
    )
    if local_files_only:
        raise CheckpointNotFoundError(f"{name}: {cached}, and local_files_only=True forbids the download. {advice}")
    try:
        # model_info fails at once without network; listing the files would retry for 20 seconds
        siblings = HfApi().model_info(name, revision=revision, timeout=_HUB_TIMEOUT).siblings or []
        files = wanted(sibling.rfilename for sibling in siblings)
        if "config.json" in files:
            check(name, read_config(Path(hf_hub_download(**where, filename="config.json")).parent))
        return Path(snapshot_download(**where, allow_patterns=files))
    except BGEError:
        raise
    except GatedRepoError as error:
        raise CheckpointNotFoundError(
            f"{name} is gated: accept its terms on its hub page and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointNotFoundError(
            f"the hub has no model {name}; check the spelling, or log in if it is private.{_near(name)}"
        ) from error
    except Exception as error:  # the hub library lets many kinds of network errors through
        raise CheckpointNotFoundError(
            f"{name}: {cached}, and downloading it failed ({type(error).__name__}: {error}). {advice}"
        ) from None  # the network library's own traceback is long and adds nothing


def _wanted(files: Iterable[str]) -> list[str]:
    """Select the files of a repository that we read: configs, tokenizer, heads, and one format of the weights."""
    files = [f for f in files if not f.startswith(("onnx/", "openvino/", "."))]
    kept = [f for f in files if f.endswith(".json") and not f.endswith(".index.json")]
    kept += [f for f in files if f in (*TOKENIZER_FILES, TEMPLATE_FILE) or f.endswith("_linear.pt")]
    safe = [f for f in files if "/" not in f and f.endswith((".safetensors", ".safetensors.index.json"))]
    binary = [
        f for f in files if f.startswith(("pytorch_model", "adapter_model")) and f.endswith((".bin", ".bin.index.json"))
    ]
    return kept + (safe or binary)

"""Find a checkpoint, and read its files safely."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bge_integrations import catalog
from bge_integrations.errors import CheckpointError, CheckpointNotFoundError, UnknownModelError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

POCKET = "pocket"
M3_HEADS = ("sparse_linear.pt", "colbert_linear.pt")
_HUB_TIMEOUT = 20.0  # seconds
_READ_WHOLE = 16 << 20
_SAMPLE = 4096
_POCKET_FOLDER = Path(__file__).parent.parent / "pocket"
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "tokenizer.model")


def locate(
    model: str | os.PathLike[str],
    kind: catalog.Kind,
    *,
    revision: str | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
) -> tuple[str, Path]:
    """The full name and the folder of a checkpoint.

    `model` is a folder, "pocket", a hub id, or a catalogued name without its owner. What lies complete in the hub's
    cache is used without any network call; otherwise it is downloaded.

    Raises:
        CheckpointNotFoundError: No such folder, or not in the cache and not to be had from the hub.
        UnknownModelError: The name is no path, no hub id and not in the catalogue.
    """
    name = os.fspath(model)
    folder = Path(name).expanduser()
    if name == POCKET:
        return name, _POCKET_FOLDER / kind
    if folder.is_dir():
        return name, folder
    if folder.exists():
        raise CheckpointNotFoundError(f"{name} is a file; pass the folder that holds config.json and the weights")
    if name.startswith((".", "/", "~")) or name.endswith("/") or "\\" in name or name.count("/") > 1:
        raise CheckpointNotFoundError(f"there is no folder {name}; pass a checkpoint folder or a hub id owner/name")
    row = catalog.find(name)
    if row is not None and name.lower() in (row.short_name, row.name.lower()):
        name = row.name
    elif "/" not in name:
        raise UnknownModelError(_unknown(name))
    return name, _from_hub(name, revision, cache_folder, local_files_only)


def _unknown(name: str) -> str:
    known = [row.short_name for row in catalog.CHECKPOINTS]
    near = difflib.get_close_matches(name.lower(), [POCKET, *known], n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"unknown model {name!r}.{hint} Pass a folder, a hub id owner/name, or one of: {', '.join(known)}"


def _near(name: str) -> str:
    """A hint at catalogued names that look like this one, if it is not one of them."""
    known = [row.name for row in catalog.CHECKPOINTS]
    near = [] if name in known else difflib.get_close_matches(name, known, n=3)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _from_hub(name: str, revision: str | None, cache_folder: str | None, local_files_only: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    where: dict[str, Any] = {"repo_id": name, "revision": revision, "cache_dir": cache_folder}
    try:
        folder = Path(snapshot_download(**where, local_files_only=True))
        row = catalog.find(name)
        has_heads = all((folder / head).is_file() for head in M3_HEADS)
        if is_complete(folder) and (has_heads or row is None or row.family != "m3"):
            return folder
        cached = f"only a part of it is in the cache ({folder})"
    except (LocalEntryNotFoundError, FileNotFoundError):
        cached = "it is not in the cache"
    except HFValidationError as error:
        raise UnknownModelError(f"{name!r} is neither a folder nor a hub id owner/name ({error})") from None
    advice = (
        f"On a machine with network run `hf download {name} --local-dir FOLDER`, copy it here, and pass its path; "
        "to try this package without any download, pass model='pocket'." + _near(name)
    )
    if local_files_only:
        raise CheckpointNotFoundError(f"{name}: {cached}, and local_files_only=True forbids the download. {advice}")
    try:
        # model_info is asked once, where listing the files would be retried for 20 seconds without network
        siblings = HfApi().model_info(name, revision=revision, timeout=_HUB_TIMEOUT).siblings or []
        files = _wanted(sibling.rfilename for sibling in siblings)
        return Path(snapshot_download(**where, allow_patterns=files))
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
        ) from None  # the network library's own traceback is long and says no more


def _wanted(files: Iterable[str]) -> list[str]:
    """Of a repository's files, those we read: configs, tokenizer, heads, and one kind of weights."""
    files = [f for f in files if not f.startswith(("onnx/", "openvino/", "."))]
    kept = [f for f in files if f.endswith(".json") and not f.endswith(".index.json")]
    kept += [f for f in files if f in TOKENIZER_FILES or f.endswith("_linear.pt")]
    safe = [f for f in files if "/" not in f and f.endswith((".safetensors", ".safetensors.index.json"))]
    binary = [f for f in files if f.startswith("pytorch_model") and f.endswith((".bin", ".bin.index.json"))]
    return kept + (safe or binary)


def is_complete(folder: Path) -> bool:
    """Whether the folder has a config, a tokenizer and all shards of its weights."""
    if not (folder / "config.json").is_file() or not any((folder / f).is_file() for f in TOKENIZER_FILES):
        return False
    try:
        shards = set(_tensor_files(folder).values())
    except CheckpointError:
        return False
    if len({(folder / head).is_file() for head in M3_HEADS}) > 1:  # one head without the other
        return False
    return all(shard.is_file() for shard in shards)


def fingerprint(folder: Path) -> Hashable:
    """Changes when a file of the folder is written anew or exchanged: each file's name, inode, time and size."""
    files = [(f.name, f.stat()) for f in sorted(folder.iterdir()) if f.is_file()]
    return tuple((name, status.st_ino, status.st_mtime_ns, status.st_size) for name, status in files)


def weights_digest(folder: Path) -> str:
    """SHA-256 of the weights and heads in a folder: the same wherever it lies and whatever it is called.

    Of large files a sample is read, 4 kB of each megabyte: enough to tell any two trainings apart, in milliseconds.
    """
    files = {*_tensor_files(folder).values(), *(folder / head for head in M3_HEADS if (folder / head).is_file())}
    whole = hashlib.sha256()
    for file in sorted(files):
        size = file.stat().st_size
        step = _SAMPLE if size <= _READ_WHOLE else 1 << 20
        whole.update(size.to_bytes(8, "little"))
        with file.open("rb") as opened:
            for offset in range(0, size, step):
                opened.seek(offset)
                whole.update(opened.read(_SAMPLE))
    return whole.hexdigest()


def parse_json(path: Path) -> Any:
    """Whatever a JSON file of the checkpoint holds."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); download it again") from error


def read_json(folder: Path, file: str) -> dict[str, Any] | None:
    """The object in a JSON file of the checkpoint; None where there is no such file."""
    path = folder / file
    if not path.is_file():
        return None
    content = parse_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} should hold a JSON object")
    return content


def read_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder, "config.json")
    if config is None:
        raise CheckpointError(f"{folder} has no config.json; is it a checkpoint folder?")
    return config


def _tensor_files(folder: Path) -> dict[str, Path]:
    """{tensor name: file}; the name "*" stands for a single file whose names are read from itself."""
    for name in _WEIGHT_FILES:
        if not (folder / name).is_file():
            continue
        if not name.endswith(".index.json"):
            return {"*": folder / name}
        index = (read_json(folder, name) or {}).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
            raise CheckpointError(f"{folder / name} has no weight_map; download it again")
        return {tensor: folder / file for tensor, file in index.items()}
    raise CheckpointError(f"{folder} has no weights; one of these is needed: {', '.join(_WEIGHT_FILES)}")


def read_state(file: Path) -> Mapping[str, torch.Tensor]:
    """The tensors of a `.pt` or `.bin` file, read with `weights_only=True`: no code in it can run."""
    if not file.is_file():
        raise CheckpointError(f"{file} is missing; this checkpoint can't be used without it")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds more than tensors or is damaged, and is refused ({str(error).splitlines()[0]})"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{file} is cut short or damaged ({error}); download it again") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise CheckpointError(f"{file} should hold a dict of tensors by name")
    return state


class Weights:
    """The tensors of a checkpoint folder by name, read when taken.

    A safetensors file is mapped for each tensor anew, so that its pages leave memory when the tensor does: a large
    model that is converted on the way then takes what it takes converted, and not the size of its files besides. What
    is kept must be copied, or it keeps a mapping of the whole file.

    Raises:
        CheckpointError: No weights, a shard is missing, or a file is cut short; the message names the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = _tensor_files(folder)
        self._stored: dict[str, tuple[Path, str]] = {}
        self._states: dict[Path, Mapping[str, torch.Tensor]] = {}
        for file in dict.fromkeys(files.values()):
            for name in self._names(file):
                self._stored[_todays_name(name)] = file, name
        for name, file in files.items():
            if name != "*" and self._stored.get(_todays_name(name)) != (file, name):
                raise CheckpointError(f"{file} lacks the tensor {name} that the index says it holds")

    def _names(self, file: Path) -> Iterable[str]:
        if file.suffix != ".safetensors":
            self._states[file] = read_state(file)
            return self._states[file].keys()
        with _safetensors(file) as opened:
            names: list[str] = opened.keys()
        return names

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def prefix_of(self, name: str) -> str:
        """What stands before `name` in this checkpoint: "bert.", "roberta." or ""."""
        for stored in self._stored:
            if stored == name or stored.endswith("." + name):
                return stored.removesuffix(name)
        raise CheckpointError(
            f"{self.folder}: no tensor {name} in the weights (found {', '.join(list(self._stored)[:5])} …)"
        )

    def take(self, name: str, *shape: int) -> torch.Tensor:
        """The tensor `name`, as stored, after a check of its shape (-1 matches any size): to be copied, see above."""
        if name not in self._stored:
            raise CheckpointError(f"{self.folder}: the weights lack the tensor {name}")
        file, stored = self._stored[name]
        if file in self._states:
            return fitting(file, name, self._states[file][stored], shape)
        with _safetensors(file) as opened:
            return fitting(file, name, opened.get_tensor(stored), shape)


def _safetensors(file: Path) -> Any:
    """The file opened, as a context manager."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise CheckpointError(f"{file} is missing; the weights are incomplete, download it again")
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is cut short or damaged ({error}); download it again") from error


def _todays_name(name: str) -> str:
    """Checkpoints from TensorFlow, and BERTs that transformers 5.0 saved, call a norm's weight and bias so."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def fitting(file: Path, name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """`tensor` if it is floating point and of that shape (-1 matches any size), else an error that names it."""
    if not isinstance(tensor, torch.Tensor):
        raise CheckpointError(f"{file}: {name} is no tensor")
    fits = tensor.dim() == len(shape) and all(
        want in (-1, have) for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        raise CheckpointError(f"{file}: tensor {name} has shape {tuple(tensor.shape)}, config.json asks for {shape}")
    if not tensor.is_floating_point():
        raise CheckpointError(f"{file}: tensor {name} is {tensor.dtype}; only floating-point weights can be read")
    return tensor

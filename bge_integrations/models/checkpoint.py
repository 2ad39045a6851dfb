"""A checkpoint's folder: its small files, which weights it has, and its identity."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

M3_HEADS = ("sparse_linear.pt", "colbert_linear.pt")
#: `weights_digest` reads all of a file up to this many bytes, and a sample per megabyte of larger ones.
_READ_WHOLE = 16 << 20
#: Bytes per sample.
_SAMPLE = 4096
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
#: Maximum characters of a path in a checkpoint's files; systems refuse longer names.
LONGEST_NAME = 200
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
#: How a Git LFS pointer begins, and more bytes than one has.
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LARGEST_POINTER = 1024
#: The chat template of a language model.
TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "tokenizer.model")


def has_config_and_tokenizer(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in TOKENIZER_FILES)


def is_complete(folder: Path) -> bool:
    """Return whether the folder has a config, a tokenizer and all shards of its weights, or a whole adapter."""
    if is_adapter(folder):
        return (folder / ADAPTER_CONFIG).is_file() and any((folder / file).is_file() for file in ADAPTER_FILES)
    if not has_config_and_tokenizer(folder):
        return False
    try:
        shards = set(tensor_files(folder).values())
    except CheckpointError:
        return False
    if len({(folder / head).is_file() for head in M3_HEADS}) > 1:  # one head without the other
        return False
    return all(shard.is_file() for shard in shards)


def is_adapter(folder: Path) -> bool:
    """Return whether a folder has an adapter (LoRA and the like) but no weights of a whole model."""
    weights = ("model*.safetensors", "pytorch_model*.bin")
    files = [folder / ADAPTER_CONFIG, *folder.glob("adapter_model.*")]
    return any(file.exists() for file in files) and not any(any(folder.glob(pattern)) for pattern in weights)


def fingerprint(folder: Path) -> Hashable:
    """Return the name, inode, time and size of each file, which change when a file is rewritten or replaced."""
    files = [(f.name, f.stat()) for f in sorted(folder.iterdir()) if f.is_file()]
    return tuple((name, status.st_ino, status.st_mtime_ns, status.st_size) for name, status in files)


def weights_digest(folder: Path) -> str:
    """Return the SHA-256 of a folder's weights and heads, independent of the folder's path.

    Large files are sampled, 4 kB per megabyte: this takes milliseconds and tells any two training runs apart.
    """
    files = {*tensor_files(folder).values(), *(folder / head for head in M3_HEADS if (folder / head).is_file())}
    whole = hashlib.sha256()
    hash_files(whole, sorted(files))
    return whole.hexdigest()


def hash_files(whole: hashlib._Hash, files: Iterable[Path]) -> None:
    """Add the sizes and contents of files to a hash; large files are sampled."""
    for file in files:
        size = file.stat().st_size
        step = _SAMPLE if size <= _READ_WHOLE else 1 << 20
        whole.update(size.to_bytes(8, "little"))
        with file.open("rb") as opened:
            for offset in range(0, size, step):
                opened.seek(offset)
                whole.update(opened.read(_SAMPLE))


def check_not_pointer(file: Path) -> None:
    """Raise CheckpointError if the file is what Git LFS or git-annex leaves in place of a large file."""
    if file.is_symlink() and ".git/annex/" in str(file.readlink()) and not file.exists():
        tool, command = "git-annex", "git annex get ."
    elif file.is_file() and file.stat().st_size <= _LARGEST_POINTER and file.read_bytes().startswith(_LFS_POINTER):
        tool, command = "Git LFS", "git lfs install && git lfs pull"
    else:
        return
    raise CheckpointError(
        f"{file} is a {tool} pointer: the repository was cloned without its large files",
        advice=f"run `{command}` in {file.parent}, or download the model with `hf download`",
    )


def parse_json(path: Path) -> Any:
    """Return the content of a JSON file of the checkpoint."""
    check_not_pointer(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); download it again") from error


def read_json(folder: Path, file: str) -> dict[str, Any] | None:
    """Return the object in a JSON file of the checkpoint; None if there is no such file."""
    path = folder / file
    if not path.is_file():
        return None
    content = parse_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must contain a JSON object; download it again")
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """Return the checkpoint's config.json."""
    config = read_json(folder, "config.json")
    if config is None:
        raise CheckpointError(f"{folder} has no config.json; pass a checkpoint folder")
    return config


def tensor_files(folder: Path) -> dict[str, Path]:
    """Return {tensor name: file}; "*" stands for all names of a single file without an index."""
    for name in WEIGHT_FILES:
        check_not_pointer(folder / name)
        if not (folder / name).is_file():
            continue
        if not name.endswith(".index.json"):
            return {"*": folder / name}
        index = (read_json(folder, name) or {}).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
            raise CheckpointError(f"{folder / name} has no weight_map; download it again")
        if outside := next(
            (file for file in index.values() if Path(file).name != file or len(file) > LONGEST_NAME), None
        ):
            raise CheckpointError(
                f"{folder / name} names {outside[:LONGEST_NAME]!r}, which is not a file in its folder"
            )
        return {tensor: folder / file for tensor, file in index.items()}
    if (visualized := visualized_weights(folder)) is not None:
        return {"*": visualized}
    raise CheckpointError(f"{folder} has no weights; one of these is needed: {', '.join(WEIGHT_FILES)}")


def visualized_weights(folder: Path) -> Path | None:
    """Return the folder's weights of a Visualized-BGE model; None if there are none.

    Raises:
        CheckpointError: There are several.
    """
    found = sorted(folder.glob("Visualized_*.pth"))
    if len(found) > 1:
        raise CheckpointError(
            f"{folder} has the weights of {len(found)} models: {', '.join(file.name for file in found)}",
            advice="keep one, beside config.json and the tokenizer of its text model",
        )
    return found[0] if found else None


def weight_bytes(folder: Path) -> int:
    """Return the size of a folder's weight files in bytes."""
    return sum(file.stat().st_size for file in set(tensor_files(folder).values()))

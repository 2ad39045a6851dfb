"""The folder of a model that was made from another one: its settings, tokenizer and sentence-transformers files."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bge_integrations.atomic_files import sync_folder
from bge_integrations.errors import InvalidInputError, NotSupportedError, UnknownModelError
from bge_integrations.models.checkpoint import parse_json, read_config
from bge_integrations.models.profile import embedder_profile
from bge_integrations.training.checkpoint_files import copy_small_files
from bge_integrations.training.embedder_files import write_sentence_transformers_files

if TYPE_CHECKING:
    import torch

#: What a mix copies besides the files that a trained model gets too.
_ALSO_COPIED = ("config.json", "generation_config.json", "*.jinja", "LICENSE*")
#: Families that these files can describe; the others need `family=` when they are loaded.
_SAID_BY_FILES = ("encoder", "m3", "decoder")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `target` when the block ends; if it raises, there is no `target`.

    Until then it is `.NAME.RANDOM.new` beside it; only a killed process leaves one behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
    try:
        new.mkdir()
        yield new
        for file in new.rglob("*"):
            if file.is_file():
                with file.open("rb+") as opened:
                    os.fsync(opened.fileno())
        if target.exists():
            target.rmdir()  # it was empty
        new.rename(target)
        sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def copy_settings(name: str, source: Path, folder: Path) -> None:
    """Copy a checkpoint's config, tokenizer and sentence-transformers files; write the latter if it has none.

    Args:
        name: The name of the checkpoint.
        source: Its folder.
        folder: Where to copy them.

    Raises:
        NotSupportedError: A module of its own, such as a Dense layer, has weights.
    """
    has_modules = (source / "modules.json").is_file()
    for module in parse_json(source / "modules.json") if has_modules else ():
        for file in (source / module["path"]).glob("*") if module.get("path") else ():
            if file.suffix != ".json":
                raise NotSupportedError(
                    f"{file} belongs to a module that can't be mixed",
                    advice="mix models whose modules are a transformer, a pooling and a normalization",
                )
    copy_small_files(source, folder, also=_ALSO_COPIED)
    if not has_modules:
        _describe_embedder(name, source, folder)


def set_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Write the weights' type to config.json, if it says any."""
    config = read_config(folder)
    for key in ("dtype", "torch_dtype"):
        if key in config:
            config[key] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", "utf-8")


def write_mix_card(folder: Path, name: str, models: Sequence[str], weights: Sequence[float]) -> None:
    """Write a README.md with the models and weights of a mix."""
    rows = "\n".join(f"| {model} | {weight:g} |" for model, weight in zip(models, weights, strict=True))
    table = f"| model | weight |\n|---|---|\n{rows}\n"
    text = f"# {name}\n\nA mix (LM-Cocktail) of these models, made with `bge mix`:\n\n{table}"
    (folder / "README.md").write_text(text, "utf-8")


def _describe_embedder(name: str, source: Path, folder: Path) -> None:
    """Write sentence-transformers' files, if the checkpoint is an embedder that they can describe."""
    try:
        profile = embedder_profile(name, source)
    except (InvalidInputError, UnknownModelError):
        return  # a reranker, or a model that can only be loaded with family= or task=
    if profile.family not in _SAID_BY_FILES:
        return
    width = int(read_config(source)["hidden_size"])
    write_sentence_transformers_files(folder, profile, width, normalize=True, max_length=profile.max_length)

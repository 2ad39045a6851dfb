"""The files that say how sentence-transformers runs an embedder that was trained or mixed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bge_integrations.catalog import Pooling
    from bge_integrations.models.profile import EmbedderProfile

_FLAGS: dict[Pooling, str] = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last_token": "pooling_mode_lasttoken",
}


def write_sentence_transformers_files(
    folder: Path, profile: EmbedderProfile, width: int, normalize: bool, max_length: int | None
) -> None:
    """Write the pooling, normalization and prompts of an embedder.

    Without these files, sentence-transformers would pool the mean of all tokens and use no instruction.

    Args:
        folder: The model's.
        profile: How it was trained.
        width: The size of its vectors.
        normalize: Whether they have unit length.
        max_length: Maximum number of tokens; None leaves it to the model.
    """
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    _write(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    for path, _ in modules[1:]:
        (folder / path).mkdir()
    flags = {flag: flag == _FLAGS[profile.pooling] for flag in _FLAGS.values()}
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **flags, "include_prompt": True})
    if max_length is not None:
        _write(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    instructions = profile.instructions
    _write(
        folder / "config_sentence_transformers.json",
        {
            "prompts": {"query": instructions.query, "document": instructions.passage},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if normalize else "dot",
        },
    )


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

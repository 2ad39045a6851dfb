"""The files by which other libraries run a trained LLM reranker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bge_integrations.models.checkpoint import TEMPLATE_FILE
from bge_integrations.models.reranker_template import reranker_template

_LOGITS = {"method": "forward", "method_output_name": "logits"}
_HEAD_FOLDER = "1_LogitScore"


def write_cross_encoder_files(folder: Path, prompt: str, yes_token: int) -> None:
    """Write how sentence-transformers' CrossEncoder scores pairs with a language model.

    `load_reranker` recognises the model and its prompt by the chat template.

    Args:
        folder: The trained model, or its adapter.
        prompt: The question after each pair.
        yes_token: The token whose logit is the score.
    """
    modules = [
        ("", "sentence_transformers.base.modules.transformer.Transformer"),
        (_HEAD_FOLDER, "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"),
    ]
    contents: dict[str, Any] = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)
        ],
        "sentence_bert_config.json": {
            "transformer_task": "text-generation",
            "modality_config": {"text": _LOGITS, "message": {**_LOGITS, "format": "flat"}},
            "module_output_name": "causal_logits",
        },
        "config_sentence_transformers.json": {
            "model_type": "CrossEncoder",
            "activation_fn": "torch.nn.modules.linear.Identity",
            "prompts": {},
        },
        f"{_HEAD_FOLDER}/config.json": {
            "true_token_id": yes_token,
            "false_token_id": None,
            "module_input_name": "causal_logits",
        },
    }
    (folder / _HEAD_FOLDER).mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / TEMPLATE_FILE).write_text(reranker_template(prompt), encoding="utf-8", newline="")

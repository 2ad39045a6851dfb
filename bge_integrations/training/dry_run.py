"""Estimate the memory and time of a fine-tuning without loading the model's weights."""

from __future__ import annotations

import math

from bge_integrations.models.decoder_config import DECODER_TYPES
from bge_integrations.optional import needed_by
from bge_integrations.training.fine_tuning import FineTuning

with needed_by(__name__, "bge-integrations[train]"):
    import torch
    from torch import Tensor, nn
    from transformers import AutoConfig, AutoModel

    from bge_integrations.training.backbone import with_lora
    from bge_integrations.training.estimate import Estimate, estimate_training
    from bge_integrations.training.run import device_and_precision


def estimate_fine_tuning(plan: FineTuning) -> Estimate:
    """Return what a fine-tuning will take on this machine, for batches of rather long texts (the 95th percentile)."""
    settings = plan.settings
    config = AutoConfig.from_pretrained(str(plan.source.weights), local_files_only=True)
    model = nn.Module()
    with torch.device("meta"):  # sizes only
        model.backbone = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
        if config.model_type in DECODER_TYPES if settings.lora is None else settings.lora:
            model.backbone = with_lora(model.backbone, "", "FEATURE_EXTRACTION", settings)
    on_cpu, precision = device_and_precision(settings)
    batches = len(plan.rows) / settings.batch_size * settings.epochs
    if settings.max_steps is not None:
        batches = settings.max_steps * settings.accumulation_steps
    return estimate_training(
        model,
        _batch(plan),
        precision,
        torch.device("cpu" if on_cpu else "cuda"),
        math.ceil(batches),
        getattr(settings, "sub_batch_size", None),
        settings.gradient_checkpointing,
    )


def _batch(plan: FineTuning) -> dict[str, Tensor]:
    settings, statistics = plan.settings, plan.statistics
    assert statistics.query_tokens is not None
    assert statistics.passage_tokens is not None
    queries = settings.batch_size
    passages = queries * (settings.group_size if statistics.with_negatives else 1)
    query = min(math.ceil(statistics.query_tokens.p95), settings.query_max_length)
    passage = min(math.ceil(statistics.passage_tokens.p95), settings.passage_max_length)
    if plan.kind == "reranker":
        return {"input_ids": torch.zeros(passages, query + passage, dtype=torch.int8, device="meta")}
    return {
        "query_input_ids": torch.zeros(queries, query, dtype=torch.int8, device="meta"),
        "passage_input_ids": torch.zeros(passages, passage, dtype=torch.int8, device="meta"),
    }

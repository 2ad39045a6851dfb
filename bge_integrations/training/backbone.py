"""Load a checkpoint's transformer for training, whole or with a LoRA adapter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_integrations.errors import CheckpointError
from bge_integrations.models.checkpoint import read_config
from bge_integrations.optional import needed_by

with needed_by(__name__, "bge-integrations[train]"):
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors import SafetensorError
    from transformers.utils import logging

if TYPE_CHECKING:
    from bge_integrations.training.settings import TrainingSettings

#: The linear layers that get an adapter, by the names that decoders and encoders have for them.
_DECODER_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_ENCODER_TARGETS = ("query", "key", "value", "dense")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide what transformers reports about loading and saving: what is missing raises an error of ours."""
    verbosity, shows_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft calls what transformers will rename
            yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@quiet_transformers()
def load_backbone(
    kind: Any, folder: Path, settings: TrainingSettings, *, lora: bool, precision: str, new: tuple[str, ...] = ()
) -> Any:
    """Load the weights of a checkpoint into one of transformers' models.

    They are float32, so that small updates are not rounded away; only a frozen model under an adapter has the precision
    of the computation.

    Args:
        kind: One of transformers' auto classes, such as AutoModel.
        folder: The checkpoint.
        settings: Say whether activations are computed again in the backward pass.
        lora: Whether the weights stay frozen under an adapter.
        precision: "float32", "bfloat16" or "float16".
        new: Beginnings of the names of weights that may start at random.

    Raises:
        CheckpointError: The checkpoint lacks weights, or they are damaged.
    """
    config = read_config(folder)
    dtype = torch.bfloat16 if lora and precision == "bfloat16" else torch.float32
    # other kernels of attention leave out Gemma2's cap on attention scores
    attention = {"attn_implementation": "eager"} if config.get("attn_logit_softcapping") else {}
    try:
        model, loaded = kind.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, local_files_only=True, **attention
        )
    except SafetensorError as error:
        raise CheckpointError(
            f"the weights in {folder} are cut short or damaged ({error}); download them again"
        ) from error
    missing = sorted(name for name in loaded["missing_keys"] if not name.startswith(("pooler.", *new)))
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} weights of its config.json, such as {missing[0]}")
    pooler = getattr(model, "pooler", None)
    if pooler is not None:  # of BERT's pre-training; it is saved again, but nothing here reads it
        pooler.requires_grad_(False)
        if any(name.startswith("pooler.") for name in loaded["missing_keys"]):
            model.pooler = None
    if settings.gradient_checkpointing:
        # the second is its name in older releases of transformers
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
    return model


@quiet_transformers()
def with_lora(model: Any, base: str, task: str | None, settings: TrainingSettings) -> PeftModel:
    """Freeze a model and add a LoRA adapter to it.

    Args:
        model: What `load_backbone` returned.
        base: The name or folder from which the adapter's users load the base.
        task: peft's name of the task, "FEATURE_EXTRACTION", "SEQ_CLS" or "CAUSAL_LM"; None if it
            has none.
        settings: The adapter's size, strength and dropout.
    """
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    targets = _DECODER_TARGETS if "q_proj" in names else _ENCODER_TARGETS
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=[name for name in targets if name in names],
        task_type=task,
    )
    adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


@quiet_transformers()
def with_adapter(model: Any, folder: Path, base: str) -> PeftModel:
    """Add an adapter that was trained before, to train it further."""
    adapted = PeftModel.from_pretrained(model, folder, is_trainable=True, local_files_only=True)
    adapted.peft_config["default"].base_model_name_or_path = base
    return adapted


@quiet_transformers()
def save_backbone(model: Any, folder: Path, merge_lora: bool) -> None:
    """Save a model, or its adapter: alone, or merged into the weights."""
    if isinstance(model, PeftModel) and merge_lora:
        model = model.merge_and_unload()
    model.save_pretrained(folder)

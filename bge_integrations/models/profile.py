"""How to run a checkpoint, according to the caller, the catalogue or the checkpoint's own files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

from bge_integrations import catalog
from bge_integrations.catalog import POCKET, Family, Instructions, Pooling
from bge_integrations.errors import (
    InvalidInputError,
    NotSupportedError,
    UnknownModelError,
    WrongKindError,
)
from bge_integrations.models.adapter import AdapterConfig, folder_with
from bge_integrations.models.architecture import check_architecture
from bge_integrations.models.checkpoint import (
    M3_HEADS,
    TEMPLATE_FILE,
    TOKENIZER_FILES,
    read_config,
    tensor_files,
    visualized_weights,
)
from bge_integrations.models.decoder_config import DECODER_TYPES, cutoffs_of
from bge_integrations.models.encoder_config import ENCODER_TYPES
from bge_integrations.models.instructions import (
    check_takes_tasks,
    examples_text,
    formatted_instruction,
    instructions_for,
    warn_no_instruction,
)
from bge_integrations.models.locating import published
from bge_integrations.models.reranker_template import prompt_in_template
from bge_integrations.models.sentence_transformers_files import SentenceTransformersFiles
from bge_integrations.models.tokenizer import TextTokenizer
from bge_integrations.spelling import spelled
from bge_integrations.validation import check_choice

if TYPE_CHECKING:
    from pathlib import Path

#: The families that take images. They were trained without instructions.
_IMAGE_FAMILIES: tuple[Family, ...] = ("visualized", "clip")


@dataclass(frozen=True)
class EmbedderProfile:
    """The settings that an embedder needs in addition to its weights.

    Attributes:
        name: The published checkpoint's name, or the folder as given.
        family: Which code runs it.
        pooling: How token states become the dense vector.
        instructions: Prepended to queries and passages.
        max_length: Maximum number of tokens of an input; None if only the positions limit it.
        truncate_dim: Number of dimensions to keep by default; None keeps all.
        examples: Prepended to a query and its instruction.
        query_suffix: Appended to each query.
    """

    name: str
    family: Family
    pooling: Pooling
    instructions: Instructions
    max_length: int | None
    truncate_dim: int | None = None
    examples: str = ""
    query_suffix: str = ""


@dataclass(frozen=True)
class RerankerProfile:
    """The settings that a reranker needs in addition to its weights.

    Attributes:
        name: The published checkpoint's name, or the folder as given.
        family: Which code runs it.
        cutoffs: The numbers of layers after which the model can score; empty if it scores only after the last layer.
        prompt: The question after each pair, or the instruction of a chat; "" for cross-encoders.
        chat: The chat in which a pair is presented; None for other prompts.
        always_begin: Whether a pair begins with the BOS token even if it is also the padding token.
        compresses: Whether passages can be compressed between two layers.
    """

    name: str
    family: Family
    cutoffs: Sequence[int] = ()
    prompt: str = ""
    chat: catalog.Chat | None = None
    always_begin: bool = False
    compresses: bool = False


def check_request(model: object, kind: catalog.Kind, family: str | None = None, pooling: str | None = None) -> None:
    """Refuse a model that can't be loaded as this kind, before anything is looked up or downloaded.

    Raises:
        InvalidInputError: `model` is not a name or path, or an argument is not one of its choices.
        WrongKindError: The model is of the other kind.
        NotSupportedError: This release does not support the model's family.
    """
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
        raise InvalidInputError(f"model={model!r} must be a hub id, a checkpoint folder, or 'pocket'")
    if family is not None:
        check_choice(family, "family", get_args(Family))
    if pooling is not None:
        check_choice(pooling, "pooling", get_args(Pooling))
    row = catalog.find(str(model))
    if row is not None:
        check_supported(str(model), row.family, kind)


def embedder_profile(
    name: str,
    folder: Path,
    *,
    base: Path | None = None,
    family: Family | None = None,
    pooling: Pooling | None = None,
    query_instruction: str | None = None,
    passage_instruction: str | None = None,
    task: str | None = None,
    examples: Sequence[Mapping[str, str]] | None = None,
) -> EmbedderProfile:
    """Return the profile of an embedder checkpoint, or of a LoRA adapter and its base.

    Arguments take precedence over the catalogue, and the catalogue over the checkpoint's own files. An adapter saved
    by sentence-transformers has settings that take precedence over its base's.

    Raises:
        UnknownModelError: None of them specifies the family or pooling, or the catalogue and the files disagree.
        NotSupportedError: This release does not support the architecture or the family.
        WrongKindError: The model is a reranker.
        InvalidInputError: The task is missing, or an argument does not fit the model.
    """
    row = _row(name, folder, base, "embedder")
    config = read_config(folder_with(("config.json",), folder, base))
    check_architecture(name, config)
    is_classifier = base is not None and AdapterConfig.read(folder).is_classifier
    if is_classifier or (row is None and family is None and _is_classifier(config)):
        raise WrongKindError(f"{name} is a reranker", f"load it with load_reranker({name!r})", "embedder")
    settings = folder_with(("modules.json",), folder, base)
    files = SentenceTransformersFiles(settings)
    has_own_settings = base is not None and settings == folder
    if row is not None and has_own_settings:
        row = _with_settings(row, files)
    heads = folder_with(M3_HEADS, folder, base)
    is_m3 = all((heads / head).is_file() for head in M3_HEADS)
    if row is not None and pooling is None and files.pooling not in (None, row.pooling):
        raise UnknownModelError(
            f"{name} is named like {row.name} (pooling {row.pooling}), but its 1_Pooling/config.json says "
            f"{files.pooling}; pass the right one, pooling={row.pooling!r} or pooling={files.pooling!r}"
        )
    if family is None:
        family = row.family if row else "m3" if is_m3 or name == POCKET else None
    if family is None:
        family = _image_family(folder, config)
    if family is None and config.get("model_type") in ENCODER_TYPES and (pooling or files.pooling):
        family = "encoder"
    if family is None and config.get("model_type") in DECODER_TYPES and "last_token" in (pooling, files.pooling):
        family = "decoder"
    if family is None:
        raise UnknownModelError(_choices(name, config))
    check_supported(name, family, "embedder")
    traits = catalog.FAMILIES[family]
    pooling = pooling or (row.pooling if row else files.pooling) or traits.pooling
    if pooling is None:
        raise UnknownModelError(_choices(name, config))
    if traits.backbone != "encoder" and pooling != traits.pooling:
        raise InvalidInputError(
            f"{name} is of the {family} family, which pools {traits.pooling}; leave pooling={pooling!r} out"
        )
    if task is not None:
        check_takes_tasks(name, row)
    instructions = instructions_for(row, task, query_instruction) if row else files.instructions
    instruction_format = row.instruction_format if row else traits.instruction_format
    if query_instruction is None:
        query_instruction = instructions.query
        if row is None and family not in ("m3", *_IMAGE_FAMILIES) and not files.has_query_prompt:
            warn_no_instruction(name, folder, config)
    elif query_instruction and instruction_format:
        query_instruction = formatted_instruction(instruction_format, query_instruction)
    if passage_instruction is None:
        passage_instruction = instructions.passage
    if not files.pools_prompts and (query_instruction or passage_instruction):
        raise NotSupportedError(
            f"{settings} pools without the prompt (include_prompt false), which is not supported; pass "
            "query_instruction='' and passage_instruction=''"
        )
    tokenizer = folder_with(TOKENIZER_FILES, folder, base)
    if row is None and files.lowercases and not TextTokenizer(tokenizer).ignores_case:
        raise NotSupportedError(
            f"{settings}: do_lower_case in sentence_bert_config.json is not supported with a case-sensitive tokenizer; "
            'lowercase the texts yourself and set "do_lower_case": false'
        )
    examples = () if examples is None else examples
    if isinstance(examples, (str, Mapping)) or not isinstance(examples, Sequence):
        raise InvalidInputError(f"examples must be a list of dicts, got {type(examples).__name__}")
    if examples and not traits.takes_examples:
        raise InvalidInputError(f"{name} takes no examples; leave examples= out, which is for bge-en-icl only")
    return EmbedderProfile(
        name=row.name if row and base is None else name,
        family=family,
        pooling=pooling,
        instructions=Instructions(query_instruction, passage_instruction),
        max_length=row.max_length if row else files.max_length,
        truncate_dim=None if row and not has_own_settings else files.truncate_dim,
        examples=examples_text(examples, query_instruction, traits.query_suffix),
        query_suffix=traits.query_suffix,
    )


def profile_for_task(profile: EmbedderProfile, task: str) -> EmbedderProfile:
    """Return the profile with the instructions of another task.

    Raises:
        InvalidInputError: The model takes no tasks, the task is unknown, or the profile has examples of its own task.
    """
    row = check_takes_tasks(profile.name, catalog.find(profile.name))
    if profile.examples:
        raise InvalidInputError(
            "the examples belong to one task", argument="task", advice="load the model with task= and examples="
        )
    return replace(profile, instructions=instructions_for(row, task, None))


def reranker_profile(
    name: str, folder: Path, family: Family | None = None, *, base: Path | None = None
) -> RerankerProfile:
    """Return the profile of a reranker checkpoint, or of a LoRA adapter and its base.

    Arguments take precedence over the catalogue, and the catalogue over config.json.

    Raises:
        CheckpointError: config.json does not specify the layers to score after.
        NotSupportedError: This release does not support the architecture or the family.
        WrongKindError: The model is not a reranker.
    """
    row = _row(name, folder, base, "reranker")
    config = read_config(folder_with(("config.json",), folder, base))
    check_architecture(name, config)
    is_classifier = base is not None and AdapterConfig.read(folder).is_classifier
    if family is None and row is not None:
        family = row.family
    own_prompt = prompt_in_template(folder_with((TEMPLATE_FILE,), folder, base))
    if family is None and own_prompt is not None:
        family = "llm_reranker"
    if family is not None:
        check_supported(name, family, "reranker")
    elif "start_layer" in config:
        family = "lightweight_reranker" if "layer_sep" in config else "layerwise_reranker"
    elif is_classifier or _is_classifier(config):
        family = "cross_encoder"
    else:
        raise WrongKindError(
            f"{name} is not a reranker: its config.json says {config.get('architectures')}, not "
            "…ForSequenceClassification",
            "load an embedder with load_embedder, or pass "
            f"{spelled('family', 'llm_reranker')} if it is a language model that was trained to answer Yes, or "
            f"{spelled('family', 'chat_reranker')} if it was trained like Qwen3-Reranker",
            "reranker",
        )
    traits = catalog.FAMILIES[family]
    return RerankerProfile(
        name=row.name if row and base is None else name,
        family=family,
        cutoffs=cutoffs_of(config) if traits.has_cutoffs else (),
        prompt=own_prompt or traits.prompt if family == "llm_reranker" else traits.prompt,
        chat=traits.chat,
        always_begin=traits.always_begins_with_bos,
        compresses=traits.compresses,
    )


def check_supported(name: str, family: Family, wanted: catalog.Kind) -> None:
    """Refuse a family of the wrong kind, or one that this release can't run.

    Raises:
        WrongKindError: The family is of the other kind.
        NotSupportedError: This release does not support the family.
    """
    kind = catalog.FAMILIES[family].kind
    if kind != wanted:
        article = "an" if kind == "embedder" else "a"
        raise WrongKindError(f"{name} is {article} {kind}", f"load it with load_{kind}({name!r})", wanted)
    if family not in catalog.SUPPORTED_FAMILIES:
        raise NotSupportedError(
            f"{name} is of the {family} family, which is not supported yet",
            advice=f"`bge models` lists the {wanted}s that run",
        )


def _row(name: str, folder: Path, base: Path | None, kind: catalog.Kind) -> catalog.Checkpoint | None:
    """Return the catalogue's row of a checkpoint, or of an adapter's base if that is of the same kind."""
    if base is None:
        return published(name, folder)
    row = published(os.fspath(base), base)
    return row if row is not None and row.kind == kind else None


def _with_settings(row: catalog.Checkpoint, files: SentenceTransformersFiles) -> catalog.Checkpoint:
    """Return the row of an adapter's base with the settings that were saved with the adapter."""
    row = replace(row, pooling=files.pooling or row.pooling, max_length=files.max_length or row.max_length)
    if not files.instructions.query:  # sentence-transformers writes "" if the user set none
        return row
    return replace(row, instructions=files.instructions, tasks={}, instruction_format=None)


def _image_family(folder: Path, config: Mapping[str, Any]) -> Family | None:
    """Return the family of an image model according to its files; None if it is not one."""
    if config.get("model_type") == "clip":
        return "clip"
    weights = visualized_weights(folder)
    return "visualized" if weights is not None and tensor_files(folder) == {"*": weights} else None


def _is_classifier(config: dict[str, Any]) -> bool:
    architectures = config.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    return any(str(name).endswith("ForSequenceClassification") for name in names)


def _choices(name: str, config: dict[str, Any]) -> str:
    return (
        f"{name} (model_type {config.get('model_type')!r}) is not in the catalogue and has no sentence-transformers "
        f"files that say how to run it; pass {spelled('family', 'encoder')} with {spelled('pooling')} one of "
        f"{', '.join(get_args(Pooling))}, {spelled('family', 'm3')} (needs {' and '.join(M3_HEADS)}), or "
        f"{spelled('family', 'decoder')}, 'bidirectional_decoder' or 'icl', and also "
        f"{spelled('query_instruction')} if its queries need one. A published checkpoint is recognised by its folder's "
        "name; `bge models` lists them"
    )

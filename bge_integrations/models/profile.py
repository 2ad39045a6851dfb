"""How a checkpoint is to be run: said by the caller, by the catalogue, or by its sentence-transformers files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from bge_integrations import catalog
from bge_integrations.catalog import Family, Instructions, Pooling
from bge_integrations.errors import (
    CheckpointError,
    InvalidInputError,
    NotSupportedError,
    UnknownModelError,
    WrongKindError,
)
from bge_integrations.models.checkpoint import M3_HEADS, POCKET, parse_json, read_config, read_json
from bge_integrations.models.decoder import DECODER_TYPES, cutoffs_of
from bge_integrations.models.tokenizer import TextTokenizer
from bge_integrations.validation import check_text

if TYPE_CHECKING:
    from pathlib import Path

ENCODER_TYPES = ("bert", "xlm-roberta", "roberta")
#: Where sentence-transformers keeps max_seq_length and do_lower_case; the name depends on its version and the trunk.
_LENGTH_FILES = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json")
#: Old sentence-transformers layouts have one flag per pooling, new ones a name.
_POOLING_FLAGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last_token",
}
#: Where neither the caller, nor the catalogue, nor the checkpoint's own files say it.
_POOLING_OF_FAMILY: dict[Family, Pooling] = {
    "m3": "cls",
    "decoder": "last_token",
    "bidirectional_decoder": "last_token",
    "icl": "last_token",
}
_POOLING_NAMES: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last_token"}


@dataclass(frozen=True)
class EmbedderProfile:
    """What an embedder needs to know beyond weights.

    Attributes:
        name: The published checkpoint's name, or the folder as given.
        family: Which code runs it.
        pooling: How token states become the dense vector.
        instructions: Put before queries and passages.
        max_length: Longest input in tokens, or None where only the positions limit it.
        truncate_dim: How many dimensions to keep by default; None keeps all.
        examples: Put before the instruction of a query.
        query_suffix: Put behind a query.
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
    """What a reranker needs to know beyond weights.

    Attributes:
        name: The published checkpoint's name, or the folder as given.
        family: Which code runs it.
        cutoffs: After how many layers there are scores; empty where there is only the one after all.
    """

    name: str
    family: Family
    cutoffs: Sequence[int] = ()


def check_request(model: object, kind: catalog.Kind, family: str | None = None, pooling: str | None = None) -> None:
    """Refuse, before anything is looked for or downloaded, what can't be loaded as this kind.

    Raises:
        InvalidInputError: `model` is no name or path, or an argument is none of its choices.
        WrongKindError: The model is of the other kind.
        NotSupportedError: The model's family comes with a later release.
    """
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
        raise InvalidInputError(f"model={model!r} must be a hub id, a checkpoint folder, or 'pocket'")
    _check_choice("family", family, get_args(Family))
    _check_choice("pooling", pooling, get_args(Pooling))
    row = catalog.find(str(model))
    if row is not None:
        check_supported(str(model), row.family, kind)


def embedder_profile(
    name: str,
    folder: Path,
    *,
    family: Family | None = None,
    pooling: Pooling | None = None,
    query_instruction: str | None = None,
    passage_instruction: str | None = None,
    task: str | None = None,
    examples: Sequence[Mapping[str, str]] | None = None,
) -> EmbedderProfile:
    """Arguments win over the catalogue, the catalogue over the checkpoint's own files.

    Raises:
        UnknownModelError: None of them says which family or pooling, or the catalogue and the files contradict.
        NotSupportedError: The family comes with a later release.
        WrongKindError: The model is a reranker.
        InvalidInputError: Its task is missing, or an argument does not fit it.
    """
    row = catalog.find(name)
    config = read_config(folder)
    if row is None and family is None and _is_classifier(config):
        raise WrongKindError(f"{name} is a reranker", f"load it with load_reranker({name!r})", "embedder")
    files = _SentenceTransformersFiles(folder)
    is_m3 = all((folder / head).is_file() for head in M3_HEADS)
    if row is not None and pooling is None and files.pooling not in (None, row.pooling):
        raise UnknownModelError(
            f"{name} carries the name of {row.name} (pooling {row.pooling}), but its 1_Pooling/config.json says "
            f"{files.pooling}; say which is right: pooling={row.pooling!r} or pooling={files.pooling!r}"
        )
    if family is None:
        family = row.family if row else "m3" if is_m3 or name == POCKET else None
    if family is None and config.get("model_type") in ENCODER_TYPES and (pooling or files.pooling):
        family = "encoder"
    if family is None and config.get("model_type") in DECODER_TYPES and "last_token" in (pooling, files.pooling):
        family = "decoder"
    if family is None:
        raise UnknownModelError(_choices(name, config))
    check_supported(name, family, "embedder")
    pooling = pooling or (row.pooling if row else files.pooling) or _POOLING_OF_FAMILY.get(family)
    if pooling is None:
        raise UnknownModelError(_choices(name, config))
    if family in catalog.DECODER_FAMILIES and pooling != "last_token":
        raise InvalidInputError(
            f"{name} is a decoder, of which the last token is pooled; leave pooling={pooling!r} out"
        )
    instructions = _task_instructions(row, task, query_instruction) if row else files.instructions
    if task is not None and (row is None or not (row.tasks or row.instruction_format)):
        raise InvalidInputError(f"{name} has no tasks; leave task= out and use query_instruction= if need be")
    instruction_format = row.instruction_format if row else catalog.BGE_FORMAT if family == "icl" else None
    if query_instruction is None:
        query_instruction = instructions.query
    elif query_instruction and instruction_format:
        query_instruction = _formatted(instruction_format, query_instruction)
    if passage_instruction is None:
        passage_instruction = instructions.passage
    if not files.pools_prompts and (query_instruction or passage_instruction):
        raise NotSupportedError(
            f"{folder} pools without the prompt (include_prompt false): not supported, but with query_instruction='' "
            "and passage_instruction=''"
        )
    if row is None and files.lowercases and not TextTokenizer(folder).ignores_case:
        raise NotSupportedError(
            f"{folder} is to lowercase texts (do_lower_case) that its tokenizer takes as they are: not supported; "
            'lowercase them yourself and set "do_lower_case": false in its sentence_bert_config.json'
        )
    examples = () if examples is None else examples
    if isinstance(examples, (str, Mapping)) or not isinstance(examples, Sequence):
        raise InvalidInputError(f"examples must be a list of dicts, got {type(examples).__name__}")
    if examples and family != "icl":
        raise InvalidInputError(f"{name} takes no examples; they are for bge-en-icl")
    return EmbedderProfile(
        name=row.name if row else name,
        family=family,
        pooling=pooling,
        instructions=Instructions(query_instruction, passage_instruction),
        max_length=row.max_length if row else files.max_length,
        truncate_dim=None if row else files.truncate_dim,
        examples=_examples_text(examples, query_instruction),
        query_suffix=catalog.ICL_SUFFIX if family == "icl" else "",
    )


def reranker_profile(name: str, folder: Path, family: Family | None = None) -> RerankerProfile:
    """The profile of a reranker checkpoint; errors as in `embedder_profile`."""
    row = catalog.find(name)
    config = read_config(folder)
    if row is not None:
        family = family or row.family
    if family is not None:
        check_supported(name, family, "reranker")
    if family is None and "start_layer" in config:
        family = "lightweight_reranker" if "layer_sep" in config else "layerwise_reranker"
    if family in ("layerwise_reranker", "lightweight_reranker"):
        return RerankerProfile(row.name if row else name, family, cutoffs_of(config))
    if family is not None:
        return RerankerProfile(row.name if row else name, family)
    if not _is_classifier(config):
        raise WrongKindError(
            f"{name} is no reranker: its config.json says {config.get('architectures')}, not "
            "…ForSequenceClassification",
            "load an embedder with load_embedder, or say family='llm_reranker' if it is a language model that was "
            "trained to answer Yes",
            "reranker",
        )
    return RerankerProfile(name, "cross_encoder")


def check_supported(name: str, family: Family, wanted: catalog.Kind) -> None:
    """Refuse what this release can't run, and rerankers where embedders are meant."""
    kind: catalog.Kind = "reranker" if family in catalog.RERANKER_FAMILIES else "embedder"
    if kind != wanted:
        raise WrongKindError(f"{name} belongs to the {kind}s", f"load it with load_{kind}({name!r})", wanted)
    if family not in catalog.SUPPORTED_FAMILIES:
        supported = ", ".join(
            row.short_name
            for row in catalog.CHECKPOINTS
            if row.kind == wanted and row.family in catalog.SUPPORTED_FAMILIES
        )
        raise NotSupportedError(
            f"{name} is of the {family} family, which is not supported yet; supported {wanted}s: {supported}"
        )


def _check_choice(argument: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise InvalidInputError(f"{argument}={value!r} is none of {', '.join(choices)}")


def _task_instructions(row: catalog.Checkpoint, task: str | None, query_instruction: str | None) -> Instructions:
    if row.instruction_format:
        if task is not None and (not isinstance(task, str) or task not in catalog.INSTRUCT_TASKS):
            raise InvalidInputError(
                f"task={task!r} is none of {', '.join(catalog.INSTRUCT_TASKS)}; or pass your own instruction as "
                "query_instruction="
            )
        if task is not None and query_instruction is not None:
            raise InvalidInputError("task= and query_instruction= both say what the queries are for; pass one of them")
        return Instructions(_formatted(row.instruction_format, catalog.INSTRUCT_TASKS[task or "web_search"]))
    if not row.tasks:
        return row.instructions
    if task is None and query_instruction is not None:
        return row.instructions
    if not isinstance(task, str) or task not in row.tasks:
        raise InvalidInputError(
            f"{row.name} has one pair of instructions per task: pass task= one of {', '.join(row.tasks)}, or your own "
            "query_instruction= and passage_instruction="
        )
    return row.tasks[task]


def _formatted(instruction_format: str, instruction: str) -> str:
    """What stands before a query: the instruction in the model's format, unless it is in that already."""
    head, between, _ = instruction_format.split("{}")
    return (
        instruction if instruction.startswith(head) and instruction.endswith(between) else head + instruction + between
    )


def _examples_text(examples: Sequence[Mapping[str, str]], instruction: str) -> str:
    """Examples as bge-en-icl reads them, each with its own instruction or else with that of the queries.

    Raises:
        InvalidInputError: One has no query or no response, or something else.
    """
    parts = []
    for i, example in enumerate(examples):
        keys = set(example) if isinstance(example, Mapping) else set()
        if not {"query", "response"} <= keys <= {"instruct", "query", "response"}:
            raise InvalidInputError(f"examples[{i}] must be a dict of query, response and, if need be, instruct")
        for key, text in example.items():
            check_text(text, f"examples[{i}][{key!r}]")
        own = _formatted(catalog.BGE_FORMAT, example["instruct"]) if "instruct" in example else instruction
        parts.append(f"{own}{example['query']}{catalog.ICL_SUFFIX}{example['response']}\n\n")
    return "".join(parts)


def _is_classifier(config: dict[str, Any]) -> bool:
    architectures = config.get("architectures")
    names = architectures if isinstance(architectures, list) else []
    return any(str(name).endswith("ForSequenceClassification") for name in names)


def _choices(name: str, config: dict[str, Any]) -> str:
    return (
        f"{name} (model_type {config.get('model_type')!r}) is not in the catalogue and has no sentence-transformers "
        "files that say how to run it. Say it by argument: family='encoder' with "
        f"pooling= one of {', '.join(get_args(Pooling))}, family='m3' (needs {' and '.join(M3_HEADS)}), or "
        "family='decoder', 'bidirectional_decoder' or 'icl'; and "
        "query_instruction= if its queries take one. Published checkpoints are recognised by the folder's name: "
        + ", ".join(row.short_name for row in catalog.CHECKPOINTS if row.kind == "embedder")
    )


def _positive(number: object) -> int | None:
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None


class _SentenceTransformersFiles:
    """What modules.json, the pooling config and the prompts of a saved SentenceTransformer say, in either layout."""

    def __init__(self, folder: Path) -> None:
        self.pooling: Pooling | None = None
        self.pools_prompts = True
        self._folder = folder
        for module in self._modules():
            kind = str(module.get("type", "")).rsplit(".", 1)[-1]
            if kind == "Pooling":
                self.pooling = self._read_pooling(str(module.get("path", "1_Pooling")))
            elif kind not in ("Transformer", "Normalize"):
                raise NotSupportedError(f"{folder}/modules.json names a {kind} layer, which is not supported")
        settings = read_json(folder, "config_sentence_transformers.json") or {}
        prompts = settings.get("prompts") or {}
        if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
            raise CheckpointError(f"{folder}/config_sentence_transformers.json: prompts must be texts by name")
        passage_name = "document" if "document" in prompts else "passage"
        # default_prompt_name is for sentence-transformers' bare encode(), and not for its queries and documents
        self.instructions = Instructions(prompts.get("query", ""), prompts.get(passage_name, ""))
        self.truncate_dim = _positive(settings.get("truncate_dim"))
        transformers = [read_json(folder, name) or {} for name in _LENGTH_FILES]
        lengths = [_positive(settings.get("max_seq_length")) for settings in transformers]
        self.max_length = next((length for length in lengths if length), None)
        self.lowercases = any(settings.get("do_lower_case") is True for settings in transformers)

    def _modules(self) -> list[dict[str, Any]]:
        path = self._folder / "modules.json"
        if not path.is_file():
            return []
        modules = parse_json(path)
        if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
            raise CheckpointError(f"{path} should hold a list of objects")
        return modules

    def _read_pooling(self, path: str) -> Pooling:
        config = read_json(self._folder, f"{path}/config.json")
        if config is None:
            raise CheckpointError(f"{self._folder}/{path}/config.json is missing, though modules.json names it")
        self.pools_prompts = config.get("include_prompt", True) is not False
        mode = config.get("pooling_mode")
        if mode is not None:
            found = [_POOLING_NAMES.get(str(mode), str(mode))]
        else:
            on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
            found = [_POOLING_FLAGS.get(key, key) for key in on]
        if len(found) != 1 or found[0] not in get_args(Pooling):
            raise NotSupportedError(
                f"{self._folder}/{path} asks for pooling {' and '.join(found) or 'none'}; supported: "
                f"{', '.join(get_args(Pooling))}"
            )
        return found[0]  # type: ignore[return-value]

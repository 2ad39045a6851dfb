"""The settings that sentence-transformers saves with a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from bge_integrations.catalog import Instructions, Pooling
from bge_integrations.errors import CheckpointError, NotSupportedError
from bge_integrations.models.checkpoint import LONGEST_NAME, parse_json, read_json

#: The files with max_seq_length and do_lower_case; the name depends on the version and the backbone.
_LENGTH_FILES = ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json")
#: Old sentence-transformers layouts have one flag per pooling, new ones a name.
_POOLING_FLAGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last_token",
}
_POOLING_NAMES: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last_token"}


class SentenceTransformersFiles:
    """The settings in modules.json, the pooling config and the prompts of a saved SentenceTransformer.

    Attributes:
        pooling: None if no file specifies it.
        pools_prompts: Whether the pooling includes the prompt's tokens.
        instructions: The prompts for queries and passages.
        has_query_prompt: Whether a file has a prompt for queries, which may be "".
        truncate_dim, max_length: None if no file specifies them.
        lowercases: Whether texts are lowercased before the tokenizer.

    Raises:
        CheckpointError: A file is damaged or missing.
        NotSupportedError: A layer or pooling is not supported.
    """

    def __init__(self, folder: Path) -> None:
        self.pooling: Pooling | None = None
        self.pools_prompts = True
        self._folder = folder
        for module in self._modules():
            kind = str(module.get("type", "")).rsplit(".", 1)[-1]
            if kind == "Pooling":
                self.pooling = self._read_pooling(str(module.get("path", "1_Pooling")))
            elif kind not in ("Transformer", "BGEVLCLIPTransformer", "Normalize"):
                raise NotSupportedError(f"{folder}/modules.json names a {kind} layer, which is not supported")
        settings = read_json(folder, "config_sentence_transformers.json") or {}
        prompts = settings.get("prompts") or {}
        if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
            raise CheckpointError(f"{folder}/config_sentence_transformers.json: prompts must map names to texts")
        self.has_query_prompt = "query" in prompts
        passage_name = "document" if "document" in prompts else "passage"
        # default_prompt_name applies to plain encode(), not to encode_query() and encode_document()
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
            raise CheckpointError(f"{path} must contain a list of objects")
        return modules

    def _read_pooling(self, path: str) -> Pooling:
        if Path(path).is_absolute() or ".." in Path(path).parts or len(path) > LONGEST_NAME:
            raise CheckpointError(
                f"{self._folder}/modules.json names {path[:LONGEST_NAME]!r}, which is not in its folder"
            )
        config = read_json(self._folder, f"{path}/config.json")
        if config is None:
            raise CheckpointError(f"{self._folder}/{path}/config.json is missing, but modules.json refers to it")
        self.pools_prompts = config.get("include_prompt", True) is not False
        mode = config.get("pooling_mode")
        if mode is not None:
            poolings = [_POOLING_NAMES.get(str(mode), str(mode))]
        else:
            on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
            poolings = [_POOLING_FLAGS.get(key, key) for key in on]
        if len(poolings) != 1 or poolings[0] not in get_args(Pooling):
            raise NotSupportedError(
                f"{self._folder}/{path} asks for pooling {' and '.join(poolings) or 'none'}; supported: "
                f"{', '.join(get_args(Pooling))}"
            )
        return poolings[0]  # type: ignore[return-value]


def _positive(number: object) -> int | None:
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None

"""Which models can be mixed: they have the same tensors, the same vocabulary and the same settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from bge_integrations.errors import CheckpointError, InvalidInputError, NotSupportedError
from bge_integrations.models.checkpoint import M3_HEADS, is_adapter, read_config, visualized_weights
from bge_integrations.models.lora import bare_name
from bge_integrations.models.sentence_transformers_files import SentenceTransformersFiles
from bge_integrations.models.tokenizer import TextTokenizer
from bge_integrations.models.weights import Weights, read_state

#: Settings in config.json that must be equal. Others either don't change what the model computes, such as dropout, or
#: are visible in the shapes of its tensors.
_SETTINGS = (
    *("model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "hidden_activation", "position_embedding_type", "pad_token_id"),
    *("layer_norm_eps", "rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "sliding_window"),
    *("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"),
    *("tie_word_embeddings", "scale_emb", "scale_depth", "dim_model_base", "start_layer", "layer_sep", "num_labels"),
)
#: A text whose tokens show how a tokenizer handles case, accents, spaces, punctuation and scripts.
_PROBE = "The QUICK  brówn fox: don't! 什么是大熊猫? Ünïcödé\t42.5%"
_SHOWN = 3


class Source:
    """A model to mix, whose tensors are read on demand.

    Args:
        name: The model's name for messages.
        folder: The checkpoint.

    Attributes:
        names: The names of its tensors, as they are stored.
        heads: The names of those that are bge-m3's heads.
        config: The content of config.json.

    Raises:
        NotSupportedError: It is a LoRA adapter or takes images.
        CheckpointError: A file is missing or damaged.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        if is_adapter(folder):
            raise NotSupportedError(
                f"{name} is a LoRA adapter", advice="merge it into its base with peft's merge_and_unload() first"
            )
        self.config: dict[str, Any] = read_config(folder)
        if visualized_weights(folder) is not None or self.config.get("model_type") == "clip":
            raise NotSupportedError(f"{name} takes images", advice="only models of texts can be mixed")
        self._weights = Weights(folder)
        self._heads: dict[str, torch.Tensor] = {}
        for file in M3_HEADS if any((folder / head).exists() for head in M3_HEADS) else ():
            state = read_state(folder / file)
            if state.keys() != {"weight", "bias"}:
                raise CheckpointError(f"{folder / file} must contain a weight and a bias, not {', '.join(state)}")
            self._heads |= {f"{Path(file).stem}.{part}": state[part] for part in ("weight", "bias")}
        self.heads = frozenset(self._heads)
        self._stored = {bare_name(tensor): tensor for tensor in self._weights}
        self.names = [*self._weights, *self._heads]

    @property
    def dtype(self) -> torch.dtype:
        """The widest type of its floating-point weights."""
        dtypes = [tensor.dtype for tensor in map(self._weights.read, self._weights) if tensor.is_floating_point()]
        return reduce(torch.promote_types, dtypes)

    def __contains__(self, name: str) -> bool:
        return name in self._heads or bare_name(name) in self._stored

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor; the prefix of the backbone in its name, such as "roberta.", does not matter."""
        head = self._heads.get(name)
        return self._weights.read(self._stored[bare_name(name)]) if head is None else head


def check_fit(sources: Sequence[Source]) -> None:
    """Raise InvalidInputError, with what differs, if a model does not fit the first one."""
    first = sources[0]
    for other in sources[1:]:
        checks = chain(_settings(first, other), _tensors(first, other), _tokenizers(first, other))
        if difference := next(checks, None):
            raise InvalidInputError(
                f"{other.name} does not fit {first.name}: {difference}",
                argument="models",
                advice="mix models that were fine-tuned from the same one",
            )


def _settings(first: Source, other: Source) -> Iterator[str]:
    """Yield how the settings differ; a setting that one of them leaves out is not compared."""
    pairs = {name: (first.config.get(name), other.config.get(name)) for name in _SETTINGS}
    different = [f"{key} is {b!r} instead of {a!r}" for key, (a, b) in pairs.items() if None not in (a, b) and a != b]
    if different:
        yield "in config.json " + ", ".join(different)
    if first.heads != other.heads:
        yield f"{(other if first.heads else first).name} lacks {' and '.join(M3_HEADS)}"
    poolings = [_pooling(source.folder) for source in (first, other)]
    if None not in poolings and poolings[0] != poolings[1]:
        yield f"it pools {poolings[1]}, not {poolings[0]}"


def _pooling(folder: Path) -> str | None:
    try:
        return SentenceTransformersFiles(folder).pooling
    except NotSupportedError:  # a reranker's modules
        return None


def _tensors(first: Source, other: Source) -> Iterator[str]:
    """Yield how the tensors differ. Integers are buffers, such as position ids, which not all files have."""
    for one, two in ((first, other), (other, first)):
        missing = [name for name in one.names if name not in two and one.read(name).is_floating_point()]
        if missing:
            shown = ", ".join(missing[:_SHOWN]) + (" …" if len(missing) > _SHOWN else "")
            yield f"{two.name} lacks {len(missing)} tensors ({shown})"
    for name in first.names:
        if name not in other:
            continue
        a, b = first.read(name), other.read(name)
        if a.shape != b.shape:
            yield f"the tensor {name} has shape {tuple(b.shape)} instead of {tuple(a.shape)}"
        if a.is_floating_point() != b.is_floating_point() or (not a.is_floating_point() and not torch.equal(a, b)):
            yield f"the integers in {name} differ, so they can't be mixed (is one of them quantized?)"


def _tokenizers(first: Source, other: Source) -> Iterator[str]:
    files = [source.folder / "tokenizer.json" for source in (first, other)]
    if all(file.is_file() for file in files) and files[0].read_bytes() == files[1].read_bytes():
        return
    one, two = TextTokenizer(first.folder), TextTokenizer(other.folder)
    tokens, others = one.vocabulary, two.vocabulary
    different = sorted(token for token in tokens.keys() | others.keys() if tokens.get(token) != others.get(token))
    if different:
        yield f"the tokenizers differ in {len(different)} tokens ({', '.join(map(repr, different[:_SHOWN]))})"
    if [ids.tolist() for ids in one.ids([_PROBE])] != [ids.tolist() for ids in two.ids([_PROBE])]:
        yield "the tokenizers split the same text differently"

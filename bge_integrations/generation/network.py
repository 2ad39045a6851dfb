"""Builds the network of a generator: one of transformers' models, with beacons or an adapter if it has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers
from safetensors import SafetensorError

from bge_integrations.errors import CheckpointError, InvalidInputError, NotSupportedError, OutOfMemoryError
from bge_integrations.generation.beacon_config import BEACON_TYPES, BeaconConfig
from bge_integrations.generation.beacon_model import BeaconModel, with_beacons
from bge_integrations.generation.context_limit import rope_positions
from bge_integrations.generation.plain_model import PlainModel
from bge_integrations.models.checkpoint import TOKENIZER_FILES, read_json
from bge_integrations.optional import import_library

if TYPE_CHECKING:
    from bge_integrations.generation.interface import LanguageModel

Quantization = Literal["8bit", "4bit"]
#: Settings of the rotary embedding, in config.json's old and new layout.
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters")


@dataclass(frozen=True)
class Source:
    """Where a network comes from.

    Attributes:
        name: Its name, for messages.
        folder: The checkpoint or the adapter.
        base: The adapter's base; None if `folder` is a checkpoint.
        config: The content of config.json.
    """

    name: str
    folder: Path
    base: Path | None
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Placement:
    """Where a network's tensors are, and their precision.

    Attributes:
        device: "cpu" or "cuda:N".
        dtype: "float32", "bfloat16" or "float16".
        quantization: How the weights of linear layers are stored; None for dtype.
    """

    device: str
    dtype: str
    quantization: Quantization | None


def load_language_model(source: Source, placement: Placement, beacon_ratio: int | None) -> LanguageModel:
    """Load a network. An Activation Beacon checkpoint becomes a model that condenses, any other a plain one.

    Raises:
        NotSupportedError: It is not a causal language model that transformers knows.
        CheckpointError: A file is missing, damaged or does not fit.
        OutOfMemoryError: It does not fit in the device's memory.
        InvalidInputError: beacon_ratio was given for another model.
    """
    name, stored = source.name, source.config
    model_type = stored.get("model_type")
    try:
        config = transformers.CONFIG_MAPPING[str(model_type)].from_dict(dict(stored))
        network_class: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError as error:
        raise NotSupportedError(
            f"{name} is a model of type {model_type!r}, which transformers {transformers.__version__} can't run as a "
            "causal language model",
            advice="upgrade transformers if it is a new one; a checkpoint's own code is never run",
        ) from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{name}: config.json contains a wrong value ({error})") from error
    rope = {key: stored[key] for key in _ROPE if stored.get(key)}
    if "beacon_window" not in stored:
        if beacon_ratio is not None:
            raise InvalidInputError(
                f"{name} is not an Activation Beacon checkpoint", argument="beacon_ratio", advice="leave it out"
            )
        named = getattr(config, "max_position_embeddings", None)  # by some types under another name
        positions = rope_positions({**stored, "max_position_embeddings": named})
        return PlainModel(_network(network_class, source, config, placement), positions, rope)
    if model_type not in BEACON_TYPES:
        raise NotSupportedError(
            f"{name} is an Activation Beacon checkpoint of type {model_type!r}; supported are {', '.join(BEACON_TYPES)}"
        )
    beacon = BeaconConfig.read(stored, beacon_ratio)
    return BeaconModel(_network(with_beacons(network_class, beacon), source, config, placement), beacon, rope)


def _network(network_class: Any, source: Source, config: Any, placement: Placement) -> Any:
    """Load the weights into one of transformers' models, with the adapter if there is one."""
    weights = source.base or source.folder
    dtype = getattr(torch, placement.dtype)
    arguments: dict[str, Any] = {"config": config, "dtype": dtype, "local_files_only": True}
    if placement.device != "cpu" or placement.quantization is not None:
        import_library("accelerate", "generation", "a generator on a GPU or in few bits")
        arguments["device_map"] = {"": placement.device}
    if placement.quantization is not None:
        arguments["quantization_config"] = _bits(placement.quantization, dtype)
    try:
        with _without_progress_bar():
            network, loaded = network_class.from_pretrained(weights, output_loading_info=True, **arguments)
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"{weights} does not fit in the memory of {placement.device}", advice="use quantization='8bit' or '4bit'"
        ) from error
    except SafetensorError as error:
        raise CheckpointError(f"the weights in {weights} are damaged ({error}); download them again") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"the weights in {weights} can't be loaded ({error})") from error
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise CheckpointError(f"{weights} lacks {len(missing)} weights of its config.json, such as {missing[0]}")
    if source.base is not None:
        network = _adapted(network, source.folder, merge=placement.quantization is None)
    return network.eval()


def _adapted(network: Any, folder: Path, merge: bool) -> Any:
    """Add a LoRA adapter; weights in 8 or 4 bits can't be merged with it without loss."""
    peft = import_library("peft", "generation", "a LoRA adapter")
    try:
        adapted = peft.PeftModel.from_pretrained(network, folder, local_files_only=True)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"the adapter in {folder} does not fit its base ({error})") from error
    return adapted.merge_and_unload() if merge else adapted.get_base_model()


def _bits(quantization: Quantization, dtype: torch.dtype) -> Any:
    settings: Any = transformers.BitsAndBytesConfig
    import_library("bitsandbytes", "quantization", f"quantization={quantization!r}")
    if quantization == "8bit":
        return settings(load_in_8bit=True)
    return settings(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Hide transformers' progress bar, and show it again afterwards if it was shown."""
    logging: Any = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_tokenizer(folder: Path) -> Any:
    """Return transformers' tokenizer of a checkpoint.

    Raises:
        CheckpointError: It is missing or damaged.
    """

    if not any((folder / name).is_file() for name in (*TOKENIZER_FILES, "vocab.json")):
        raise CheckpointError(f"{folder} has no tokenizer", advice="copy it from the model's repository")
    read_json(folder, "tokenizer_config.json")  # raises if it is damaged
    try:
        if (folder / "tokenizer.json").is_file():  # AutoTokenizer may rebuild it by the model's type instead
            return transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise CheckpointError(f"the tokenizer in {folder} can't be loaded ({error})") from error

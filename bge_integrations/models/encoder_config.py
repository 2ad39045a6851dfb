"""The settings of an encoder backbone, read from config.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bge_integrations.errors import CheckpointError, NotSupportedError

#: The model_type of every supported encoder.
ENCODER_TYPES = ("bert", "xlm-roberta", "roberta")


@dataclass(frozen=True)
class EncoderConfig:
    """The parts of config.json that shape the backbone."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    norm_eps: float
    vocabulary_size: int
    positions: int
    token_types: int
    #: XLM-R counts positions from pad_token_id + 1, BERT from 0.
    first_position: int

    @classmethod
    def read(cls, config: dict[str, Any]) -> EncoderConfig:
        """Read the config.json of any of `ENCODER_TYPES`.

        Raises:
            NotSupportedError: It requires something that this backbone does not support.
            CheckpointError: A value is missing, or inconsistent with another.
        """
        model_type = config.get("model_type")
        if model_type not in ENCODER_TYPES:
            raise NotSupportedError(
                f"a model of type {model_type!r} can't be run as an encoder; encoders are {', '.join(ENCODER_TYPES)}"
            )
        if config.get("hidden_act", "gelu") != "gelu":
            raise NotSupportedError(f"hidden_act {config['hidden_act']!r} is not supported; encoders must use 'gelu'")
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise NotSupportedError(f"position_embedding_type {config['position_embedding_type']!r} is not supported")
        try:
            parsed = cls(
                hidden_size=int(config["hidden_size"]),
                layers=int(config["num_hidden_layers"]),
                heads=int(config["num_attention_heads"]),
                intermediate_size=int(config["intermediate_size"]),
                norm_eps=float(config.get("layer_norm_eps", 1e-12)),
                vocabulary_size=int(config["vocab_size"]),
                positions=int(config["max_position_embeddings"]),
                token_types=int(config.get("type_vocab_size", 2)),
                first_position=0 if model_type == "bert" else int(config.get("pad_token_id", 1)) + 1,
            )
        except KeyError as error:
            raise CheckpointError(f"config.json lacks {error}") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"config.json contains a value of the wrong type ({error})") from error
        sizes = (parsed.hidden_size, parsed.layers, parsed.heads, parsed.intermediate_size, parsed.vocabulary_size)
        if min(*sizes, parsed.max_length, parsed.first_position + 1) < 1 or parsed.hidden_size % parsed.heads:
            raise CheckpointError(f"config.json is inconsistent: {parsed}")
        return parsed

    @property
    def max_length(self) -> int:
        """Longest sequence that the position embeddings allow."""
        return self.positions - self.first_position

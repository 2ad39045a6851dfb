"""Visualized-BGE: a text encoder that also reads the tokens of an image tower."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from bge_integrations.errors import CheckpointError
from bge_integrations.models.batch import PackedBatch
from bge_integrations.models.checkpoint import read_config
from bge_integrations.models.encoder import Encoder
from bge_integrations.models.encoder_config import EncoderConfig
from bge_integrations.models.eva_tower import EvaTower
from bge_integrations.models.heads import truncate_and_normalize
from bge_integrations.models.image_format import ImageFormat
from bge_integrations.models.interface import SequenceOutput, TokenSequence
from bge_integrations.models.linear import linear
from bge_integrations.models.memory import memory_errors
from bge_integrations.models.tokenizer import TextTokenizer
from bge_integrations.models.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from bge_integrations.models.interface import OutputSpec
    from bge_integrations.models.placement import Placement


class VisualizedModel:
    """A `Model` (see interface.py) for texts, images, and images with a text.

    An image's tokens follow a text's first token. Its vector is the state of that first token.

    Raises:
        CheckpointError: A file or tensor is missing, cut short or of the wrong shape.
        NotSupportedError: config.json requires something that this backbone does not support.
    """

    is_causal = False
    multi_vector_size = 0

    def __init__(self, folder: Path, placement: Placement) -> None:
        self.placement = placement
        self.config = EncoderConfig.read(read_config(folder))
        self.tokenizer = TextTokenizer(folder)
        self.hidden_size = self.config.hidden_size
        self.max_length = self.config.max_length
        self.vocabulary_size = self.config.vocabulary_size
        self.tokenizer.check_fits(folder, self.vocabulary_size)
        with torch.inference_mode(), memory_errors():
            weights = Weights(folder)
            if "visual_proj.weight" not in weights:
                raise CheckpointError(
                    f"{folder}: these are the weights of a text model",
                    advice="put Visualized_*.pth of BAAI/bge-visualized beside config.json and the tokenizer, without "
                    "other weights",
                )
            self._encoder = Encoder(weights, self.config, placement)
            self._tower = EvaTower(weights, placement)
            weight, bias = (
                weights.take(f"visual_proj.{name}", *shape).to(placement.device, placement.compute_dtype, copy=True)
                for name, shape in (("weight", (self.hidden_size, self._tower.width)), ("bias", (self.hidden_size,)))
            )
            self._projection = linear(weight, bias, placement)
        tokens = self._tower.tokens
        if tokens + self.tokenizer.text.size >= self.max_length:
            raise CheckpointError(
                f"{folder}: an image has {tokens} tokens, but the text model has only {self.max_length} positions; "
                "config.json belongs to another model"
            )
        self.image_format: ImageFormat | None = ImageFormat(
            self._tower.size, tokens, shares_positions=True, converts_first=False, floors_crop=False
        )

    def run(
        self, sequences: Sequence[TokenSequence], spec: OutputSpec, between_layers: Callable[[], None]
    ) -> list[SequenceOutput]:
        """Compute one output per sequence; see `Model.run`."""
        with torch.inference_mode(), memory_errors():
            if any(sequence.pixels is not None for sequence in sequences):
                batch, x = self._embed(sequences, between_layers)
                states = self._encoder.run_layers(x, batch, between_layers, batch.first_tokens)
            else:
                batch = PackedBatch.pack(sequences, self.placement.device)
                states = self._encoder(batch, between_layers, batch.first_tokens)
            dense = truncate_and_normalize(states, spec.dim, spec.normalize).cpu().numpy()
            return batch.in_given_order([SequenceOutput(dense=row) for row in dense])

    def _embed(
        self, sequences: Sequence[TokenSequence], between_layers: Callable[[], None]
    ) -> tuple[PackedBatch, Tensor]:
        """Return a batch with images, and its embedded tokens (tokens, hidden).

        The positions of a sequence with an image count from the table's first row, also for XLM-R, which otherwise
        skips two. Image tokens have no token type embedding.
        """
        batch = PackedBatch.pack([_with_places(sequence) for sequence in sequences], self.placement.device)
        ordered = [sequences[i] for i in batch.order]
        images = [sequence.pixels for sequence in ordered if sequence.pixels is not None]
        encoder, device = self._encoder, self.placement.device
        skipped = [0 if sequence.pixels is not None else self.config.first_position for sequence in ordered]
        first = torch.from_numpy(np.repeat(skipped, batch.lengths)).to(device)
        assert batch.types is not None
        is_image = batch.types == 1
        x = F.embedding(batch.ids, encoder.token_embeddings) + encoder.type_embeddings[0]
        x[is_image] = self._projection(self._tower(images, between_layers))
        return batch, encoder.norm(x + F.embedding(batch.positions + first, encoder.position_table))


def _with_places(sequence: TokenSequence) -> TokenSequence:
    """Return a sequence with a place for each image token after its first token; types are 1 there and 0 elsewhere."""
    count = sequence.image_tokens
    ids = np.concatenate([sequence.ids[:1], np.zeros(count, np.int32), sequence.ids[1:]])
    types = np.zeros(len(ids), np.int32)
    types[1 : 1 + count] = 1
    return TokenSequence(ids, types)

"""BGE-VL-base and -large: CLIP's text and image towers, whose features are added for an image with a text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from bge_integrations.errors import CheckpointError
from bge_integrations.models.batch import PackedBatch
from bge_integrations.models.checkpoint import read_config
from bge_integrations.models.clip import ImageTower, TextTower, TowerSettings
from bge_integrations.models.heads import truncate_and_normalize
from bge_integrations.models.image_format import ImageFormat
from bge_integrations.models.interface import SequenceOutput, TokenSequence
from bge_integrations.models.memory import memory_errors
from bge_integrations.models.tokenizer import TextTokenizer
from bge_integrations.models.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from bge_integrations.models.interface import OutputSpec
    from bge_integrations.models.placement import Placement


class ClipModel:
    """A `Model` (see interface.py) for texts, images, and images with a text.

    Raises:
        CheckpointError: A file or tensor is missing, cut short or of the wrong shape.
        NotSupportedError: config.json requires something that is not supported.
    """

    is_causal = False  # its texts have no common beginning worth sharing
    multi_vector_size = 0

    def __init__(self, folder: Path, placement: Placement) -> None:
        self.placement = placement
        config = read_config(folder)
        self.tokenizer = TextTokenizer(folder)
        with torch.inference_mode(), memory_errors():
            weights = Weights(folder)
            self._texts = TextTower(weights, TowerSettings.read(config, "text_config"), placement)
            self._images = ImageTower(weights, TowerSettings.read(config, "vision_config"), placement)
        self.hidden_size = self._images.dimension
        self.max_length = self._texts.max_length
        self.vocabulary_size = self._texts.vocabulary_size
        if self.tokenizer.vocabulary_size > self.vocabulary_size or not len(self.tokenizer.text.parts[-1]):
            raise CheckpointError(
                f"{folder}: the tokenizer has {self.tokenizer.vocabulary_size} tokens and adds "
                f"{self.tokenizer.text.size} to a text, but the weights have {self.vocabulary_size} and need an end "
                "token; they belong to different models"
            )
        self._end = int(self.tokenizer.text.parts[-1][-1])
        self.image_format: ImageFormat | None = ImageFormat(
            self._images.size, self._images.tokens, shares_positions=False, converts_first=True, floors_crop=True
        )

    def run(
        self, sequences: Sequence[TokenSequence], spec: OutputSpec, between_layers: Callable[[], None]
    ) -> list[SequenceOutput]:
        """Compute one output per sequence; see `Model.run`."""
        with_text = [i for i, sequence in enumerate(sequences) if len(sequence.ids)]
        pixels = {i: sequence.pixels for i, sequence in enumerate(sequences) if sequence.pixels is not None}
        with torch.inference_mode(), memory_errors():
            features = torch.zeros(len(sequences), self.hidden_size, device=self.placement.device)
            if with_text:
                features[with_text] += self._text_features([sequences[i] for i in with_text], between_layers)
            if pixels:
                features[list(pixels)] += self._images(list(pixels.values()), between_layers).float()
            dense = truncate_and_normalize(features, spec.dim, spec.normalize).cpu().numpy()
            return [SequenceOutput(dense=row) for row in dense]

    def _text_features(self, sequences: Sequence[TokenSequence], between_layers: Callable[[], None]) -> Tensor:
        """Return float32 (sequences, hidden_size), in their order: the state of each text's first end token.

        What follows that token is left out, because it can't see what follows it.
        """
        texts = [TokenSequence(each.ids[: 1 + int(np.argmax(each.ids == self._end))]) for each in sequences]
        batch = PackedBatch.pack(texts, self.placement.device)
        found = self._texts(batch, between_layers).float()
        return found[torch.from_numpy(np.argsort(batch.order)).to(found.device)]

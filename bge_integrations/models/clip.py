"""CLIP's two towers, as in BGE-VL-base and -large: texts or images in, one projected state each out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from bge_integrations.errors import CheckpointError, NotSupportedError
from bge_integrations.models.attention import AttentionParams, masked_attention, masked_attention_of_rows
from bge_integrations.models.encoder import LayerNorm
from bge_integrations.models.linear import linear, pad_rows
from bge_integrations.models.patches import patches

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

    from bge_integrations.models.batch import PackedBatch
    from bge_integrations.models.placement import Placement
    from bge_integrations.models.weights import Weights

#: CLIP's activation, "quick GELU", is x * sigmoid(1.702 x).
_SIGMOID_FACTOR = 1.702
#: transformers' default numbers of heads.
_HEADS = {"text_config": 8, "vision_config": 12}


@dataclass(frozen=True)
class TowerSettings:
    """What config.json says about a tower; all sizes follow from the weights."""

    heads: int
    norm_eps: float

    @classmethod
    def read(cls, config: Mapping[str, Any], key: str) -> TowerSettings:
        """Read "text_config" or "vision_config" of config.json.

        Raises:
            NotSupportedError: It requires another activation.
            CheckpointError: A value is of the wrong type.
        """
        settings = config.get(key) or {}
        if not isinstance(settings, Mapping):
            raise CheckpointError(f"config.json: {key} must be an object")
        if settings.get("hidden_act", "quick_gelu") != "quick_gelu":
            raise NotSupportedError(f"hidden_act {settings['hidden_act']!r} is not supported; CLIP uses 'quick_gelu'")
        heads, eps = settings.get("num_attention_heads", _HEADS[key]), settings.get("layer_norm_eps", 1e-5)
        if not isinstance(heads, int) or heads < 1 or not isinstance(eps, float) or not 0 < eps < 1:
            raise CheckpointError(f"config.json: {key} is inconsistent")
        return cls(heads, eps)


class _Tensors:
    """The tensors below a prefix, copied to their device."""

    def __init__(self, weights: Weights, prefix: str, placement: Placement, norm_eps: float) -> None:
        self._weights, self._prefix, self._placement, self._eps = weights, prefix, placement, norm_eps

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._weights

    def take(self, name: str, *shape: int, factor: float = 1.0) -> Tensor:
        """Return a tensor of this shape, multiplied by `factor` before it is rounded to the compute dtype."""
        weight = self._weights.take(self._prefix + name, *shape)
        if factor != 1:
            weight = weight.float() * factor
        return weight.to(self._placement.device, self._placement.compute_dtype, copy=True)

    def norm(self, name: str, width: int) -> LayerNorm:
        return LayerNorm(self.take(f"{name}.weight", width), self.take(f"{name}.bias", width), self._eps)


class _Layer:
    """One pre-norm transformer layer."""

    def __init__(self, tensors: _Tensors, prefix: str, width: int, placement: Placement) -> None:
        def take(name: str, *shape: int, factor: float = 1.0) -> Tensor:
            return tensors.take(prefix + name, *shape, factor=factor)

        make = partial(linear, placement=placement)
        self.qkv = make(
            torch.cat([take(f"self_attn.{part}_proj.weight", width, width) for part in "qkv"]),
            torch.cat([take(f"self_attn.{part}_proj.bias", width) for part in "qkv"]),
        )
        self.attention_out = make(
            take("self_attn.out_proj.weight", width, width), take("self_attn.out_proj.bias", width), epilogue="add"
        )
        # quick GELU is SiLU of the scaled input, scaled back; a linear can have SiLU fused in, and its weights scaled
        up = take("mlp.fc1.weight", -1, width, factor=_SIGMOID_FACTOR)
        inner = len(up)
        self.up = make(up, take("mlp.fc1.bias", inner, factor=_SIGMOID_FACTOR), epilogue="silu")
        self.down = make(
            take("mlp.fc2.weight", width, inner, factor=1 / _SIGMOID_FACTOR),
            take("mlp.fc2.bias", width),
            epilogue="add",
        )
        self.norm1, self.norm2 = (tensors.norm(f"{prefix}layer_norm{i}", width) for i in (1, 2))

    def __call__(self, x: Tensor, attend: Callable[[Tensor], Tensor], rows: Tensor | None = None) -> Tensor:
        """Map (tokens, width) to the same shape, or to (rows, width) for the tokens `rows`.

        `attend` maps queries, keys and values side by side, (tokens, 3 * width), to the contexts of these tokens.
        """
        context = attend(self.qkv(self.norm1(x)))
        if rows is not None:
            context, x = pad_rows(context), pad_rows(x[rows])
        x = self.attention_out.add(context, x)
        return self.down.add(self.up.silu(self.norm2(x)), x)


class _Layers:
    """All layers of a tower, as many as the weights have."""

    def __init__(self, tensors: _Tensors, width: int, heads: int, placement: Placement) -> None:
        if width % heads:
            raise CheckpointError(f"config.json asks for {heads} heads, which do not divide the width {width}")
        self._layers = [_Layer(tensors, "encoder.layers.0.", width, placement)]
        while f"{(prefix := f'encoder.layers.{len(self._layers)}.')}layer_norm1.weight" in tensors:
            self._layers.append(_Layer(tensors, prefix, width, placement))

    def __call__(
        self,
        x: Tensor,
        rows: Tensor,
        attend: Callable[[Tensor], Tensor],
        attend_rows: Callable[[Tensor], Tensor],
        between_layers: Callable[[], None],
    ) -> Tensor:
        """Return the last layer's states of the tokens `rows`, which are all that it computes.

        Args:
            x: (tokens, width) states before the first layer.
            rows: (rows,) indices of tokens.
            attend, attend_rows: Attention of all tokens, and of the tokens `rows`; see `_Layer`.
            between_layers: Called between any two layers.
        """
        for layer in self._layers[:-1]:
            x = layer(x, attend)
            between_layers()
        return self._layers[-1](x, attend_rows, rows)[: len(rows)]


class TextTower:
    """The causal text tower.

    Attributes:
        vocabulary_size, max_length: Numbers of token and position embeddings.

    Raises:
        CheckpointError: A tensor is missing, or its shape does not fit.
    """

    def __init__(self, weights: Weights, settings: TowerSettings, placement: Placement) -> None:
        tensors = _Tensors(weights, "text_model.", placement, settings.norm_eps)
        self._token_embeddings = tensors.take("embeddings.token_embedding.weight", -1, -1)
        self.vocabulary_size, width = self._token_embeddings.shape
        self._position_embeddings = tensors.take("embeddings.position_embedding.weight", -1, width)
        self.max_length = len(self._position_embeddings)
        self._layers = _Layers(tensors, width, settings.heads, placement)
        self._norm = tensors.norm("final_layer_norm", width)
        projection = weights.take("text_projection.weight", -1, width)
        self._projection = projection.to(placement.device, placement.compute_dtype, copy=True)
        self._heads = settings.heads
        self._params = AttentionParams((width // settings.heads) ** -0.5, None, None)

    def __call__(self, batch: PackedBatch, between_layers: Callable[[], None]) -> Tensor:
        """Return the projected states of each text's last token, (texts, dimension)."""
        tokens, rows = len(batch.ids), batch.last_tokens

        def attend(qkv: Tensor) -> Tensor:
            q, k, v = qkv[:tokens].view(tokens, 3, self._heads, -1).unbind(1)
            return pad_rows(masked_attention(q, k, v, batch, self._params))

        def attend_rows(qkv: Tensor) -> Tensor:
            q, k, v = qkv[:tokens].view(tokens, 3, self._heads, -1).unbind(1)
            return masked_attention_of_rows(q[rows], k, v, batch, self._params)

        x = F.embedding(batch.ids, self._token_embeddings) + F.embedding(batch.positions, self._position_embeddings)
        x = self._layers(pad_rows(x), rows, attend, attend_rows, between_layers)
        return F.linear(self._norm(x), self._projection)


class ImageTower:
    """The image tower, which pools its class token.

    Attributes:
        size: Width and height of an image in pixels.
        tokens: Number of tokens of an image: its patches and the class token.
        dimension: Width of the projected states.

    Raises:
        CheckpointError: A tensor is missing, or its shape does not fit.
    """

    def __init__(self, weights: Weights, settings: TowerSettings, placement: Placement) -> None:
        self._placement, self._heads = placement, settings.heads
        tensors = _Tensors(weights, "vision_model.", placement, settings.norm_eps)
        patch_embedding = tensors.take("embeddings.patch_embedding.weight", -1, 3, -1, -1)
        self._width, self._patch = len(patch_embedding), patch_embedding.shape[-1]
        self._patch_embedding = linear(patch_embedding.flatten(1), None, placement)
        self._class_token = tensors.take("embeddings.class_embedding", self._width)
        self._positions = tensors.take("embeddings.position_embedding.weight", -1, self._width)
        self.tokens = len(self._positions)
        grid = math.isqrt(self.tokens - 1)
        self.size = grid * self._patch
        if grid < 1 or grid * grid != self.tokens - 1:
            raise CheckpointError(f"{weights.folder}: {self.tokens} positions are not those of a square image")
        self._before = tensors.norm("pre_layrnorm", self._width)
        self._layers = _Layers(tensors, self._width, settings.heads, placement)
        self._after = tensors.norm("post_layernorm", self._width)
        projection = weights.take("visual_projection.weight", -1, self._width)
        self._projection = projection.to(placement.device, placement.compute_dtype, copy=True)
        self.dimension = len(projection)

    def __call__(self, images: Sequence[np.ndarray], between_layers: Callable[[], None]) -> Tensor:
        """Return the projected states of images, uint8 (3, size, size) each, as (images, dimension)."""
        count, tokens, width = len(images), self.tokens, self._width

        def attend(qkv: Tensor, queries: int = tokens) -> Tensor:
            q, k, v = qkv.view(count, tokens, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            context = F.scaled_dot_product_attention(q[:, :, :queries], k, v)
            return context.transpose(1, 2).reshape(count * queries, width)

        states = self._patch_embedding(patches(images, self._patch, self._placement)).view(count, tokens - 1, width)
        x = torch.cat([self._class_token.expand(count, 1, width), states], 1) + self._positions
        class_tokens = torch.arange(0, count * tokens, tokens, device=x.device)
        x = self._before(x).flatten(0, 1)
        x = self._layers(x, class_tokens, attend, partial(attend, queries=1), between_layers)
        return F.linear(self._after(x), self._projection)

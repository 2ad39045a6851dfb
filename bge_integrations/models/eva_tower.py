"""EVA02-CLIP's image tower, as in Visualized-BGE: images in, the states of their patches out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from bge_integrations.errors import CheckpointError
from bge_integrations.models.encoder import LayerNorm
from bge_integrations.models.linear import linear, pad_rows
from bge_integrations.models.patches import patches

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

    from bge_integrations.models.placement import Placement
    from bge_integrations.models.weights import Weights

_PREFIX = "model_visual.visual."
_NORM_EPS = 1e-6


class _Block:
    """One pre-norm block: attention with rotated queries and keys, then a gated MLP, each with a norm inside."""

    def __init__(self, weights: Weights, prefix: str, width: int, heads: int, placement: Placement) -> None:
        def take(name: str, *shape: int) -> Tensor:
            return weights.take(prefix + name, *shape).to(placement.device, placement.compute_dtype, copy=True)

        def norm(name: str, size: int) -> LayerNorm:
            return LayerNorm(take(f"{name}.weight", size), take(f"{name}.bias", size), _NORM_EPS)

        make = partial(linear, placement=placement)
        self._heads = heads
        q_bias, v_bias = take("attn.q_bias", width), take("attn.v_bias", width)
        self.qkv = make(
            torch.cat([take(f"attn.{part}_proj.weight", width, width) for part in "qkv"]),
            torch.cat([q_bias, torch.zeros_like(q_bias), v_bias]),
        )
        self.attention_out = make(take("attn.proj.weight", width, width), take("attn.proj.bias", width), epilogue="add")
        gate = take("mlp.w1.weight", -1, width)
        inner = len(gate)
        self.gate_up = make(
            torch.cat([gate, take("mlp.w2.weight", inner, width)]),
            torch.cat([take("mlp.w1.bias", inner), take("mlp.w2.bias", inner)]),
        )
        self.down = make(take("mlp.w3.weight", width, inner), take("mlp.w3.bias", width), epilogue="add")
        self.norm1, self.norm2 = norm("norm1", width), norm("norm2", width)
        self.attention_norm, self.mlp_norm = norm("attn.inner_attn_ln", width), norm("mlp.ffn_ln", inner)

    def __call__(self, x: Tensor, images: int, tokens: int, rotation: _Rotation) -> Tensor:
        """Map (images * tokens, width) to the same shape; rows are padded, see `pad_rows`."""
        qkv = self.qkv(self.norm1(x))[: images * tokens]
        q, k, v = qkv.view(images, tokens, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        context = F.scaled_dot_product_attention(rotation(q), rotation(k), v)
        merged = context.transpose(1, 2).reshape(images * tokens, -1)
        x = self.attention_out.add(pad_rows(self.attention_norm(merged)), x)
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return self.down.add(self.mlp_norm(F.silu(gate) * up), x)


class _Rotation:
    """Rotates the queries and keys of patch tokens by their row and column; the class token stays as it is.

    Args:
        cos, sin: (patches, head size), as stored: recomputed in float32, they would differ from the float16 ones.
    """

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        still = torch.ones_like(cos[:1])
        self._cos, self._sin = torch.cat([still, cos]), torch.cat([torch.zeros_like(still), sin])

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate (…, 1 + patches, head size), each pair of neighbouring channels; return the same shape."""
        first, second = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
        turned = torch.stack([-second, first], -1).flatten(-2)
        return x * self._cos + turned * self._sin


class EvaTower:
    """The tower without its final norm and head. All sizes follow from the weights.

    Attributes:
        size: Width and height of an image in pixels.
        tokens: Number of patches of an image.
        width: Width of a patch's state.

    Raises:
        CheckpointError: A tensor is missing, or the shapes do not fit each other.
    """

    def __init__(self, weights: Weights, placement: Placement) -> None:
        self._placement = placement

        def take(name: str, *shape: int) -> Tensor:
            return weights.take(_PREFIX + name, *shape).to(placement.device, placement.compute_dtype, copy=True)

        projection = take("patch_embed.proj.weight", -1, 3, -1, -1)
        self.width, self._patch = len(projection), projection.shape[-1]
        self._projection = linear(projection.flatten(1), take("patch_embed.proj.bias", self.width), placement)
        self._class_token = take("cls_token", 1, 1, self.width)
        self._positions = take("pos_embed", 1, -1, self.width)
        self.tokens = self._positions.shape[1] - 1
        grid = math.isqrt(self.tokens)
        self.size = grid * self._patch
        cos, sin = (take(f"rope.freqs_{name}", self.tokens, -1) for name in ("cos", "sin"))
        head_size = cos.shape[1]
        if self.tokens < 1 or grid * grid != self.tokens or self.width % head_size or head_size % 2:
            raise CheckpointError(
                f"{weights.folder}: the image tower's sizes do not fit each other ({self.tokens} patches, width "
                f"{self.width}, heads of {head_size}); download it again"
            )
        self._rotation = _Rotation(cos, sin)
        self._blocks: list[_Block] = []
        while f"{(prefix := f'{_PREFIX}blocks.{len(self._blocks)}.')}norm1.weight" in weights:
            self._blocks.append(_Block(weights, prefix, self.width, self.width // head_size, placement))
        if not self._blocks:
            raise CheckpointError(f"{weights.folder}: the weights lack the tensor {_PREFIX}blocks.0.norm1.weight")

    def __call__(self, images: Sequence[np.ndarray], between_layers: Callable[[], None]) -> Tensor:
        """Return the last block's states of the patches, (images * tokens, width).

        Args:
            images: uint8 (3, size, size) each.
            between_layers: Called after each block.
        """
        count, tokens = len(images), self.tokens + 1
        states = self._projection(patches(images, self._patch, self._placement)).view(count, self.tokens, self.width)
        x = torch.cat([self._class_token.expand(count, 1, self.width), states], 1) + self._positions
        x = pad_rows(x.flatten(0, 1))
        for block in self._blocks:
            x = block(x, count, tokens, self._rotation)
            between_layers()
        return x[: count * tokens].view(count, tokens, self.width)[:, 1:].flatten(0, 1)

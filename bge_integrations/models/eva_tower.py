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
from bge_integrations.models.linear import linear
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
        self.gate = make(gate, take("mlp.w1.bias", inner), epilogue="silu")
        self.up = make(take("mlp.w2.weight", inner, width), take("mlp.w2.bias", inner), epilogue="multiply")
        self.down = make(take("mlp.w3.weight", width, inner), take("mlp.w3.bias", width), epilogue="add")
        self.norm1, self.norm2 = norm("norm1", width), norm("norm2", width)
        self.attention_norm, self.mlp_norm = norm("attn.inner_attn_ln", width), norm("mlp.ffn_ln", inner)

    def __call__(self, x: Tensor, images: int, tokens: int, rotation: _Rotation) -> Tensor:
        """Map (images * tokens, width) to the same shape."""
        qkv = self.qkv(self.norm1(x)).view(images, tokens, 3, self._heads, -1)
        q, k = rotation(qkv[:, :, :2])
        context = F.scaled_dot_product_attention(q, k, qkv[:, :, 2].transpose(1, 2))
        merged = context.transpose(1, 2).reshape(images * tokens, -1)
        x = self.attention_out.add(self.attention_norm(merged), x)
        inner = self.norm2(x)
        return self.down.add(self.mlp_norm(self.up.multiply(inner, self.gate.silu(inner))), x)


class _Rotation:
    """Rotates the queries and keys of patch tokens by their row and column; the class token stays as it is.

    Two neighbouring channels are a complex number, which a rotation multiplies by cos + i sin.

    Args:
        cos, sin: (patches, head size), as stored: recomputed in float32, they would differ from the float16 ones. Two
            neighbouring channels have the same angle.
    """

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        turns = torch.complex(cos[:, ::2].float(), sin[:, ::2].float())
        self._turns = torch.cat([torch.ones_like(turns[:1]), turns])

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate (images, 1 + patches, 2, heads, head size); return (2, images, heads, 1 + patches, head size)."""
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2)).permute(2, 0, 3, 1, 4)
        rotated = torch.empty(pairs.shape, dtype=pairs.dtype, device=x.device)  # contiguous, which `*` would not make
        torch.mul(pairs, self._turns, out=rotated)
        return torch.view_as_real(rotated).flatten(-2).to(x.dtype)


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
        x = x.flatten(0, 1)
        for block in self._blocks:
            x = block(x, count, tokens, self._rotation)
            between_layers()
        return x.view(count, tokens, self.width)[:, 1:].flatten(0, 1)

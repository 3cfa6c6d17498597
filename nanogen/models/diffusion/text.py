"""A text in a diffusion model: an encoder of its words, and pixels that ask them.

Nichol et al. 2022, GLIDE, section 2; Rombach et al. 2022, section 3.3.
"""

from __future__ import annotations

from typing import Any

from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.backend import Array
from nanogen.models.diffusion.unet import UNet, groups, zeroed
from nanogen.nn import Conv2d, Embedding, GroupNorm, LayerNorm, Linear, Module, Parameter
from nanogen.random import Generator


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Array) -> Tensor:
    """Multi-head attention of queries (N, L, C) to the words (N, S, C) at which mask (N, S) is true: (N, L, C).

    Vaswani et al. 2017, section 3.2."""
    split = lambda x: x.reshape(*x.shape[:2], heads, x.shape[2] // heads).permute(0, 2, 1, 3)
    seen = F.scaled_dot_product_attention(split(query), split(key), split(value), attn_mask=mask[:, None, None])
    return seen.permute(0, 2, 1, 3).reshape(query.shape)


class Block(Module):
    """h + attention(norm(h)), then h + mlp(norm(h)).  Vaswani et al. 2017, section 3.1; norms first: Radford et al.
    2019, section 2.3, whose code has the GELU by tanh too."""

    def __init__(self, width: int, heads: int, rng: Generator):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, LayerNorm(width), LayerNorm(width)
        self.qkv, self.out = Linear(width, 3 * width, rng=rng), Linear(width, width, rng=rng)
        self.wide, self.narrow = Linear(width, 4 * width, rng=rng), Linear(4 * width, width, rng=rng)

    def forward(self, h: Tensor, mask: Array) -> Tensor:
        query, key, value = self.qkv(self.norm1(h)).split(h.shape[2], 2)
        h = h + self.out(attend(query, key, value, self.heads, mask))
        return h + self.narrow(F.gelu(self.wide(self.norm2(h)), approximate="tanh"))


class TextEncoder(Module):
    """A transformer over the words of captions.

    Args:
        words: the number of words.
        longest: the number of words of the longest caption.
        width: of the features, divisible into the heads.
    """

    def __init__(self, words: int, longest: int, width: int, heads: int, blocks: int, rng: Generator):
        super().__init__()
        self.word = Embedding(words, width, rng=rng)
        self.position = Parameter(rng.normal((longest, width)))
        self.blocks, self.norm = [Block(width, heads, rng) for _ in range(blocks)], LayerNorm(width)

    def forward(self, captions: Array) -> Tensor:
        """Captions (N, S), the numbers of their words padded with 0, to a feature for each word: (N, S, width)."""
        h = self.word(captions) + self.position
        for block in self.blocks:
            h = block(h, captions != 0)
        return self.norm(h)


class CrossAttention(Module):
    """Pixels ask the words: h → h + out(softmax(QKᵀ/√d) V), Q of the pixels, K and V of the words.  Rombach et al.
    2022, section 3.3."""

    def __init__(self, channels: int, width: int, heads: int, rng: Generator):
        super().__init__()
        self.heads, self.norm = heads, GroupNorm(groups(channels), channels)
        self.query, self.key_value = Conv2d(channels, channels, 1, rng=rng), Linear(width, 2 * channels, rng=rng)
        self.out = zeroed(Conv2d(channels, channels, 1, rng=rng))

    def forward(self, h: Tensor, words: Tensor, mask: Array) -> Tensor:
        """Of images (N, channels, H, W), words (N, S, width) and the mask (N, S) of those that are there."""
        n, c, height, width = h.shape
        query = self.query(self.norm(h)).permute(0, 2, 3, 1).reshape(n, height * width, c)
        key, value = self.key_value(words).split(c, 2)
        seen = attend(query, key, value, self.heads, mask)
        return h + self.out(seen.reshape(n, height, width, c).permute(0, 3, 1, 2))


class FirstWord(Linear):
    """A linear map of the feature of the first word, which has seen all the others, in place of a label's embedding.

    Nichol et al. 2022, section 2.3."""

    def forward(self, text: tuple[Tensor, Array]) -> Tensor:  # type: ignore[override]
        return super().forward(text[0][:, 0])


class TextUNet(UNet):
    """A U-Net whose labels are captions (N, S): their first word's feature is beside the time, and the pixels see all
    words by cross-attention beside their self-attention."""

    def __init__(self, words: int, longest: int, rng: Generator, **settings: Any):
        super().__init__(rng=rng, **settings)
        channels, heads = self.middle1.conv2.out_channels, self.attention.heads
        self.text = TextEncoder(words, longest, channels, heads, 2, rng)
        self.label: Any = FirstWord(channels, self.time2.out_features, rng=rng)
        self.cross = CrossAttention(channels, channels, heads, rng)

    def forward(self, x: Tensor, t: Any, labels: Any = None, rng: Generator | None = None) -> Tensor:
        return super().forward(x, t, (self.text(labels), labels != 0), rng)

    def attend(self, h: Tensor, labels: Any) -> Tensor:
        return self.cross(self.attention(h), *labels)

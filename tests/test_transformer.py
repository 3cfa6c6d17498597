"""The transformer of the DDPM: patches and positions, adaLN-zero, attention, and their counterparts in torch."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import leaf
from hypothesis import given
from hypothesis import strategies as st

import nanogen as ng
from benchmarks import torch_models
from nanogen import functional as F
from nanogen.autograd import Tensor
from nanogen.models import DDPM
from nanogen.models.diffusion.transformer import (
    Block,
    Transformer,
    adaptive_layer_norm,
    patchify,
    position_embedding,
    unpatchify,
)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def small(shape: tuple[int, int, int] = (1, 4, 6), **settings: Any) -> DDPM:
    settings = {"T": 5, "channels": 8, "multipliers": (1,), "heads": 2, "depth": 2, **settings}
    return DDPM(shape, 5, network="transformer", rng=ng.Generator(1), **settings).to(np.float64)


def awake(model: Any) -> Any:
    """Without the zeros that it starts with."""
    return torch_models.stirred(model, 0.3)


@given(n=st.integers(1, 2), c=st.integers(1, 3), rows=st.integers(1, 3), columns=st.integers(1, 3), p=st.integers(1, 3))
def test_unpatchify_is_the_inverse_of_patchify(n: int, c: int, rows: int, columns: int, p: int) -> None:
    """Token r · columns + s is the patch at row r and column s, its pixels in raster order, their colours together.
    Peebles & Xie 2023, section 3.2 and figure 4."""
    x = np.arange(n * c * rows * p * columns * p, dtype=float).reshape(n, c, rows * p, columns * p)
    tokens = patchify(Tensor(x), p)
    assert tokens.shape == (n, rows * columns, p * p * c)
    for r, s in np.ndindex(rows, columns):
        patch = x[:, :, r * p : (r + 1) * p, s * p : (s + 1) * p]
        assert np.array_equal(tokens.data[:, r * columns + s], patch.transpose(0, 2, 3, 1).reshape(n, -1))
    assert np.array_equal(unpatchify(tokens, p, (rows * p, columns * p)).data, x)


def test_position_embedding_by_its_sines() -> None:
    """sin and cos of (row · ω_i), then of (column · ω_i), ω_i = 10000^(−i/2) for 8 channels: a quarter each."""
    found = position_embedding(2, 3, 8)
    for row, column in np.ndindex(2, 3):
        expected = [f(n * w) for n in (row, column) for f in (math.sin, math.cos) for w in (1.0, 0.01)]
        np.testing.assert_allclose(found[row * 3 + column], expected, rtol=1e-14)


def test_adaptive_layer_norm_gives_the_moments_of_its_condition() -> None:
    """Each token has the mean of the shift and the standard deviation |1 + scale|, up to eps."""
    h, scale, shift = Tensor(3 + 2 * normal(2, 5, 64)), Tensor(normal(2, 1, 1)), Tensor(normal(2, 1, 1) + 1)
    found = adaptive_layer_norm(h, *(x.expand(2, 1, 64) for x in (scale, shift))).data
    np.testing.assert_allclose(found.mean(-1), shift.data[..., 0].repeat(5, 1), rtol=1e-10)
    np.testing.assert_allclose(found.std(-1), abs(1 + scale.data[..., 0]).repeat(5, 1), rtol=1e-6)


def test_blocks_are_the_identity_at_the_start() -> None:
    """adaLN-zero: the gates begin at 0, for every condition; so the output of the whole network is 0, and the first
    step moves the last layer.  Peebles & Xie 2023, section 3.2."""
    block = Block(8, 2, 0.0, ng.Generator(0)).to(np.float64)
    h = Tensor(normal(2, 6, 8))
    assert np.array_equal(block(h, Tensor(5 * normal(2, 1, 8))).data, h.data)
    model = small()
    assert not model.predict_noise(Tensor(normal(2, 1, 4, 6)), np.array([1, 5])).data.any()
    slopes = ng.grad(model.loss(np.full((2, 1, 4, 6), 3, np.uint8), ng.Generator(0)), [model.transformer.last.weight])
    assert slopes[0] is not None
    assert slopes[0].data.any()


def test_a_block_by_hand() -> None:
    """h + g₁ · attention((1 + s₁) norm(h) + b₁), then + g₂ · mlp((1 + s₂) norm(h) + b₂), a head at a time in NumPy,
    with b₁, s₁, g₁, b₂, s₂, g₂ linear in the condition.  Peebles & Xie 2023, figure 3."""
    block = awake(Block(6, 2, 0.0, ng.Generator(0)).to(np.float64))
    h, condition = normal(2, 5, 6), normal(2, 1, 6)
    norm = lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    linear = lambda layer, x: x @ layer.weight.data.T + layer.bias.data
    b1, s1, g1, b2, s2, g2 = np.split(linear(block.condition, condition), 6, axis=-1)
    query, key, value = np.split(linear(block.qkv, (1 + s1) * norm(h) + b1), 3, axis=-1)
    seen = []
    for head in (slice(0, 3), slice(3, 6)):
        odds = np.exp(query[..., head] @ key[..., head].swapaxes(1, 2) / math.sqrt(3))
        seen.append(odds / odds.sum(-1, keepdims=True) @ value[..., head])
    middle = h + g1 * linear(block.out, np.concatenate(seen, -1))
    inner = linear(block.mlp1, (1 + s2) * norm(middle) + b2)
    inner = inner * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
    expected = middle + g2 * linear(block.mlp2, inner)
    np.testing.assert_allclose(block(Tensor(h), Tensor(condition)).data, expected, rtol=1e-10, atol=1e-12)


def test_only_positions_tell_patches_apart() -> None:
    """Without position embeddings, permuted patches of the image give permuted patches of the prediction; with them
    they do not."""
    model = awake(small(depth=1))
    network, x, t = model.transformer, normal(2, 1, 4, 6), np.array([2, 4])
    order = np.random.default_rng(1).permutation(6)
    moved = unpatchify(Tensor(patchify(Tensor(x), 2).data[:, order]), 2, (4, 6))
    tokens = lambda image: patchify(network(Tensor(image), t), 2).data
    assert abs(tokens(moved.data) - tokens(x)[:, order]).max() > 1e-3
    network.positions = 0 * network.positions
    np.testing.assert_allclose(tokens(moved.data), tokens(x)[:, order], rtol=0, atol=1e-12)


def test_time_and_label_reach_every_token() -> None:
    """A prediction depends on its own time and label, at every pixel, and on no other image's."""
    model = awake(small(classes=3))
    x, times, labels = Tensor(normal(3, 1, 4, 6)), np.array([1, 2, 3]), np.array([0, 1, 2])
    known = model.predict_noise(x, times, labels=labels).data
    for other in ({"t": np.array([5, 2, 3])}, {"labels": np.array([1, 1, 2])}):
        found = model.predict_noise(x, **{"t": times, "labels": labels, **other}).data
        assert (abs(found[0] - known[0]) > 1e-6).all()
        np.testing.assert_allclose(found[1:], known[1:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 6, 4)])
def test_the_transformer_of_torch(shape: tuple[int, int, int]) -> None:
    """The loss and all its gradients are those of the same layers in torch, to 1e-9."""
    ours = awake(small(shape, depth=2))
    theirs = torch_models.mirror(copy.deepcopy(ours))
    images = np.random.default_rng(1).integers(0, 5, (4, *shape)).astype(np.uint8)
    loss, expected = ours.loss(images, ng.Generator(1)), theirs.loss(images, ng.Generator(1))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    named = dict(theirs.named_parameters())
    slopes = dict(zip(named, torch.autograd.grad(expected, list(named.values())), strict=True))
    scale = max(float(slope.abs().max()) for slope in slopes.values())
    assert {key for key, _ in ours.named_parameters()} == named.keys()
    for (key, _), g in zip(ours.named_parameters(), ng.grad(loss, list(ours.parameters())), strict=True):
        np.testing.assert_allclose(g.data, slopes[key].numpy(), rtol=1e-7, atol=1e-9 * scale, err_msg=key)


def test_dropout_only_in_training() -> None:
    model = awake(small(dropout=0.5))
    x, t = Tensor(normal(2, 1, 4, 6)), np.array([1, 2])
    first, again = (model.predict_noise(x, t, ng.Generator(seed)).data for seed in (0, 1))
    assert abs(first - again).max() > 1e-6
    assert np.array_equal(model.predict_noise(x, t).data, model.predict_noise(x, t).data)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"patch": 3}, "patch must divide"), ({"patch": 0}, "patch"), ({"depth": 0}, "depth"),
        ({"channels": 6}, "multiple of 4, got 6"), ({"heads": 3}, "3 heads"),
    ],
)  # fmt: skip
def test_settings_are_checked(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small(**settings)
    with pytest.raises(ValueError, match="network must be"):
        DDPM((1, 4, 4), 4, network="mlp")


def test_samples_and_bound() -> None:
    """What the base class does with any network: levels, and a finite bound."""
    model = small((1, 4, 4))
    images = model.sample(3, ng.Generator(0))
    assert (images.shape, images.dtype) == ((3, 1, 4, 4), np.uint8)
    assert np.isfinite(model.elbo(images, ng.Generator(1)).data).all()
    assert isinstance(model.denoiser, Transformer)


# Attention as one operation


@pytest.mark.parametrize("mask", ["none", "bool", "float", "gradient", "causal"])
def test_attention_by_its_definition(mask: str) -> None:
    """Σ_j softmax_j(q_i·k_j/√d + m_ij) v_j, row by row, and its gradient by central differences; with a mask that has a
    gradient itself, that one too."""
    query, key, value = (leaf(normal(2, 3, n, d)) for n, d in ((4, 5), (6, 5), (6, 2)))
    if mask == "causal":
        key, value = leaf(normal(2, 3, 4, 5)), leaf(normal(2, 3, 4, 2))
    allowed = np.arange(24).reshape(4, 6) % 5 > 0
    given = {"bool": allowed, "float": normal(3, 1, 6), "gradient": leaf(normal(4, 6))}.get(mask)
    added: Any = {"bool": np.where(allowed, 0, -np.inf), "causal": np.where(np.tri(4) > 0, 0, -np.inf)}.get(mask)
    added = (0.0 if given is None else np.asarray(getattr(given, "data", given))) if added is None else added
    odds = np.exp(np.einsum("nhid,nhjd->nhij", query.data, key.data) / math.sqrt(5) + added)
    expected = np.einsum("nhij,nhjv->nhiv", odds / odds.sum(-1, keepdims=True), value.data)
    attend = lambda q, k, v, *m: F.scaled_dot_product_attention(q, k, v, *(m or (given,)), is_causal=mask == "causal")
    inputs = (query, key, value, *((given,) if mask == "gradient" else ()))
    np.testing.assert_allclose(attend(*inputs).data, expected, rtol=1e-12, atol=1e-14)
    assert ng.autograd.gradcheck(attend, inputs)

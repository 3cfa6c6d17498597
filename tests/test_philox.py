"""Random numbers of a GPU's kernels, drawn on the CPU here: Philox4x32-10 by array operations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_backend import DRAWS

import nanogen as ng
from nanogen.kernels.cuda import random

# Random123's known answers (Salmon et al. 2011): counter, key, block.
KNOWN_BLOCKS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "block"), KNOWN_BLOCKS)
def test_philox_gives_the_known_answers(counter: str, key: str, block: str) -> None:
    """Counter and key to the published block; as numbers and as arrays."""
    given, expected = ([int(word, 16) for word in text.split()] for text in (f"{counter} {key}", block))
    assert [int(word) for word in random.philox(*map(np.uint64, given))] == expected
    arrays = [np.full(3, word, np.uint64) for word in given]
    assert np.array_equal(random.philox(*arrays), np.array([expected] * 3, np.uint64).T)


WORDS = st.one_of(st.integers(0, random.WORD), st.sampled_from([0, 1, random.WORD - 1, random.WORD]))


@given(WORDS, WORDS)
def test_words_become_numbers(high: int, low: int) -> None:
    """The leading 24 or 53 bits of the words, as a fraction: exact, and below 1 even if all bits are set."""
    words = np.array([high], np.uint64), np.array([low], np.uint64)
    assert random.fraction32(words[0]).dtype == np.float32
    assert random.fraction32(words[0])[0] == (high >> 8) / 2**24 < 1
    assert random.fraction64(*words)[0] == ((high << 32 | low) >> 11) / 2**53 < 1


@given(st.integers(0, 2**40), st.sampled_from([1, 2, 3, 1000, 2**31, 2**32 - 1]), st.integers(-5, 5))
def test_integers_of_words(seed: int, count: int, low: int) -> None:
    """low + ⌊count · w / 2⁶⁴⌋ of the words w of 64 bits that the same draw of a permutation is made of."""
    source = ng.Generator(seed, drawn="device")._source
    words = source._draw(random.long_words, 2, 7, np.uint64)
    drawn = ng.Generator(seed, drawn="device").integers(low, low + count, 7)
    assert drawn.tolist() == [low + count * int(word) // 2**64 for word in words]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(blocks=st.lists(st.tuples(*[WORDS] * 4), min_size=1, max_size=5))
def test_normal_numbers_of_words(dtype: Any, blocks: list[tuple[int, ...]]) -> None:
    """√(−2 ln u) (cos 2πv, sin 2πv), where u = (w + 1/2) / 2³² and v = w' / 2³² of neighbouring words, or, in float64,
    u = (b + 1) / 2⁵³ and v = b' / 2⁵³ of their leading 53 bits: finite whatever the words, since u is never 0.  Where
    u is nearly 1, rounding it by eps moves the root by √eps.

    Box & Muller 1958."""
    kernel, words = random.NORMAL[np.dtype(dtype)]
    out = np.empty((4 // words, len(blocks)), dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "philox", lambda *counter: tuple(np.array(blocks, np.uint64).T))
        kernel(np.zeros(len(blocks), np.uint64), *[np.uint64(0)] * 4, *out)
    for numbers, block in zip(out.T, blocks, strict=True):
        if dtype == np.float32:
            pairs = [((u + 0.5) / 2**32, v / 2**32) for u, v in (block[:2], block[2:])]
        else:
            u, v = ((high << 32 | low) >> 11 for high, low in (block[:2], block[2:]))
            pairs = [((u + 1) / 2**53, v / 2**53)]
        expected = [math.sqrt(-2 * math.log(u)) * f(2 * math.pi * v) for u, v in pairs for f in (math.cos, math.sin)]
        close = 1e-5 if dtype == np.float32 else 1e-12
        assert numbers == pytest.approx(expected, rel=close, abs=float(np.finfo(dtype).eps) ** 0.5)


@given(st.integers(0, 2**64 - 1), st.tuples(*[WORDS] * 4))
def test_a_block_by_its_number(number: int, rest: tuple[int, ...]) -> None:
    """The counter's first word is the lower half of the block's number, the second the upper half."""
    rest = tuple(np.uint64(word) for word in rest)
    block = random.words_of(np.uint64(number), *rest)
    assert block == random.philox(np.uint64(number % 2**32), np.uint64(number // 2**32), *rest)


def test_a_generator_draws_its_blocks_in_order() -> None:
    """Its first words are those of block 0, then come those of block 1."""
    rng = ng.Generator(3, drawn="device")
    assert rng.state["position"] == 0
    key = [np.uint64(word) for word in rng.state["key"]]
    words = np.array([random.words_of(np.uint64(block), *key) for block in range(3)]).reshape(-1)
    assert np.array_equal(rng.uniform(12), (words >> np.uint64(8)).astype(np.float64) / 2**24)
    assert rng.state["position"] == 12


@pytest.mark.parametrize("kind", DRAWS)
def test_a_generator_begins_at_a_key(kind: str) -> None:
    """`at` the key of a generator that has drawn nothing yet, any other one draws what that one would."""
    one = ng.Generator(4, "cpu", "device").stream(9)
    assert one.key.dtype == np.uint64
    assert one.key.tolist() == one.state["key"]
    for other in (ng.Generator(0, "cpu", "device"), ng.Generator(1, "cpu")):
        assert np.array_equal(
            DRAWS[kind](other.at(one.key), 9), DRAWS[kind](ng.Generator(4, "cpu", "device").stream(9), 9)
        )


def test_what_a_device_does_not_draw() -> None:
    """Integers from none, or from more than fit a word, and types that are no floating-point ones, are refused."""
    rng = ng.Generator(0, drawn="device")
    for low, high in ((3, 3), (4, 3), (0, 2**32)):
        with pytest.raises(ValueError, match="integers"):
            rng.integers(low, high)
    for draw in (rng.normal, rng.uniform):
        with pytest.raises(TypeError, match="float16"):
            draw((2,), np.float16)

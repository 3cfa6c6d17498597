"""Images of fewer levels than those of the data set: `--set levels=2`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogen import data
from nanogen.cli import main
from nanogen.data import Images
from nanogen.training.run import Run, load_images


@given(old=st.integers(2, 256), new=st.integers(2, 256))
def test_each_level_becomes_the_nearest(old: int, new: int) -> None:
    """k of K levels becomes the l of L with the least |k/(K − 1) − l/(L − 1)|, the larger of two, in whole numbers.

    So of two levels, 1 stands for at least half of the largest; all that is not a level is as before."""
    images = Images(np.arange(old, dtype=np.uint8).reshape(-1, 1, 1, 1), np.arange(old) % 3, old, "x", ("a", "b", "c"))
    if new > old:
        with pytest.raises(ValueError, match=f"levels must be in 2 … {old}, those of x, got {new}"):
            images.requantised(new)
        return
    found = images.requantised(new)
    k, others = np.arange(old)[:, None], np.arange(new)[::-1]  # argmin takes the first of equals: the larger one
    expected = others[abs(k * (new - 1) - others * (old - 1)).argmin(1)]
    assert np.array_equal(found.images.reshape(-1), expected)
    assert dataclasses.replace(found, images=images.images, levels=old) == images
    assert found.images.dtype == np.uint8
    assert (found.fingerprint == images.fingerprint) == (new == old)


def test_the_threshold_of_the_digits() -> None:
    """Of 17 levels, 8 and above become 1."""
    digits = data.load("digits")
    assert np.array_equal(digits.requantised(2).images, digits.images >= 8)
    with pytest.raises(ValueError, match="got 1"):
        digits.requantised(1)


def test_a_run_of_fewer_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained, drawn from and resumed with images of its levels, and so is a run with its settings; of the data set's
    own levels nothing is said in the settings; more levels than the data has are refused."""
    out, again, plain = (str(tmp_path / name) for name in ("run", "again", "plain"))
    own = ["latent=2", "channels=2", "stages=1"]
    train = ["train", "vae", "--steps", "3", "--batch", "8", "--quiet"]
    assert main([*train, "--out", out, "--set", "levels=2", *own]) == 0
    settings = Run(out).settings()
    assert (settings.levels, settings.data_levels) == (2, 17)
    for split in ("train", "test"):
        expected = data.load("digits", split).images >= 8
        assert np.array_equal(Run(out).images(split).images, expected)
    assert main(["sample", out, "-n", "9", "--out", f"{out}/x.npz"]) == 0
    assert {*np.unique(np.load(f"{out}/x.npz")["images"])} == {0, 1}
    assert main(["train", "--out", out, "--resume", "--steps", "5", "--set", "levels=2"]) == 0
    assert main(["train", "--config", f"{out}/settings.json", "--out", again, "--quiet"]) == 0
    assert Run(again).settings().fingerprints == settings.fingerprints
    assert main([*train, "--out", plain, "--set", "levels=17", *own]) == 0
    assert Run(plain).settings().data_levels is None
    read = dataclasses.replace(settings, data_levels=16)
    with pytest.raises(ValueError, match=r"of 17 levels now, but the model was made for \(1, 8, 8\) of 16"):
        load_images(read, "test")
    capsys.readouterr()
    for command, said in (
        ([*train, "--out", f"{plain}2", "--set", "levels=18"], "levels must be in 2 … 17, those of digits, got 18"),
        ([*train, "--out", f"{plain}2", "--set", "levels=few"], "levels must be an integer, got 'few'"),
        (["train", "--out", out, "--resume", "--set", "levels=3"], "has levels 2, not 3: --resume keeps its settings"),
    ):
        assert main(command) == 2
        assert said in capsys.readouterr().err


def test_translations_of_a_run_of_fewer_levels(tmp_path: Path) -> None:
    """The given images, of the data's levels or of the run's, become those of the run."""
    out, small = str(tmp_path / "run"), ["channels=2", "stages=1", "discriminator_stages=0", "source=inverted"]
    train = ["train", "pix2pix", "--steps", "2", "--batch", "8", "--quiet", "--out", out, "--set", "levels=5"]
    assert main([*train, *small]) == 0
    found = []
    for images in (digits := data.load("digits", "test"), digits.requantised(5)):
        np.savez(tmp_path / "x.npz", images=images.images, levels=images.levels)
        command = ["translate", out, "--images", str(tmp_path / "x.npz"), "--out", str(tmp_path / "y.npz")]
        assert main(command) == 0
        found.append(np.load(tmp_path / "y.npz")["images"])
    assert np.array_equal(*found)
    assert found[0].max() <= 4

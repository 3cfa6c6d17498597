"""A model of its own file, registered in one line, is trained, drawn from, evaluated and shown as any other."""

from __future__ import annotations

import inspect
import io
import json
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nanogen as ng
from nanogen import data
from nanogen.cli import main
from nanogen.distributions import Categorical
from nanogen.models import MODELS, GenerativeModel, Recipe
from nanogen.nn import Parameter
from nanogen.training.run import PICTURES, SAMPLES, Run

ROOT = Path(ng.__file__).parent


class IndependentPixels(GenerativeModel):
    """Each number of an image by itself: a softmax over the levels.

    Args:
        image_shape: (C, H, W).
        levels: the number of integer levels.
        spread: of the first logits.
        rng: draws them; `Generator(0)` unless given.
    """

    summary = "each pixel by itself, exact likelihood"
    small = Recipe(steps=150, lr=0.1, warmup=0, model={"spread": 0.25})

    def __init__(self, image_shape: tuple[int, int, int], levels: int, spread: float = 0.5, rng: Any = None):
        super().__init__(image_shape, levels)
        self.logits = Parameter(np.float32(spread) * (rng or ng.Generator(0)).normal((*image_shape, levels)))

    def log_prob(self, images: Any, labels: Any = None) -> ng.Tensor:
        levels = self.pixels(images)
        return Categorical(ng.stack([self.logits] * len(levels))).log_prob(levels).sum((1, 2, 3))

    def loss(self, images: Any, rng: Any, labels: Any = None) -> ng.Tensor:
        return -self.log_prob(images).mean() / self.dimensions

    def sample(self, n: int, rng: Any, labels: Any = None) -> Any:
        with ng.no_grad():
            return Categorical(ng.stack([self.logits] * n)).sample(rng).data.astype("uint8")

    network_evaluations = 0

    def illustrations(self, train: Any, test: Any, rng: Any) -> dict[str, np.ndarray]:
        """likeliest: of each pixel the likeliest level, beside the first training and the first test image."""
        likeliest = self.logits.data.argmax(-1).astype(np.uint8)
        return {"likeliest": np.stack([likeliest, train.images[0], test.images[0]])[None]}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "pixels", IndependentPixels)


def test_a_model_of_one_file(registered: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command line: listed with its settings; trained by its recipe to about 2.4 bits a pixel, the entropy of
    the levels' frequencies; its pictures drawn and in the page; drawn from; evaluated; sampling settings that are not
    its own refused."""
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert f"  {'pixels':{max(map(len, MODELS))}} each pixel by itself, exact likelihood\n" in said
    assert "spread=0.25                of the first logits. (images beyond 16 pixels: 0.5)" in said
    out = tmp_path / "run"
    assert main(["train", "pixels", "--out", str(out)]) == 0
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["steps"], settings["lr"], settings["model_settings"]) == (150, 0.1, {"spread": 0.25})
    model, train, test = Run(out).model(), data.load("digits"), data.load("digits", "test")
    assert f"wrote {out / 'likeliest.png'}" in capsys.readouterr().out
    drawn = np.asarray(Image.open(out / "likeliest.png")).astype(float)
    shown = model.illustrations(train, test, ng.Generator(0).stream(PICTURES))["likeliest"]
    assert drawn.shape == (56, 3 * 56 + 2 * 7)
    for i, image in enumerate(shown[0]):
        cell = drawn[::7, i * 63 : i * 63 + 56 : 7]
        assert np.array_equal(cell, (image[0] * (255 / 16)).round())
    assert "likeliest" in (out / "index.html").read_text()

    assert main(["sample", str(out), "-n", "9", "--seed", "2", "--out", str(tmp_path / "x.npz")]) == 0
    expected = model.sample(9, ng.Generator(2).stream(SAMPLES))
    assert np.array_equal(np.load(tmp_path / "x.npz")["images"], expected)

    assert main(["evaluate", str(out), "--samples", "40"]) == 0
    found = json.loads((out / "evaluation.json").read_text())
    assert found["likelihood"]["kind"] == "exact"
    assert found["likelihood"]["bits_per_dim"] == pytest.approx(2.4, abs=0.1)
    assert found["network_evaluations"] == 0
    capsys.readouterr()
    able = ", ".join(name for name, cls in MODELS.items() if "steps" in inspect.signature(cls.sample).parameters)
    for flags in (["--steps", "2"], ["--eta", "0.5"]):
        assert main(["sample", str(out), "--out", str(tmp_path / "y.png"), *flags]) == 2
        said = f"nanogen: error: {flags[0]} is for {able}; {out} is a run of pixels\n"
        assert capsys.readouterr().err == said


def test_nothing_but_a_models_own_file_knows_it() -> None:
    """Outside of `models/` no program names a model's class, or the word that it is registered by."""
    classes, words = {cls.__name__ for cls in MODELS.values()}, set(MODELS)
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        if path.is_relative_to(ROOT / "models") or path.is_relative_to(ROOT / "testing"):  # these judge anybody's
            continue
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type == tokenize.NAME and token.string in classes:
                found.append(f"{path.name}:{token.start[0]}: {token.string}")
            if token.type == tokenize.STRING and token.string.strip("'\"") in words:
                found.append(f"{path.name}:{token.start[0]}: {token.string}")
    assert found == []
    for path in (ROOT / "models").rglob("*.py"):
        if path.name != "__init__.py":
            names = {token.string for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline)}
            own = [cls for cls in MODELS.values() if inspect.getsourcefile(cls) == str(path)]
            assert names & classes <= {base.__name__ for cls in own for base in cls.__mro__}, "another's model"

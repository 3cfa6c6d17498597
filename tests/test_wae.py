"""Autoencoders with and without a penalty on codes: discrepancies in closed form, losses by hand, fitted codes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
from helpers import check_gradients, check_slope
from scipy import integrate, stats

import nanogen as ng
from nanogen import cli
from nanogen.cli import main
from nanogen.models import AAE, WAE, Autoencoder
from nanogen.models.latent.base import AVERAGED
from nanogen.models.latent.wae import inverse_multiquadratic, mmd
from nanogen.training.loop import Trainer

SIGMAS = 6  # standard errors; a right estimate is that far off once in 5e8

MODELS: dict[str, Callable[..., Any]] = {
    "autoencoder": Autoencoder,
    "autoencoder, categorical": lambda *how, **more: Autoencoder(*how, decoder="categorical", **more),
    "wae": WAE,
    "wae, adversarial": lambda *how, **more: WAE(*how, penalty="adversarial", hidden=5, **more),
    "wae, logistic": lambda *how, **more: WAE(*how, decoder="logistic", **more),
    "aae": lambda *how, **more: AAE(*how, **{"hidden": 5, "discriminator_steps": 2, **more}),
}


def small(name: str, **settings: Any) -> Any:
    """A model in float64 whose weights are large enough that images depend on codes, and codes on images."""
    settings = {"latent": 3, "channels": 2, "stages": 1, **settings}
    model = MODELS[name]((1, 3, 2), 4, rng=ng.Generator(1), **settings)
    for parameter in model.to(np.float64).parameters():
        parameter.data = parameter.data * 1.7
    return model


def some_images(n: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, (n, 1, 3, 2)).astype(np.uint8)


# The maximum mean discrepancy


def gaussian(x: ng.Tensor, y: ng.Tensor) -> ng.Tensor:
    """exp(−½ ‖x − y‖²)."""
    return ng.functional.exp(-0.5 * ((x.reshape(len(x), 1, -1) - y) ** 2).sum(2))


def expected_gaussian(mean: np.ndarray, covariance: np.ndarray) -> float:
    """E exp(−½ ‖u‖²) of u ~ N(mean, covariance): det(I + C)^(−½) exp(−½ mᵀ (I + C)⁻¹ m)."""
    total = np.eye(len(mean)) + covariance
    return math.exp(-0.5 * mean @ np.linalg.solve(total, mean)) / math.sqrt(np.linalg.det(total))


def test_mmd_is_its_double_loop() -> None:
    """Σ_{i≠j} k(x_i, x_j) / N(N − 1) + Σ_{i≠j} k(y_i, y_j) / M(M − 1) − 2 Σ k(x_i, y_j) / NM, term by term.  Gretton et
    al. 2012, eq. 3."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 3)), 0.5 + rng.standard_normal((4, 3))
    for kernel in (gaussian, inverse_multiquadratic):
        k = lambda a, b: kernel(ng.tensor(a[None]), ng.tensor(b[None])).item()  # noqa: B023
        pairs = lambda a: [k(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j]  # noqa: B023
        across = [k(a, b) for a, b in itertools.product(x, y)]
        expected = np.mean(pairs(x)) + np.mean(pairs(y)) - 2 * np.mean(across)
        assert mmd(ng.tensor(x), ng.tensor(y), kernel).item() == pytest.approx(expected, rel=1e-12)
    for few in (x[:1], x[:0]):
        with pytest.raises(ValueError, match="at least 2 rows"):
            mmd(ng.tensor(few), ng.tensor(y), gaussian)
        with pytest.raises(ValueError, match="at least 2 rows"):
            mmd(ng.tensor(y), ng.tensor(few), gaussian)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_mmd_is_unbiased(shift: float) -> None:
    """For x ~ N(0, I) and y ~ N(shift, diag(σ²)) with the kernel exp(−½ ‖x − y‖²), E[mmd] has a closed form, which is 0
    for equal distributions.  The mean of 800 estimates from 6 and 5 draws is within six standard errors of it, of about
    0.004.  Power: the same with the diagonals (the V-statistic) is on average (1 − E k)(1/6 + 1/5) ≈ 0.25 too large,
    more than forty standard errors, and is refused."""
    rng, n, m, rounds = np.random.default_rng(1), 6, 5, 800
    mean, std = np.array([shift, 0.0]), np.array([1.0 + 0.5 * shift, 1.0])
    own, other, both = np.eye(2), np.diag(std**2), np.eye(2) + np.diag(std**2)
    zero = np.zeros(2)
    e_x, e_y, e_xy = expected_gaussian(zero, 2 * own), expected_gaussian(zero, 2 * other), expected_gaussian(mean, both)
    truth = e_x + e_y - 2 * e_xy
    assert truth == 0 if shift == 0 else truth > 0.05
    found, with_diagonals = [], []
    for _ in range(rounds):
        x, y = ng.tensor(rng.standard_normal((n, 2))), ng.tensor(mean + std * rng.standard_normal((m, 2)))
        found.append(mmd(x, y, gaussian).item())
        within = [gaussian(a, a).mean().item() for a in (x, y)]
        with_diagonals.append(sum(within) - 2 * gaussian(x, y).mean().item())
    z = lambda values: (np.mean(values) - truth) / (np.std(values) / rounds**0.5)
    assert abs(z(found)) < SIGMAS
    assert z(with_diagonals) > 40


def test_the_kernel() -> None:
    """k(x, y) = Σ_s C_s / (C_s + ‖x − y‖²) with C_s = 2ds, s = 0.1 … 10: 7 for equal codes, ½ a scale at the distance
    ‖x − y‖² = C_s, and 2d is E‖x − y‖² of two draws from the prior.  Tolstikhin et al. 2018, section 4."""
    rng = np.random.default_rng(0)
    for d in (1, 4):
        x, y = rng.standard_normal((3, d)), rng.standard_normal((2, d))
        squares = ((x[:, None] - y) ** 2).sum(2)
        expected = sum(2 * d * s / (2 * d * s + squares) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))
        np.testing.assert_allclose(inverse_multiquadratic(ng.tensor(x), ng.tensor(y)).data, expected, rtol=1e-12)
    equal = ng.tensor(np.full((2, 3), 2.0))
    np.testing.assert_allclose(inverse_multiquadratic(equal, equal).data, 7)
    far = ((rng.standard_normal((20_000, 4)) - rng.standard_normal((20_000, 4))) ** 2).sum(1)
    assert abs(far.mean() - 2 * 4) < SIGMAS * far.std() / 20_000**0.5


def test_gradients_of_mmd() -> None:
    """By x and by y, of first and second order, those of central differences."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4, 2)), rng.standard_normal((3, 2))
    check_gradients(lambda x, y: mmd(x, y, inverse_multiquadratic), x, y)


# Losses


def test_the_cost_of_an_autoencoder_by_hand() -> None:
    """`squared`: the sum over the pixels, scaled to [−1, 1], of (x − G(Q(x)))².  `categorical`: −log softmax at the
    level.  The loss is the mean over images and pixels, and draws nothing."""
    images, rng = some_images(), ng.Generator(0)
    model = small("autoencoder")
    x = 2 * images / 3 - 1
    squares = (x - model.decoder(model.encoder(ng.tensor(x))).data) ** 2
    cost = model.cost(images, model.code(images)).data
    np.testing.assert_allclose(cost, squares.sum((1, 2, 3)), rtol=1e-12)
    assert model.loss(images, rng).item() == pytest.approx(squares.mean(), rel=1e-12)
    assert model.loss_unit == "squared error per dimension"

    model = small("autoencoder, categorical")
    logits = model.decoder(model.encoder(ng.tensor(x))).data.reshape(5, 4, 3, 2)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    chosen = -np.take_along_axis(log_p, images.astype(int), 1)
    assert model.loss(images, rng).item() == pytest.approx(chosen.mean(), rel=1e-12)
    assert np.array_equal(rng.normal(3), ng.Generator(0).normal(3)), "it draws nothing"
    assert model.loss_unit == "nats per dimension, given the code"


def test_the_loss_of_a_wae_by_hand() -> None:
    """(E[c(x, G(z))] + λ D) / dimensions, with D the `mmd` of the codes and as many draws from N(0, I), or E[−log D(z)]
    of the codes.  An AAE is the WAE with the squared cost and a discriminator.  Tolstikhin et al. 2018, eq. 4."""
    images = some_images()
    for name, given in (("wae", {}), ("wae, logistic", {}), ("wae, adversarial", {}), ("aae", {})):
        model, without = small(name, weight=2.5, **given), small(name, weight=0.0, **given)
        z = model.code(images)
        assert without.loss(images, ng.Generator(3)).item() == pytest.approx(model.cost(images, z).data.mean() / 6)
        if model.penalty == "mmd":
            drawn = ng.tensor(ng.Generator(3).normal((5, 3), np.float64))
            penalty = mmd(z, drawn, inverse_multiquadratic).item()
        else:
            penalty = -np.log(1 / (1 + np.exp(-model.discriminator(z).data))).mean()
        added = 6 * (model.loss(images, ng.Generator(3)).item() - without.loss(images, ng.Generator(3)).item())
        assert added == pytest.approx(2.5 * penalty, rel=1e-10)
        assert model.loss_unit.endswith("with the penalty")
    same = [
        m.loss(images, ng.Generator(3)).item() for m in (small("aae"), small("wae, adversarial", weight=AAE_WEIGHT))
    ]
    assert same[0] == same[1]


AAE_WEIGHT = small("aae").weight


@pytest.mark.parametrize("name", MODELS)
def test_the_slope_of_each_loss(name: str) -> None:
    """Along a random direction in all weights of encoder and decoder, or of the discriminator, a loss has the slope of
    central differences; every weight of the part that a step moves is in use."""
    model, images = small(name), some_images()
    for _, loss_of, part in model.updates():
        # a small step: where a group norm has few pixels the third derivative is large
        check_slope(lambda loss_of=loss_of: loss_of(images, ng.Generator(7)), part, 1e-7)


def test_the_adversary_reaches_the_encoder_alone() -> None:
    """What a large weight adds to the gradient of the step of encoder and decoder is λ ∇E[−log D(Q(x))] / dimensions: 0
    for the decoder, and for the encoder not.  The step moves encoder and decoder; the discriminator's step moves the
    discriminator.  Tolstikhin et al. 2018, algorithm 1."""
    images = some_images()
    gradients = []
    for weight in (0.0, 60.0):
        model = small("aae", weight=weight)
        gradients.append(
            ng.grad(model.loss(images, ng.Generator(0)), [model.encoder.last.weight, model.decoder.last.weight])
        )
    assert abs(gradients[1][0].data - gradients[0][0].data).max() > 1e-3
    assert np.array_equal(gradients[1][1].data, gradients[0][1].data)
    assert [update.name for update in model.updates()] == ["discriminator"] * model.discriminator_steps + [
        "autoencoder"
    ]
    moved = [{id(p) for p in update.part.parameters()} for update in model.updates()[-2:]]
    networks = (model.discriminator, model.encoder, model.decoder)
    ids = [{id(p) for p in network.parameters()} for network in networks]
    assert moved == [ids[0], ids[1] | ids[2]]


def test_the_adversary_at_its_optimum() -> None:
    """With D* = p / (p + q), logit log p(z)/q(z), the discriminator's loss is 2 log 2 − 2 JSD(p, q), its least.

    p = N(0, 1), q = N(1.5, 0.7²); the divergence is by quadrature, the loss the mean of 40,000 codes, within six
    standard errors.  Power: of logits that are half, negated or moved by 1 it is more than six standard errors away.
    Goodfellow et al. 2014, theorem 1, for codes."""
    p, q = stats.norm(0, 1), stats.norm(1.5, 0.7)
    middle = lambda z: 0.5 * (p.pdf(z) + q.pdf(z))
    jsd = integrate.quad(lambda z: 0.5 * sum(d.pdf(z) * (d.logpdf(z) - np.log(middle(z))) for d in (p, q)), -8, 8)[0]
    n = 40_000
    model = small("aae", latent=1)
    codes = ng.tensor(1.5 + 0.7 * np.random.default_rng(0).standard_normal((n, 1)))
    model.encoder.forward = lambda x: codes
    images = np.zeros((n, 1, 3, 2), np.uint8)

    def loss(change: Callable[[Any], Any]) -> float:
        model.discriminator.forward = lambda z: ng.tensor(change(p.logpdf(z.data) - q.logpdf(z.data))[:, 0])
        return float(model.discriminator_loss(images, ng.Generator(0)).item())

    drawn = ng.Generator(0).normal((n, 1), np.float64)
    terms = [np.log1p(np.exp(s * (p.logpdf(z) - q.logpdf(z)))) for s, z in ((-1, drawn), (1, codes.data))]
    error = math.sqrt(sum(term.var() for term in terms) / n)
    best = 2 * math.log(2) - 2 * jsd
    assert abs(loss(lambda logit: logit) - best) < SIGMAS * error
    for change in (lambda logit: logit / 2, lambda logit: -logit, lambda logit: logit + 1):
        assert loss(change) - best > SIGMAS * error


# Fitted codes


def test_fitted_moments_are_those_of_the_codes() -> None:
    """With weights that stand still, mean and covariance of the first AVERAGED batches' codes are np.mean and np.cov of
    all of them, to rounding; later batches count as a moving average, (1 − 1/AVERAGED)ᵏ for the one k batches ago.
    Evaluation leaves them, and before any batch they are those of N(0, I)."""
    model = small("autoencoder")
    assert [x.tolist() for x in model.fitted()] == [[0] * 3, np.eye(3).tolist()]
    batches = np.random.default_rng(0).integers(0, 4, (AVERAGED + 3, 4, 1, 3, 2)).astype(np.uint8)
    codes = np.stack([model.code(images).data for images in batches])
    for i in range(AVERAGED):
        model.loss(batches[i], ng.Generator(0))
        if i in (0, 6, AVERAGED - 1):
            so_far = codes[: i + 1].reshape(-1, 3)
            for found, expected in zip(model.fitted(), (so_far.mean(0), np.cov(so_far.T, bias=True)), strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    for images in batches[AVERAGED:]:
        model.loss(images, ng.Generator(0))
    kept = 1 - 1 / AVERAGED
    weights = np.array([kept**3 / AVERAGED] * AVERAGED + [kept**k / AVERAGED for k in (2, 1, 0)]) / codes.shape[1]
    mean = np.einsum("b,bnd->d", weights, codes)
    square = np.einsum("b,bnd,bne->de", weights, codes, codes)
    for found, expected in zip(model.fitted(), (mean, square - np.outer(mean, mean)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    before = model.state_dict()
    model.eval().loss(batches[0], ng.Generator(0))
    assert all(np.array_equal(before[name], model.state_dict()[name]) for name in before)
    assert before["batches"] == AVERAGED + 3


@pytest.mark.parametrize("name", ["autoencoder", "autoencoder, categorical", "wae"])
def test_samples_of_fitted_codes(name: str) -> None:
    """z ~ N(m, C): of 20,000 draws the mean and each second moment is within six standard errors of (m, C).  Power: C's
    transposed root would give diag(λ), its inverse C⁻¹, and N(0, I) is another; each is more than six standard errors
    away.  C is of rank 2, as with a code that does not vary.  `sample(fitted=True)` decodes such codes, and draws from
    N(0, I) unless told."""
    model, n = small(name), 20_000
    root = np.array([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    mean, covariance = np.array([1.0, -2.0, 0.3]), root @ root.T
    model.code_mean.data, model.code_square.data = mean, covariance + np.outer(mean, mean)
    z = model.draw_fitted(n, ng.Generator(0)).data
    assert (abs(z.mean(0) - mean) <= SIGMAS * np.sqrt(covariance.diagonal() / n) + 1e-7).all()
    product = (z - mean)[:, :, None] * (z - mean)[:, None]
    error = SIGMAS * product.std(0) / n**0.5 + 1e-7
    assert (abs(product.mean(0) - covariance) <= error).all()
    for wrong in (np.diag(np.linalg.eigvalsh(covariance)), np.linalg.pinv(covariance), np.eye(3)):
        assert (abs(product.mean(0) - wrong) > error).any()

    decoded: list[ng.Tensor] = []
    decode = model.decode
    model.decode = lambda z, **given: (decoded.append(z), decode(z, **given))[1]
    for fitted in (True, False):
        images = model.sample(7, ng.Generator(5), **({"fitted": True} if fitted else {}))
        assert (images.shape, images.dtype) == ((7, 1, 3, 2), np.uint8)
    assert np.array_equal(decoded[0].data, model.draw_fitted(7, ng.Generator(5)).data)
    assert np.array_equal(decoded[1].data, ng.Generator(5).normal((7, 3), np.float64))


def test_images_of_codes() -> None:
    """With `squared` a sample and a reconstruction are G(z) rounded to levels: no noise is added to them."""
    model, images = small("autoencoder"), some_images()
    z = ng.Generator(2).normal((4, 3), np.float64)
    expected = np.rint((np.clip(model.decoder(ng.tensor(z)).data, -1, 1) + 1) * 1.5)
    assert np.array_equal(model.sample(4, ng.Generator(2)), expected)
    assert np.array_equal(model.picture(z), expected)
    rebuilt = np.rint((np.clip(model.decoder(model.code(images)).data, -1, 1) + 1) * 1.5)
    assert np.array_equal(model.reconstruct(images), rebuilt)
    assert model.negative_log_likelihoods(images, ng.Generator(0)) == {}


def test_a_picture_of_the_question() -> None:
    """`codes`: two rows from N(0, I), two of fitted codes, two of reconstructions of the first test images."""
    model = small("autoencoder")
    test = ng.data.Images(some_images(20), None, 4, "some")
    found = model.illustrations(test, test, ng.Generator(0))["codes"]
    assert found.shape == (6, 16, 1, 3, 2)
    again = ng.Generator(0)
    prior, fitted = model.draw_prior(32, again), model.draw_fitted(32, again)
    for rows, z in ((found[:2], prior), (found[2:4], fitted)):
        assert np.array_equal(rows.reshape(32, 1, 3, 2), model.picture(z))
    assert np.array_equal(found[4], model.reconstruct(test.images[:16]))


@pytest.mark.parametrize(("name", "settings", "word"), [
    ("autoencoder", {"latent": 0}, "latent"), ("autoencoder", {"channels": -1}, "channels"),
    ("wae", {"penalty": "jsd"}, "penalty must be one of mmd, adversarial"), ("wae", {"weight": -1.0}, "weight"),
    ("wae", {"weight": math.nan}, "weight"), ("wae", {"weight": math.inf}, "weight"),
    ("wae", {"decoder": "gauss"}, "decoder must be one of categorical, logistic, squared"),
    ("wae", {"hidden": 0}, "hidden"), ("aae", {"discriminator_steps": 0}, "discriminator_steps"),
])  # fmt: skip
def test_bad_settings(name: str, settings: dict[str, Any], word: str) -> None:
    """A setting that can't be is refused by name."""
    with pytest.raises(ValueError, match=word):
        small(name, **settings)
    with pytest.raises(ValueError, match="n must"):
        small(name).sample(0, ng.Generator(0))
    with pytest.raises(ValueError, match="decoder must be one of categorical, logistic, got"):
        ng.models.VAE((1, 3, 2), 4, decoder="squared")


def test_fitted_codes_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nanogen sample --fitted` draws from the density that was fitted in the run, and `evaluate` judges it; a model
    without one refuses the option."""
    monkeypatch.setattr(cli, "draw_pictures", lambda *_: [])
    tiny = ["--steps", "3", "--batch", "16", "--threads", "1", "--quiet", "--set", "latent=2", "channels=2", "stages=1"]
    for model in ("autoencoder", "vae"):
        assert main(["train", model, "--out", str(tmp_path / model), *tiny]) == 0
    run, out = str(tmp_path / "autoencoder"), tmp_path / "x.npz"
    found = []
    for option in ([], ["--fitted"]):
        assert main(["sample", run, "-n", "9", "--out", str(out), *option]) == 0
        found.append(np.load(out)["images"])
    model: Any = ng.training.run.Run(run).model()
    for images, fitted in zip(found, (False, True), strict=True):
        rng = ng.Generator(0).stream(ng.training.run.SAMPLES)
        assert np.array_equal(images, model.sample(9, rng, fitted=fitted))
    assert not np.array_equal(*found)
    assert model.batches.item() == 3
    capsys.readouterr()
    assert main(["sample", str(tmp_path / "vae"), "--fitted", "--out", str(out)]) == 2
    assert "--fitted is for autoencoder, wae, aae" in capsys.readouterr().err


def test_a_test_loss_of_65_images() -> None:
    """No batch of test images is a single one, for which there is no discrepancy."""
    trainer = Trainer(tiny_runs.settings_of("wae"), tiny_runs.some_images())
    assert math.isfinite(trainer.test_losses(tiny_runs.some_images(65))["loss"])

"""Hypothesis draws the same examples on every run, so that a red test stays red until the code changes.

`--device strict` runs all tests on the stand-in for CuPy: see `strict`.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, Phase, settings

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # PyTorch's threads would wait in a loop for the other process's

sys.path.append(str(Path(__file__).parents[1]))  # `benchmarks`, and `tests` itself, are not installed

ABOUT_KERNELS = ("kernels", "compiled", "cuda", "museum", "products", "parity", "philox", "strict")
# What they check is the same however operations compute: commands, data, files, pages, encodings, signals, processes,
# signatures, tables, functions of arrays.  That models train without kernels is in test_training.
WITHOUT_OPERATIONS = (
    "book", "checkpoint", "cli", "code_lines", "compare", "data", "data_download", "data_folder", "distributed",
    "evaluation", "known", "locales", "malformed", "page", "pictures", "readme", "runs", "stopping", "testing",
    "testing_examples", "testing_families", "testing_mistakes", "testing_own", "testing_reverse", "torch_signatures",
)  # fmt: skip
KERNELS = importlib.util.find_spec("nanogen.kernels")
if not KERNELS:  # the core is complete without the annex
    collect_ignore = [f"test_{name}.py" for name in (*ABOUT_KERNELS, *WITHOUT_OPERATIONS)]

slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=20, suppress_health_check=slow)
settings.register_profile("few", settings.get_profile("ci"), max_examples=5)  # the usual ones
settings.register_profile("random", settings.get_profile("ci"), derandomize=False, database=None)
settings.register_profile("thorough", deadline=None, max_examples=500, suppress_health_check=slow)
settings.register_profile("museum", settings.get_profile("ci"), phases=[Phase.explicit, Phase.generate])  # no shrinking
settings.load_profile("few")  # --hypothesis-profile=thorough looks for new examples


@pytest.fixture(autouse=True, scope="session")
def no_downloads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of the tests' own, and no way to the web: a data set that is not there is refused at once.

    The folder has the compiled kernels, or the first command that a test starts would say that it compiles them."""
    cache = tmp_path_factory.mktemp("cache")
    if KERNELS:
        build = importlib.import_module("nanogen.kernels.cpu.build")
        with FileLock(tmp_path_factory.getbasetemp().parent / "compiling.lock"):  # one process compiles for all
            libraries = [build.library(real) for real in build.REAL]
        if None not in libraries:
            (cache / "compiled").mkdir(mode=0o700)
            for path in build.cache().glob("*.so"):
                shutil.copy2(path, cache / "compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOGEN_CACHE", str(cache))
        patch.setenv("NANOGEN_MIRROR", "http://127.0.0.1:9")
        patch.setattr("nanogen.data.download.PAUSE", 0.0)
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # half of the time of a short command in a new process
        yield cache


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--device", choices=("cpu", "strict"), default="cpu", help="strict: the stand-in for CuPy")


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training without drawing, where pictures are not what is tested."""
    monkeypatch.setattr("nanogen.cli.draw_pictures", lambda run, train, test: [])


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Cases that `by_default` does not name are `full`; without kernels, so is what trains a classifier."""
    for item in items:
        if not KERNELS and item.get_closest_marker("classifier"):
            item.add_marker("full")
        kept = {name: values for mark in item.iter_markers("by_default") for name, values in mark.kwargs.items()}
        if any(item.callspec.params[name] not in values for name, values in kept.items()):
            item.add_marker("full")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: Any) -> None:
    config.addinivalue_line("markers", "gpu: CPU against an NVIDIA GPU; skipped where there is none")
    if config.getoption("device") == "strict":
        from strict import plugin  # moves nanogen's names about, which is for this run alone

        config.pluginmanager.register(plugin)

"""Progress bars: on a terminal a line that changes, in files and pipes a line every ten seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

DELAY = 3.0  # seconds that something may take without a progress bar


def progress_bar(quiet: bool, **options: Any) -> Bar:
    """A progress bar: on a terminal a line that changes, in files and pipes `Lines`."""
    return (Bar if sys.stderr.isatty() else Lines)(**{"disable": quiet, "leave": not options.get("delay"), **options})


def shown(quiet: bool, steps: Iterable[Any], what: str) -> Iterable[Any]:
    """The steps, with a progress bar if they take long."""
    return progress_bar(quiet, iterable=steps, desc=what, delay=DELAY)


class Bar(tqdm):
    disable, pos = True, 0  # until __init__ sets them: `__del__` reads them even after an interruption


class Lines(Bar):
    """A progress bar for files and pipes: it prints a line every ten seconds instead of updating one line."""

    shown = -1  # the last step that was printed

    def __init__(self, **options: Any):
        form = options.get("desc", "step") + " {n_fmt} of {total_fmt}, {elapsed} so far, {remaining} left{postfix}"
        super().__init__(**options | {"bar_format": form, "mininterval": 10, "miniters": 1, "leave": False})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if msg is None and self.n > max(self.initial, self.shown):
            self.shown = self.n
            print(self, file=sys.stderr, flush=True)

    def close(self) -> None:
        if not self.disable and not self.delay:
            self.display()
        super().close()

"""Ctrl-C and SIGTERM: in training the first one lets a run finish its step and write a checkpoint, the second one stops
it; elsewhere the first one stops."""

from __future__ import annotations

import signal
import threading
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A run was stopped by a signal.  The exit status is 128 + its number, the convention of shells."""

    def __init__(self, number: int):
        super().__init__(number)
        self.status = 128 + number


class Stop:
    """`with Stop() as stop:` is true after the first signal.

    Signals that the process ignores, because of nohup or a shell that runs it in the background, stay ignored.

    Args:
        at_once: whether the first signal is raised too.

    Raises:
        Interrupted: at the second signal, wherever the program is.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.number, self.at_once = 0, at_once
        self.before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self.number != 0

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():  # only the main thread can set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                if (handler := signal.getsignal(number)) is not signal.SIG_IGN:
                    self.before[number] = handler
                    signal.signal(number, self._received)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _received(self, number: int, frame: Any) -> None:
        if self.number or self.at_once:
            raise Interrupted(number)
        self.number = number

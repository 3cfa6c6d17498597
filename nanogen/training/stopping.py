"""Ctrl-C and SIGTERM: the first one lets a run finish its step and write a checkpoint, the second one stops it."""

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

    Raises:
        Interrupted: at the second signal, wherever the program is.
    """

    def __init__(self) -> None:
        self.number = 0
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
        if self.number:
            raise Interrupted(number)
        self.number = number

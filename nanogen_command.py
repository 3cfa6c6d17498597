"""The command `nanogen`.  It hears Ctrl-C and SIGTERM before it imports the package, which takes a moment."""

from __future__ import annotations

import os
import signal
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def stop(number: int, frame: object = None) -> None:
    """End the process at once, with one line, which in an MPI job is the first rank's."""
    try:
        if {os.environ.get(name, "0") for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK")} == {"0"}:
            os.write(2, b"nanogen: stopped\n")
    finally:  # stderr may be closed
        os._exit(128 + number)


def main() -> int:
    """Run the command line, and return its exit status."""
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # not so under nohup
    for number in heard:
        signal.signal(number, stop)
    try:
        from nanogen.cli import main

        status = main()
    except KeyboardInterrupt as error:  # as of a second signal
        stop(getattr(error, "status", 130) - 128)
    for number in heard:  # all is done
        signal.signal(number, signal.SIG_IGN)
    return status


if __name__ == "__main__":
    sys.exit(main())

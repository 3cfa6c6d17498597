"""The command `nanogen`.  It handles Ctrl-C and SIGTERM even while it imports the package, which takes a moment."""

from __future__ import annotations

import os
import signal
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM)
RANKS = [os.environ[name] for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK") if name in os.environ]  # in an MPI job


def stop(number: int, frame: object = None) -> None:
    """End the process at once, with one line; in an MPI job only the first rank prints it."""
    try:
        if RANKS in ([], ["0"]):
            os.write(2, b"nanogen: stopped\n")
    finally:  # stderr may be closed
        os._exit(128 + number)


def in_passing(unraisable: sys.UnraisableHookArgs) -> None:
    """Python's hook for exceptions that it can't raise, as in destructors: a signal ends the process there too."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        stop_by(unraisable.exc_value)
    sys.__unraisablehook__(unraisable)


def stop_by(error: BaseException) -> None:
    stop(getattr(error, "status", 130) - 128)


def main() -> int:
    """Run the command line, and return its exit status."""
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as under nohup
    for number in heard:
        signal.signal(number, stop)
    sys.unraisablehook = in_passing
    if RANKS:  # the others would wait for a rank that ends before all are connected
        signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    status = 0
    try:
        from nanogen.cli import main

        try:
            status = main()
        finally:
            for stream in (sys.stdout, sys.stderr):  # else Python does it at its end, where an error gives a message
                print(end="", file=stream, flush=True)
    except KeyboardInterrupt as error:  # for example a second signal
        stop_by(error)
    except OSError as error:  # what reads the output has ended, as `head` does; or its disk is full
        if isinstance(error, BrokenPipeError):
            status = 141  # the shells' status for SIGPIPE
        elif not status:
            status = 2
            os.write(2, f"nanogen: error: the output: {error}\n".encode())
        for output in (1, 2):  # Python writes what is left once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    for number in heard:  # all is done
        signal.signal(number, signal.SIG_IGN)
    return status


if __name__ == "__main__":
    sys.exit(main())

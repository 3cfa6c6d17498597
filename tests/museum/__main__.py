"""Apply each mutation alone to a copy of the source, and see the named test fail."""

from __future__ import annotations

import argparse
import concurrent.futures
import queue
import sys
import tempfile
import time
from pathlib import Path

from tests.museum import README, Mutation, mutations, readme
from tests.museum.copies import Copy

# What a change that is no longer a program raises, or a machine that is too small; or a checker that can't judge.
NOT_A_VERDICT = {"ImportError", "ModuleNotFoundError", "SyntaxError", "NameError", "KeyboardInterrupt", "MemoryError"}
NOT_A_VERDICT |= {"UsageError"}


def try_out(copy: Copy, mutation: Mutation) -> tuple[bool, str]:
    """Whether the named test fails in its body under the mutation; and with what error, or what happened."""
    copy.restore()
    try:
        mutation.apply(copy.folder)
    except (ValueError, OSError) as error:
        return False, str(error)
    # Else C would hide the plain form.
    in_c = mutation.file.startswith("kernels/") or mutation.test.startswith(("test_compiled", "test_kernels"))
    status, outcomes, printed = copy.run(mutation.test, in_c=in_c)
    errors = [
        o["error"] for o in outcomes if o["phase"] == "call" and o["outcome"] == "failed"
        and o["node"].removeprefix("tests/").startswith(mutation.test) and o["error"] not in NOT_A_VERDICT
    ]  # fmt: skip
    if status == 1 and errors:
        return True, errors[0]
    return False, f"pytest's exit status {status}; {' '.join(printed.split())[-300:]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.museum", description=__doc__)
    parser.add_argument("names", nargs="*", help="which mutations (default: all)")
    parser.add_argument("--list", action="store_true", help="print the mutations and stop")
    parser.add_argument("--write", action="store_true", help="write the table into tests/README.md and stop")
    parser.add_argument("--checkers", action="store_true", help="by the checkers of nanogen.testing, not the tests")
    parser.add_argument("--workers", type=int, default=1, help="how many at a time (default: 1)")
    given = parser.parse_args()
    if given.write:
        README.write_text(readme())
        return 0
    chosen = [m for m in mutations() if not given.names or m.name in given.names]
    if unknown := set(given.names) - {m.name for m in chosen}:
        parser.error(f"no such mutation: {', '.join(sorted(unknown))}")
    if given.checkers:
        chosen = [m.by_checker() for m in chosen if m.checker]
    if given.list:
        for m in chosen:
            print(f"{m.name:40} {m.file:28} {m.mistake}")
        return 0

    start, survivors = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as scratch:
        copies: queue.Queue[Copy] = queue.Queue()
        for i in range(given.workers):
            copies.put(Copy(Path(scratch).resolve() / str(i)))
        untouched = copies.get()
        tests = sorted({m.test for m in chosen})
        status, _, printed = untouched.run(*tests)
        if status != 0:
            print(f"without any mutation the named tests do not pass:\n{printed[-4000:]}")
            return 1
        print(f"{len(tests)} tests pass on the source as it is, {time.perf_counter() - start:.0f} s", flush=True)
        copies.put(untouched)

        def in_some_copy(mutation: Mutation) -> tuple[Mutation, bool, str, float]:
            copy, begin = copies.get(), time.perf_counter()
            try:
                return mutation, *try_out(copy, mutation), time.perf_counter() - begin
            finally:
                copies.put(copy)

        with concurrent.futures.ThreadPoolExecutor(given.workers) as pool:
            for m, caught, how, seconds in pool.map(in_some_copy, chosen):
                verdict = "caught  " if caught else "SURVIVED"
                print(f"{verdict} {m.name:50} {seconds:5.1f} s  {how}", flush=True)
                survivors += [] if caught else [m.name]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} caught, {time.perf_counter() - start:.0f} s")
    if survivors:
        print(f"survived: {' '.join(survivors)}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

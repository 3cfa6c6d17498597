"""`python -m benchmarks.readme COMPARISON [README]`: write the tables of a comparison into the README.

COMPARISON is a folder of `nanogen compare`.  What is between the two comments in the README is replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from nanogen.models import MODELS
from nanogen.training.comparison import about, finished, read, tables
from nanogen.training.files import write_atomically

BEGIN, END = "<!-- nanogen compare: begin -->", "<!-- nanogen compare: end -->"
README = Path(__file__).parents[1] / "README.md"


def replaced(text: str, folder: Path) -> str:
    """The text with the tables of the comparison in a folder.

    Raises:
        FileNotFoundError, ValueError: no comparison there, or not a whole one of all models; a text without marks."""
    found = read(folder / "compare.json")
    rows = {name for name, row in finished(found).items() if row["sample_seconds"] is not None}
    if missing := [name for name in MODELS if name not in rows]:
        raise ValueError(f"{folder} has no numbers of {', '.join(missing)}")
    if found["quick"]:
        raise ValueError(f"{folder} has a quick comparison")
    above, begin, rest = text.partition(BEGIN)
    _, end, below = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in below:
        raise ValueError(f"the README must have two comments, {BEGIN} and {END}, once each")
    return f"{above}{BEGIN}\n\n{about(found)}\n\n{tables(found)}\n{END}{below}"


def main(arguments: Sequence[str]) -> int:
    try:
        folder, file = [Path(text) for text in arguments] + [README] * (len(arguments) == 1)
        write_atomically(file, replaced(file.read_text(encoding="utf-8"), folder).encode())
    except (ValueError, OSError) as error:
        usage = "COMPARISON [README]" if len(arguments) not in (1, 2) else ""
        print(f"benchmarks.readme: {f'arguments must be {usage}' if usage else error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

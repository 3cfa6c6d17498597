"""`python -m tests.strict.record`, where CuPy is installed: write down its names and what each takes, in `cupy.json`.

CuPy need not find a GPU for that.  The stand-in knows CuPy by this file alone.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "cupy.json"
MODULES = ("", "linalg.", "lib.stride_tricks.")
UFUNC = re.compile(r"(?P<inputs>x\d?(?:, x\d)*)")


def parameters(function: Any) -> str | None:
    """What a function takes, as `a, axis=, *rest, out=, **more`: names, order, and which may be left out."""
    if type(function).__name__ == "ufunc":
        inputs = [f"x{i + 1}" for i in range(function.nin)]
        return ", ".join([*inputs, "/", "out=", "*", "casting=", "dtype="])
    try:
        declared = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return from_docstring(function.__doc__ or "")
    words, keyword_only = [], False
    for p in declared:
        if p.kind is p.KEYWORD_ONLY and not keyword_only and not any(q.kind is q.VAR_POSITIONAL for q in declared):
            words.append("*")
        keyword_only |= p.kind is p.KEYWORD_ONLY
        stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        words.append(f"{stars}{p.name}{'' if p.default is p.empty else '='}")
    return ", ".join(words)


def from_docstring(text: str) -> str | None:
    """A compiled function's first line: `ndarray.sum(self, axis=None, int dtype=None) -> ndarray`."""
    found = re.match(r"[\w.]+\((.*?)\)(?: ->.*)?$", text.partition("\n")[0])
    if not found:
        return None
    words = [re.sub(r"=.*", "=", word.split(" ")[-1]) for word in found[1].split(", ") if word]
    return ", ".join(word for word in words if word != "self")


def functions(module: Any) -> dict[str, str]:
    found = {
        name: parameters(value)
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and not isinstance(value, type)
    }
    return {name: taken for name, taken in sorted(found.items()) if taken is not None}


def record() -> dict[str, Any]:
    import cupy
    import numpy as np

    modules: dict[str, Any] = {"": cupy, "linalg.": cupy.linalg, "lib.stride_tricks.": cupy.lib.stride_tricks}
    members = {name: getattr(cupy.ndarray, name) for name in dir(cupy.ndarray)}
    public = {name: value for name, value in members.items() if not name.startswith("_")}
    methods = {name: parameters(value) for name, value in public.items() if callable(value)}
    return {
        "version": cupy.__version__,
        "functions": {prefix + name: taken for prefix in MODULES for name, taken in functions(modules[prefix]).items()},
        "ufuncs": sorted(name for name, value in vars(cupy).items() if isinstance(value, cupy.ufunc)),
        "methods": {name: taken for name, taken in methods.items() if taken is not None},
        "attributes": sorted(name for name in public if name not in methods),
        "special": sorted(name for name in members if name.startswith("__") and members[name] is not None),
        "numpys": sorted(name for name in dir(cupy) if name in dir(np) and getattr(cupy, name) is getattr(np, name)),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(record(), indent=1) + "\n")

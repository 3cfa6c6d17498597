"""The counter of code lines, on text in which comments and code are easily taken for each other."""

from __future__ import annotations

from pathlib import Path

from code_lines import c_lines, python_lines, report

PYTHON = '''\
"""A module's docstring,

with a blank line in it."""

import os  # 1

# a comment
text = """# not a comment: 2

still the string: 3"""  # the blank line inside does not count
é = "é"; """a docstring
after code

that is not ASCII"""; x = 1  # 4 and 5


class A:  # 6
    """One line."""

    y = [  # 7
        # nothing here
        "a string, and not alone",  # 8
    ]  # 9
    """What y is:
    two lines."""

    def f(self): "a docstring beside code"; return "#" \\
        + "continued: 10 and 11"

    def g(self):  # 12
        ("a docstring "
         "in two parts")
        return (  # 13
            "no docstring"  # 14
        )  # 15
'''

C = r"""/* a comment
   on two lines */
#include <math.h>  // 1

int a; /* opens
closes */ int b;  // 2 and 3
char *s = "/* no comment", t = '"';  // 4
int c; /* a "string in it */  // 5
// a comment \
   that goes on
char *u = "// no comment \" either /*";  // 6
/**/
int d = 10'000; /* 7: it's
 more */
char e = '\'', *f = "*/";  // 8
"""


def test_python() -> None:
    """Comments, blank lines and docstrings do not count, strings and continued lines do."""
    assert python_lines(PYTHON) == 15
    assert python_lines("") == python_lines('"""Only a docstring."""\n') == 0


def test_c() -> None:
    """A comment inside a literal is none, a quote inside a comment opens no literal, and comments keep their lines."""
    assert c_lines(C) == 8
    assert c_lines("") == 0


def test_the_report_adds_up(tmp_path: Path) -> None:
    """Each part has its own files, and what is in no other part is core."""
    files = {
        "autograd.py": 321,
        "functional/a.py": 2,
        "functional/b.py": 3,
        "random.py": 7,
        "optim.py": 5,
        "models/vae/one.py": 11,
        "cli.py": 13,
        "metrics.py": 19,
        "training/loop.py": 17,
        "kernels/cpu/a.py": 401,
        "kernels/cpu/a.c": 23,
        "kernels/cuda/a.cuh": 29,
        "optim.c": 31,
    }
    for name, n in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# nothing\n" * name.endswith(".py") + "x = 1;\n" * n)
    rows = {line[:44].strip(): line[44:].split() for line in report(tmp_path).splitlines()}
    assert rows["core (Python)"] == [str(321 + 2 + 3 + 7 + 5), "2500"]
    assert rows["engine: autograd.py"] == ["321", "320", "over"]
    assert rows["functional/"] == ["5", "1150"]
    assert rows["models/vae/one.py"] == ["11", "150"]
    assert rows["training/, cli.py, metrics.py"] == ["49"]
    assert rows["annex: kernels/ (Python, C and CUDA)"] == [str(401 + 23 + 29), "2500"]
    assert rows["kernels/ (Python alone)"] == ["401"]
    assert rows["C and CUDA outside of kernels/"] == ["31", "0", "over"]
    assert rows["whole package (Python)"] == [str(338 + 11 + 49 + 401), "7800"]
    assert rows["a file over 400: kernels/cpu/a.py"] == ["401", "400", "over"]

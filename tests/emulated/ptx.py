"""Kernels in PTX as C++, to be run on a CPU: each instruction becomes a call of the function in `ptx.h` with its name.

An instruction that isn't there is a mistake that the compiler reports.  Source: NVIDIA's "Parallel Thread Execution
ISA", versions 8 and 9, as far as kernels of CuPy's and nanogen's need it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

import platformdirs

HERE = Path(__file__).parent
HEADERS = (HERE.parent / "fibres.h").read_text() + (HERE / "ptx.h").read_text()
CACHE = Path(platformdirs.user_cache_dir("nanogen-tests"))
OPTIONS = ["-std=c++20", "-O1", "-w", "-fwrapv", "-fno-strict-aliasing", "-ffp-contract=off", "-frounding-math"]

TYPES = {f"{kind}{bits}" for kind in "usb" for bits in (8, 16, 32, 64)} | {"f16", "f32", "f64", "pred"}
WORDS = re.compile(r"\w+").findall
RESERVED = {*WORDS("and or xor not div rem abs min max sqrt sin cos tanh fma copysign finite")}  # in C++ with `_`
MEANINGLESS = {*WORDS("rn ftz approx full uni sync relaxed volatile gpu cta sys weak acquire release nc")}
SHIFTS = {"shl": 1, "shr": 1, "shf": 0, "bfe": 1, "bfi": 2}  # from which operand on they are u32
ATOMIC = {"add": "o + v", "min": "min_(o, v)", "max": "max_(o, v)", "and": "o & v", "or": "o | v", "xor": "o ^ v"}
ATOMIC |= {"exch": "v", "cas": "o == v ? w : o"}
ALIGN = r"\.align\s+(\d+)\s+"
VARIABLE = re.compile(
    rf"(?:\.(?:extern|visible|weak)\s+)*\.(shared|global|const|local)\s+(?:{ALIGN})?\.(\w+)\s+([\w$]+)"
    r"(?:\[(\d*)\])?(?:\s*=\s*(\{[^}]*\}|[^;]*))?;"
)
FUNCTION = re.compile(
    r"(?:\.(?:visible|weak|extern)\s+)*\.(entry|func)\s+(\([^)]*\)\s*)?([\w$]+)\s*(\([^)]*\))?([^{;]*)([{;])"
)
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(?:\.ptr[^,]*?\s)?([\w$]+)(?:\[(\d+)\])?$")
STATEMENT = re.compile(r"\s*(?:([$\w]+):(?!:)|([{}])|([^;{}]*(?:\{[^};]*\}[^;{}]*)*);)")
REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(%\w+)<(\d+)>;")


class Unknown(ValueError):
    """PTX that is not understood."""


def size_of(kind: str) -> int:
    return int(kind[1:]) // 8


def name_in_c(name: str) -> str:
    return re.sub(r"\W", "_", name)


def split(operands: str) -> list[str]:
    """At the commas that are in no brackets."""
    return [part.strip() for part in re.split(r",(?![^{\[(]*[}\])])", operands) if part.strip()]


class Module:
    """The kernels of a module: `code` in C++, `kernels` with the bytes of each one's parameters."""

    def __init__(self, text: str):
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)
        self.shared: dict[str, int] = {}  # where in a block's memory
        self.fixed = 0  # bytes of it that the module itself asks for
        self.kernels: dict[str, list[int]] = {}
        self.together = False  # a block's threads wait for each other
        variables = "".join(self.variable(found) for found in VARIABLE.finditer(text) if found[1] != "local")
        functions = [Function(self, found, text) for found in FUNCTION.finditer(text) if found[6] == "{"]
        declared = "".join(f"static void {f.head};\n" for f in functions)
        self.code = HEADERS + variables + declared + "".join(f.code for f in functions)
        together = str(self.together).lower()
        for function in (f for f in functions if f.is_kernel):
            self.kernels[function.name] = [bytes_ for _, bytes_ in function.parameters]
            given = ", ".join(f"parameters[{i}]" for i in range(len(function.parameters)))
            self.code += (
                f'extern "C" const char* launch_{name_in_c(function.name)}'
                "(const unsigned* sizes, unsigned more, char** parameters)\n"
                f"{{ return launch(sizes, {self.fixed} + more, {together}, [=] {{ {function.own}({given}); }}); }}\n"
            )

    def variable(self, found: re.Match[str]) -> str:
        """A variable of the module; one in shared memory gets its place there, one of no size behind all others."""
        space, align, kind, name, count, values = found.groups()
        if space == "shared":
            if count == "":
                self.shared[name] = -1
            else:
                at = -(-self.fixed // int(align)) * int(align)
                self.shared[name], self.fixed = at, at + int(count or 1) * size_of(kind)
            return ""
        numbers = [self.number(v, kind) for v in (values or "0").strip("{} \n").split(",")]
        kind = "u" + kind[1:]
        return f"alignas({align or 8}) static {kind} {name_in_c(name)}[{count or 1}] = {{{', '.join(numbers)}}};\n"

    def number(self, text: str, kind: str) -> str:
        text = text.strip()
        if text[:2].lower() in ("0f", "0d"):
            return f"0x{text[2:]}ull"
        return f"({'u' + kind[1:]})({text})"


class Function:
    """A kernel, or a function of a kernel's; its parameters are the addresses of where they lie."""

    def __init__(self, module: Module, found: re.Match[str], text: str):
        kind, results, self.name, parameters, _, _ = found.groups()
        self.module, self.is_kernel, self.own = module, kind == "entry", f"F_{name_in_c(self.name)}"
        self.parameters = self.listed(parameters)
        places = [f"char* P_{name_in_c(name)}" for name, _ in self.listed(results) + self.parameters]
        self.head = f"{self.own}({', '.join(places)})"
        end, depth = found.end(), 1
        while depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        body = text[found.end() : end - 1]
        self.widths = {name: 0 if kind == "pred" else size_of(kind) for kind, name, _ in REGISTERS.findall(body)}
        self.code = f"static void {self.head}\n{{\n{''.join(self.declared(body))}{{\n"
        body = VARIABLE.sub("", REGISTERS.sub("", body))
        for label, brace, statement in STATEMENT.findall(body):
            self.code += f"{name_in_c(label)}:;\n" if label else brace or self.statement(" ".join(statement.split()))
        self.code += "}}\n"

    def listed(self, parameters: str | None) -> list[tuple[str, int]]:
        found = [PARAMETER.match(part) for part in split((parameters or "").strip().strip("()"))]
        if None in found:
            raise Unknown(f"parameters {parameters}")
        return [(f[2], int(f[3] or 1) * size_of(f[1])) for f in found if f]

    def declared(self, body: str) -> list[str]:
        lines = [
            f"alignas({f[2]}) char {name_in_c(f[4])}[{f[5]}];\n" for f in VARIABLE.finditer(body) if f[1] == "local"
        ]
        for kind, name, count in REGISTERS.findall(body):
            names = ", ".join(f"{name_in_c(name)}{i} = 0" for i in range(1, int(count)))
            lines.append(f"{'bool' if kind == 'pred' else 'u' + kind[1:]} {names};\n" if names else "")
        return lines

    def statement(self, text: str) -> str:
        if not text or text.startswith((".loc", ".file", ".pragma")):
            return ""
        if found := re.fullmatch(r"\.reg \.(\w+) (.*)", text):
            return f"u{found[1][1:]} {', '.join(f'{name_in_c(name)} = 0' for name in split(found[2]))};\n"
        if found := PARAMETER.match(text):
            return f"alignas(16) char P_{name_in_c(found[2])}[{int(found[3] or 1) * size_of(found[1])}];\n"
        found = re.fullmatch(r"(?:@(!?)(%\w+) )?([\w.:]+)(?: (.*))?", text)
        if not found:
            raise Unknown(text)
        if_not, guard, instruction, operands = found.groups()
        condition = f"if ({if_not}{name_in_c(guard)}) " if guard else ""
        try:
            return f"executed++; {condition}{{ {self.instruction(instruction, operands or '')} }}\n"
        except (Unknown, LookupError, StopIteration) as error:
            raise Unknown(f"{text}: {error!r}") from error

    # Operands

    def value(self, operand: str, kind: str) -> str:
        """An operand as a number of a type."""
        if operand.startswith("!"):
            return f"!{name_in_c(operand[1:])}"
        if operand.startswith("%") and kind == "pred":
            return name_in_c(operand)
        if found := re.fullmatch(r"%(n?tid|n?ctaid)\.([xyz])", operand):
            return f"{kind}({found[1]}.{found[2]})"
        if operand.startswith("%"):
            return f"get<{kind}>({'laneid()' if operand == '%laneid' else name_in_c(operand)})"
        if found := re.fullmatch(r"0[fFdD](\w{8}|\w{16})", operand):
            return f"get<{kind}>(u{4 * len(found[1])}(0x{found[1]}))"
        if re.fullmatch(r"-?(0x)?[0-9a-fA-F]+U?", operand):
            number = int(operand.rstrip("U"), 0)
            return str(number) if kind == "pred" else f"get<{kind}>(u64({number & (1 << 64) - 1}ull))"
        return f"get<{kind}>({self.address(operand)})"

    def address(self, text: str) -> str:
        """Register or variable, with a distance."""
        found = re.fullmatch(r"(%?[\w$]+)\s*(?:\+\s*(-?\d+))?", text)
        if not found:
            raise Unknown(f"address {text}")
        base, distance = found[1], found[2] or "0"
        if base.startswith("%"):
            width = self.widths.get(base.rstrip("0123456789"), 8)
            return f"{'u32' if width == 4 else 'u64'}({name_in_c(base)} + ({distance}))"
        if base in self.module.shared:
            at = self.module.shared[base]
            return f"u64({-(-self.module.fixed // 16) * 16 if at < 0 else at} + {distance})"
        return f"(u64({name_in_c(base)}) + {distance})"

    def place(self, operand: str, modifiers: list[str], size: int, how: str) -> str:
        inner = operand.strip("[] ")
        spaces = (m.partition("::")[0] for m in modifiers)
        space = next((m for m in spaces if m in ("param", "shared", "local")), "global")
        if space == "param":
            name, _, distance = inner.partition("+")
            return f"P_{name_in_c(name)} + {distance or 0}"
        how = "OWN" if space == "local" else how
        return f"{'in_shared' if space == 'shared' else 'global'}({self.address(inner)}, {size}, {how})"

    @staticmethod
    def set(register: str, kind: str, number: str) -> str:
        name = name_in_c(register)
        return f"{name} = {number};" if kind == "pred" else f"put<{kind}>({name}, {number});"

    # Instructions

    def instruction(self, instruction: str, operands: str) -> str:
        name, *modifiers = instruction.split(".")
        kinds = [m for m in modifiers if m in TYPES]
        a, kind = split(operands), kinds[-1] if kinds else ""
        if special := getattr(self, f"do_{name}", None):
            return special(a, kind, modifiers)
        function = "_".join([name, *(m for m in modifiers if m not in TYPES | MEANINGLESS | {"sat"})])
        result = kind
        types = [kind] * (len(a) - 1)
        if name in SHIFTS:
            types = [kind if i < SHIFTS[name] else "u32" for i in range(len(types))]
        elif name in ("lop3", "prmt"):
            types[-1] = "u32"
        elif name in ("popc", "clz", "bfind"):
            result = "u32"
        elif name == "selp":
            types[-1] = "pred"
        elif "wide" in modifiers:
            result = kind[0] + str(16 * size_of(kind))
            types[2:] = [result] * len(types[2:])
        cpp = "bool" if kind == "pred" else kind
        given = ", ".join(self.value(x, t) for x, t in zip(a[1:], types, strict=True))
        function = f"{function}_" if function in RESERVED else function
        call = f"{function}({given})" if function == "fma_" else f"{function}<{cpp}>({given})"
        return self.set(a[0], result, f"saturated({call})" if "sat" in modifiers else call)

    def do_mov(self, a: list[str], kind: str, _: list[str]) -> str:
        to, from_ = ([split(x.strip("{}")) if x.startswith("{") else [] for x in a])[:2]
        if to:
            width = 8 * size_of(kind) // len(to)
            parts = (f"{name_in_c(r)} = v >> {width * i};" for i, r in enumerate(to) if r != "_")
            return f"u64 v = {self.value(a[1], kind)}; {' '.join(parts)}"
        width = 8 * size_of(kind) // max(len(from_), 1) if kind != "pred" else 0
        joined = (f"u64({self.value(r, f'b{width}')}) << {width * i}" for i, r in enumerate(from_))
        return self.set(a[0], kind, " | ".join(joined) if from_ else self.value(a[1], kind))

    def do_cvta(self, a: list[str], kind: str, modifiers: list[str]) -> str:
        if "shared" not in modifiers:
            return self.set(a[0], kind, self.value(a[1], kind))
        return self.set(a[0], kind, f"{self.value(a[1], kind)} {'-' if 'to' in modifiers else '+'} u64(shared)")

    def do_ld(self, a: list[str], kind: str, modifiers: list[str]) -> str:
        registers, size = split(a[0].strip("{}")), size_of(kind)
        place = self.place(a[1], modifiers, size * len(registers), "READ")
        loads = (self.set(r, kind, f"load<{kind}>(p + {size * i})") for i, r in enumerate(registers) if r != "_")
        return f"char* p = {place}; {' '.join(loads)}"

    def do_st(self, a: list[str], kind: str, modifiers: list[str]) -> str:
        registers, size = split(a[1].strip("{}")), size_of(kind)
        place = self.place(a[0], modifiers, size * len(registers), "WRITE")
        stores = (f"store<{kind}>(p + {size * i}, {self.value(r, kind)});" for i, r in enumerate(registers))
        return f"char* p = {place}; {' '.join(stores)}"

    def do_atom(self, a: list[str], kind: str, modifiers: list[str]) -> str:
        place = self.place(a[1], modifiers, size_of(kind), "ATOMIC")
        rest = "".join(f"{kind} {n} = {self.value(x, kind)}; " for n, x in zip("vw", a[2:]))
        new = next(ATOMIC[m] for m in modifiers if m in ATOMIC)
        before = "" if a[0] == "_" else self.set(a[0], kind, "o")
        return f"char* p = {place}; {kind} o = load<{kind}>(p); {rest}store<{kind}>(p, {new}); {before}"

    def do_red(self, a: list[str], kind: str, modifiers: list[str]) -> str:
        return self.do_atom(["_", *a], kind, modifiers)

    def do_setp(self, a: list[str], kind: str, modifiers: list[str]) -> str:
        function = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(modifiers[0], modifiers[0])
        answer = f"{function}<{kind}>({self.value(a[1], kind)}, {self.value(a[2], kind)})"
        with_ = next((f"{op}" for m, op in (("and", "&&"), ("or", "||"), ("xor", "!=")) if m in modifiers), "")
        other = f" {with_} ({self.value(a[3], 'pred')})" if with_ else ""
        sets = (f"{name_in_c(p)} = ({'!' * i}c){other};" for i, p in enumerate(a[0].split("|")) if p != "_")
        return f"bool c = {answer}; {' '.join(sets)}"

    def do_testp(self, a: list[str], kind: str, modifiers: list[str]) -> str:
        function = f"{modifiers[0]}_" if modifiers[0] in RESERVED else modifiers[0]
        return f"{name_in_c(a[0])} = {function}<{kind}>({self.value(a[1], kind)});"

    def do_cvt(self, a: list[str], _: str, modifiers: list[str]) -> str:
        to, from_ = [m for m in modifiers if m in TYPES]
        how = "".join(f"_{m}" for m in modifiers if m not in TYPES | MEANINGLESS | {"sat"})
        call = f"cvt{how}<{to}, {from_}>({self.value(a[1], from_)})"
        return self.set(a[0], to, f"saturated({call})" if "sat" in modifiers else call)

    def do_shfl(self, a: list[str], _: str, modifiers: list[str]) -> str:
        self.module.together = True
        mode = next(m[0] for m in modifiers if m in ("up", "down", "bfly", "idx"))
        given = ", ".join(self.value(x, "u32") for x in a[1:])
        value, *within = a[0].split("|")
        sets = "".join(f" {name_in_c(p)} = within;" for p in within)
        return f"bool within; u32 v = shfl('{mode}', {given}, within); {name_in_c(value)} = v;{sets}"

    def do_vote(self, a: list[str], _: str, modifiers: list[str]) -> str:
        self.module.together = True
        given, members = self.value(a[1], "pred"), self.value(a[2], "u32")
        if "all" in modifiers:
            return f"{name_in_c(a[0])} = !ballot(!({given}), {members});"
        return f"{name_in_c(a[0])} = {'!!' if 'any' in modifiers else ''}ballot({given}, {members});"

    def do_bar(self, a: list[str], _: str, modifiers: list[str]) -> str:
        self.module.together = True
        if "warp" in modifiers:
            return f"sync_warp({self.value(a[0], 'u32')});"
        if a != ["0"]:
            raise Unknown(f"a barrier of some threads, {a}")
        return "wait(AT_BARRIER, 0);"

    do_barrier = do_bar

    def do_bra(self, a: list[str], *_: object) -> str:
        return f"goto {name_in_c(a[0])};"

    def do_ret(self, *_: object) -> str:
        return "return;"

    def do_trap(self, *_: object) -> str:
        return 'stop("trap"); return;'

    def do_membar(self, *_: object) -> str:
        return ""  # one thread at a time: what is written is there for all

    do_exit, do_fence = do_ret, do_membar

    def do_call(self, a: list[str], *_: object) -> str:
        *results, name = a[: next(i for i, x in enumerate(a) if not x.startswith("(")) + 1]
        if name == "__assertfail":
            return 'stop("assert"); return;'
        places = [f"P_{name_in_c(x)}" for part in (*results, *a[len(results) + 1 :]) for x in split(part.strip("()"))]
        return f"F_{name_in_c(name)}({', '.join(places)});"


def compiled(code: str) -> ctypes.PyDLL:
    """A library of C++, made once.

    Raises:
        Unknown: what the compiler says, if it makes none.
    """
    made = CACHE / f"{hashlib.sha256(f'{OPTIONS}{code}'.encode()).hexdigest()}.so"
    if not made.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            new = Path(scratch) / made.name
            command = ["g++", *OPTIONS, "-U_FORTIFY_SOURCE", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(new)]
            done = subprocess.run(command, input=code, capture_output=True, text=True)
            if done.returncode:
                raise Unknown(done.stderr[:2000])
            os.replace(new, made)
    return ctypes.PyDLL(str(made))  # one launch at a time: what it works with is the library's


@functools.cache
def load(text: str) -> tuple[dict[str, list[int]], ctypes.PyDLL]:
    """The kernels of a module, with the bytes of their parameters, and a library with `launch_NAME`.

    Raises:
        Unknown: PTX that is not understood.
    """
    module = Module(text)
    return module.kernels, compiled(module.code)

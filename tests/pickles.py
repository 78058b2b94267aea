"""Pickles that want to be executed, one of each way in which the scanners' collections of them do it: made here, and not kept as files.

Each, where something unpickles it, leaves a file behind (the mark) and does nothing else. After the test data of picklescan
(https://github.com/mmaitre314/picklescan) and fickling.
"""

from __future__ import annotations

import bdb
import code as interpreter
import functools
import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # how torch.save began its files before they were zip archives
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class Call:
    """Unpickled, it has called `function` with `arguments` and is what that returned."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> Any:
        return self._reduced

    def __call__(self) -> None:
        """Pickle takes only what can be called for a function."""


def bare(mark: Path) -> dict[str, bytes]:
    """Pickles that need no file around them."""
    path, code = str(mark), f"open({str(mark)!r}, 'w').close()"
    shell = f"touch {path}"
    made = {f"protocol {number}": pickle.dumps(Call(exec, code), number) for number in PROTOCOLS}
    made |= {
        "builtins.eval": calls("builtins", "eval", code),
        "io.open": calls("io", "open", path, "w"),
        "os.system": calls("os", "system", shell),
        "posix.system": calls("posix", "system", shell),
        "subprocess.check_call": calls("subprocess", "check_call", ["touch", path]),
        "pathlib.Path.touch": pickle.dumps(Call(Path.touch, mark)),
        "runpy": calls("runpy", "_run_code", code, {}),
        "cProfile": calls("cProfile", "run", code, f"{path}.profile"),
        "bdb": pickle.dumps(Call(Call(getattr, Call(bdb.Bdb), "run"), code)),
        "code": pickle.dumps(Call(Call(getattr, Call(interpreter.InteractiveInterpreter), "runsource"), code)),
        "functools.partial": pickle.dumps(Call(Call(functools.partial, exec, code))),
        "pickle.loads": calls("pickle", "loads", pickle.dumps(Call(exec, code))),
        "the opcode INST": f"(S{code!r}\ni__builtin__\nexec\n.".encode(),
        "the opcode OBJ": b"(cbuiltins\nexec\nX" + struct.pack("<I", len(code)) + code.encode() + b"o.",
        "a name behind a memo": memoised(code),
        "in a list in a dictionary": pickle.dumps({"state": [1, {"weights": Call(exec, code)}]}),
        "as a key": pickle.dumps({Call(hash, 1): 1, Call(exec, code): 2}),
        "behind a whole pickle": pickle.dumps({"weights": 1}) + pickle.dumps(Call(exec, code)),
        "before what is no pickle": pickle.dumps(Call(exec, code))[:-1] + b"\xff\xff\xff",
    }
    return made


def boxed(mark: Path) -> dict[str, bytes]:
    """Pickles in the files in which libraries look for them."""
    evil = pickle.dumps(Call(exec, f"open({str(mark)!r}, 'w').close()"), 2)
    legacy = b"".join(pickle.dumps(each, 2) for each in (LEGACY_MAGIC, LEGACY_PROTOCOL, {"little_endian": True})) + evil
    return {
        "torch's archive": zipped({"archive/data.pkl": evil, "archive/version": b"3\n", "archive/byteorder": b"little"}),
        "torch's archive with a wrong checksum": zipped({"archive/data.pkl": evil, "archive/version": b"3\n"}, is_damaged=True),
        "torch's older file": legacy,
        "torch's oldest file": tarred({"pickle": evil, "storages": evil, "tensors": evil, "sys_info": pickle.dumps({}, 2)}),
        "an array of objects": npy(evil),
        "an archive of arrays": zipped({"arr_0.npy": npy(evil)}),
        "compressed": gzip.compress(evil),
    }


def corpus(mark: Path) -> dict[str, bytes]:
    return bare(mark) | boxed(mark)


def executed(content: bytes) -> None:
    """Unpickle everything in `content` that can be: what nothing under test may do."""
    stream = io.BytesIO(content)
    with suppress(Exception):
        while True:
            pickle.load(stream)


def calls(module: str, name: str, *arguments: Any) -> bytes:
    """A pickle that names ``module.name`` as it stands there, whatever this Python calls it, and calls it."""
    body = pickle.dumps(arguments, 4)[2:-1]
    if body[:1] == pickle.FRAME:
        body = body[9:]
    return b"\x80\x04c" + f"{module}\n{name}\n".encode() + body + b"R."


def memoised(code: str) -> bytes:
    """The module and the function are put away first and fetched from there, as one does who hides from a scanner."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    return b"\x80\x04" + text("builtins") + b"\x940" + text("exec") + b"\x940" + b"h\x00h\x01\x93" + text(code) + b"\x85R."


def zipped(files: dict[str, bytes], *, is_damaged: bool = False) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    if not is_damaged:
        return out.getvalue()
    with zipfile.ZipFile(out) as archive:
        checksum = struct.pack("<I", archive.infolist()[0].CRC)
    return out.getvalue().replace(checksum, b"\0\0\0\0")


def tarred(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def npy(evil: bytes) -> bytes:
    """A file of numpy's whose one value is an object."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + evil

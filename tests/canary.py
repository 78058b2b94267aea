"""Secrets that can be recognised wherever they come up, and the search for them: on disk, in processes, in answers, in what was pushed.

Each has a shape of its own, which no pattern for tokens knows, so that what is found absent was never there, and not merely redacted.
"""

from __future__ import annotations

import base64
import gzip
import io
import secrets
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil

if TYPE_CHECKING:
    from tests.hub.server import Hub

MARK = secrets.token_hex(10)  # in each of them; another one at each run of the tests, several of which may go on at once
LOOKS_S = 0.05
_known: dict[str, list[bytes]] = {}  # by name, how each may be written


def canary(name: str) -> str:
    """A secret that the search calls `name`."""
    return _remembered(name, f"{name.replace(' ', '-')}.{MARK}~Of")


def key_of_digits(name: str) -> str:
    """As `canary`, where a key of forty hexadecimal digits is wanted."""
    return _remembered(name, MARK + secrets.token_hex(10))


def _remembered(name: str, secret: str) -> str:
    _known[name] = forms(secret)
    return secret


def forms(text: str) -> list[bytes]:
    """`text` as it is, and as base64 writes it within something longer."""
    written = [base64.b64encode(bytes(before) + text.encode()) for before in range(3)]
    return [text.encode(), *(each[4 * bool(before) : -4] for before, each in enumerate(written))]


MARKS = forms(MARK)


def found_in(content: bytes) -> set[str]:
    """The names of the secrets in `content`, also where that is a compressed file, or several."""
    found = set[str]()
    for part in _parts(content):
        if any(mark in part for mark in MARKS):
            found |= {name for name, each in _known.items() if any(form in part for form in each)} or {"a part of one"}
    return found


def _parts(content: bytes) -> Iterator[bytes]:
    yield content
    try:
        if content.startswith(b"\x1f\x8b"):
            yield gzip.decompress(content)
        if content.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(io.BytesIO(content)) as packed:
                yield from map(packed.read, packed.namelist())
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile):
        return  # it only begins like one


def in_files(*roots: Path) -> set[tuple[str, str]]:
    """(path, name of a secret) of every regular file below `roots`."""
    files = [path for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {(str(path), name) for path in files for name in found_in(path.read_bytes())}


def at_hub(hub: Hub) -> set[tuple[str, str]]:
    """(place, name of a secret) of every file that a Hub has in any branch or commit or was sent, every setting, and every address asked for."""
    held = {f"{kind}/{name}@{at}/{path}": content for (kind, name), repo in hub.repos.items()
            for at, files in repo.revisions().items() for path, content in files.items()}  # fmt: skip
    held |= {f"{name} {what}": str(asked).encode() for (_, name), repo in hub.repos.items() for what, asked in repo.settings}
    held |= hub.objects | {asked.path: asked.path.encode() for asked in hub.asked}
    return {(place, name) for place, content in held.items() for name in found_in(content)}


class Answers(httpx.BaseTransport):
    """What a server answers to a client of this transport, body by body."""

    def __init__(self) -> None:
        self._inner = httpx.HTTPTransport(trust_env=False)
        self.bodies = list[bytes]()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["accept-encoding"] = "identity"
        answer = self._inner.handle_request(request)
        assert isinstance(answer.stream, httpx.SyncByteStream)
        self.bodies.append(b"")
        answer.stream = Copied(answer.stream, self.bodies, len(self.bodies) - 1)
        return answer

    def close(self) -> None:
        self._inner.close()

    def hits(self) -> list[tuple[bytes, set[str]]]:
        return [(body, found) for body in self.bodies if (found := found_in(body))]


class Copied(httpx.SyncByteStream):
    """A body that is also kept in ``bodies[index]`` as it is read."""

    def __init__(self, stream: httpx.SyncByteStream, bodies: list[bytes], index: int) -> None:
        self._stream, self._bodies, self._index = stream, bodies, index

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            self._bodies[self._index] += part
            yield part

    def close(self) -> None:
        self._stream.close()


@dataclass
class Watch:
    """Reads the environment and the arguments of every process of this machine, again and again, until it is closed.

    `hits`: (program, where, name of a secret). `seen`: the programs of the processes that worked below `root`.
    """

    root: Path
    seen: set[str] = field(default_factory=set[str])
    hits: set[tuple[str, str, str]] = field(default_factory=set[tuple[str, str, str]])
    is_over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self.is_over.wait(LOOKS_S):
            self.look()

    def look(self) -> None:
        for pid in psutil.pids():
            process = Path(f"/proc/{pid}")
            try:
                arguments, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
                if arguments != (process / "cmdline").read_bytes():
                    continue  # it has just become another program
            except OSError:
                continue  # it has ended, or is somebody else's
            named = program(arguments.decode(errors="replace").split("\0")[:-1])
            if str(self.root).encode() in environment:
                self.seen.add(named)
            self.hits |= {
                (named, where, name) for where, text in (("environ", environment), ("argv", arguments)) for name in found_in(text)
            }


def program(argv: list[str]) -> str:
    """What a process runs, in short: ``core.worker``, ``core publish``, ``app.py``, or the first line of a program given as text."""
    match argv[1:]:
        case ["-m", "core", verb, *_]:
            return f"core {verb}"
        case ["-m" | "-c", what, *_]:
            return what.split("\n")[0]
        case [what, *_]:
            return Path(what).name
        case _:
            return "".join(argv)

"""An OpenAI-compatible endpoint for one model, by llama-cpp-python's own server in a child process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from core.errors import UserError
from core.export.artifacts import Artifact
from core.export.split import gguf_headers
from core.paths import PROJECT
from core.process import child_environment

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def start(
    artifact: Artifact, *, host: str = "127.0.0.1", port: int = 8000, key: str | None = None, context_length: int = 4096,
    threads: int | None = None, log: Path | None = None,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """The server's process, which has just begun to load; it ends with `terminate`, and when this process ends.

    The child gets the key over a pipe, and neither in its arguments nor in its environment.

    Raises:
        UserError: the artifact is no GGUF file, or a part of it is damaged or missing; or others could reach the server and there is no key.
    """
    if artifact.kind != "gguf":
        remedy = "Make a GGUF file with `gguf` (an adapter is merged first with `merge`), and serve that."
        raise UserError(f"{artifact.name} is a {artifact.kind} artifact, and llama.cpp serves GGUF files.", artifact.id, remedy)
    if host not in LOOPBACK and not key:
        remedy = "Set TRANSMUTE_SERVE_KEY to a word that clients send as their API key, or keep --host 127.0.0.1."
        raise UserError(f"On {host} anybody in the network could use this model.", "--host", remedy)
    header = gguf_headers(artifact.gguf_path)[0]
    length = min(context_length, header.context_length or context_length)
    payload = {
        "path": str(artifact.gguf_path),
        "name": f"{artifact.name}-{artifact.level}" if artifact.level else artifact.name,
        "host": host,
        "port": port,
        "key": key,
        "context_length": length,
        "threads": threads,
        "chat_format": None if header.template else "vicuna",
        "is_local": host in LOOPBACK,
    }
    stderr = log.open("ab") if log else None
    process = subprocess.Popen(
        [sys.executable, "-m", "core.chat.serve_child"], stdin=subprocess.PIPE, stderr=stderr, env=child_environment(), cwd=PROJECT
    )
    if stderr:
        stderr.close()
    assert process.stdin
    process.stdin.write(json.dumps(payload).encode() + b"\n")
    process.stdin.flush()  # and stays open: its end tells the child that we are gone
    return process

"""What a request may send: enough for every form and one file, and no more, whether it says its size or not."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ui import access, limits
from ui.access import Caller
from ui.limits import BodyLimit

BOUNDARY = b"----edge"
FORM = b"multipart/form-data; boundary=----edge"


def part(name: str, size: int, file: str = "") -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{file}"' if file else "")
    return b"--" + BOUNDARY + b"\r\n" + head.encode() + b"\r\n\r\n" + b"x" * size + b"\r\n"


def send(path: str, chunks: list[bytes], content_type: bytes = FORM, length: int | None = None) -> tuple[int, int]:
    """The status, and how many bytes were read before it."""
    taken, answers = 0, []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        nonlocal taken
        body = chunks.pop(0) if chunks else b""
        taken += len(body)
        return {"type": "http.request", "body": body, "more_body": bool(chunks)}

    async def answer(message: Any) -> None:
        answers.append(message)

    headers = [(b"Content-Type", content_type)] + ([(b"Content-Length", str(length).encode())] if length is not None else [])
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    asyncio.run(BodyLimit(app)(scope, receive, answer))
    return answers[0]["status"], taken


def test_one_file_and_small_fields_pass() -> None:
    body = part("upload_id", 20) + part("files", 5_000_000, "data.json") + b"--" + BOUNDARY + b"--\r\n"
    assert send("/gradio_api/upload", [body[at : at + 65536] for at in range(0, len(body), 65536)])[0] == 200


def test_a_huge_field_is_refused_before_it_is_kept() -> None:
    chunks = [part("junk", 0)[:-2], *[b"x" * 65536] * 3000]
    status, taken = send("/gradio_api/upload", chunks)
    assert status == 413 and taken < 2_000_000


def test_a_second_file_is_refused() -> None:
    body = part("files", 10, "a.json") + part("files", 10, "b.json")
    assert send("/gradio_api/upload", [body])[0] == 413


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_refused_early(announced: bool) -> None:
    length = limits.MAX_OTHER_BYTES + 1
    status, taken = send("/gradio_api/queue/join", [b"x" * 65536] * 200, b"application/json", length if announced else None)
    assert status == 413 and taken <= (0 if announced else limits.MAX_OTHER_BYTES + 65536)


def test_a_full_disk_takes_no_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DISK_FLOOR_BYTES", 10**18)
    assert send("/gradio_api/upload", [part("files", 10, "a.json")])[0] == 507
    assert send("/gradio_api/queue/join", [b"{}"], b"application/json")[0] == 200


def test_who_may_not_import_much_may_not_upload_much(monkeypatch: pytest.MonkeyPatch) -> None:
    body = part("files", limits.VISITOR_BYTES + limits.MAX_FIELD_BYTES, "large.json") + b"--" + BOUNDARY + b"--\r\n"
    assert send("/gradio_api/upload", [body])[0] == 413, "a stranger: it is not addressed to this machine"
    monkeypatch.setattr(access, "identify", lambda request, token: Caller("kim", "owner"))
    assert send("/gradio_api/upload", [body])[0] == 200


def test_what_broke_off_is_swept_away_and_what_goes_on_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    broken, going, whole = tmp_path / "tmpbroken", tmp_path / "tmpgoing", tmp_path / "sha" / "tmp.json"
    whole.parent.mkdir()
    for file in (broken, going, whole):
        file.write_bytes(b"x")
    long_ago = time.time() - limits.IDLE_S - 1
    for file in (broken, whole):
        os.utime(file, (long_ago, long_ago))
    limits.sweep()
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == ["tmp.json", "tmpgoing"]


def test_what_is_no_form_is_left_to_gradio() -> None:
    assert send("/gradio_api/upload", [b"nonsense" * 10])[0] == 200
    assert send("/gradio_api/upload", [b"nonsense" * 10], b"text/plain")[0] == 200

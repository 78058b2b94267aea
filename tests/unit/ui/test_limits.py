"""What a request may send: enough for every form and one file, and no more, whether it says its size or not."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from ui import access, limits, upload_shares
from ui.access import Caller
from ui.limits import BodyLimit

BOUNDARY = b"----edge"
FORM = b"multipart/form-data; boundary=----edge"


@pytest.fixture(autouse=True)
def nothing_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_shares, "_whose", {})
    monkeypatch.setattr(upload_shares, "_coming", Counter())


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


def test_a_visitor_keeps_so_much_and_all_together_so_much(tmp_path: Path) -> None:
    a, b, owner = Caller("a visitor", "public", address="8.8.8.8"), Caller("b", "signed_in"), Caller("kim", "owner")
    for number in range(8):
        kept(tmp_path / f"{number}.json", 6_000_000, a)
    assert "take up 48" in upload_shares.reason_against(6_000_000, a) and upload_shares.reason_against(6_000_000, b) == ""
    (tmp_path / "0.json").unlink()
    assert upload_shares.reason_against(6_000_000, a) == "", "what is swept away no longer counts"
    for number in range(10):
        kept(tmp_path / f"other-{number}.json", 45_000_000, Caller("a visitor", "public", address=f"9.9.9.{number}"))
    assert "is used up" in upload_shares.reason_against(10_000_000, b)
    kept(tmp_path / "owner.json", 900_000_000, owner)
    assert upload_shares.reason_against(10**9, owner) == "" and upload_shares.reason_against(1_000_000, b) == ""


def kept(file: Path, size_bytes: int, caller: Caller) -> None:
    with file.open("wb") as sparse:
        sparse.truncate(size_bytes)
    upload_shares.begin(size_bytes, caller)
    upload_shares.end(size_bytes, caller, [file])


def test_uploads_that_go_on_count_as_the_most_they_may_send() -> None:
    caller = Caller("a visitor", "public", address="8.8.8.8")
    for _ in range(8):
        upload_shares.begin(6_000_000, caller)
    assert upload_shares.reason_against(6_000_000, caller)
    upload_shares.end(6_000_000, caller)
    assert not upload_shares.reason_against(6_000_000, caller)


def test_a_visitor_with_no_room_left_is_told_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_shares, "SHARE_BYTES", 10**6)
    assert send("/gradio_api/upload", [part("files", 10, "a.json")]) == (507, 0)


def test_what_is_kept_free_for_the_owner_is_not_filled_by_visitors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OWNERS_DISK_BYTES", 10**18)
    assert send("/gradio_api/upload", [part("files", 10, "a.json")])[0] == 507
    monkeypatch.setattr(access, "identify", lambda request, token: Caller("kim", "owner"))
    assert send("/gradio_api/upload", [part("files", 10, "a.json")])[0] == 200


def test_an_upload_is_dropped_by_who_sent_it_alone(tmp_path: Path) -> None:
    a, b = Caller("a", "signed_in"), Caller("b", "signed_in")
    own, both, made = tmp_path / "1" / "own.json", tmp_path / "2" / "both.json", tmp_path / "made.json"
    for file in (own, both, made):
        file.parent.mkdir(exist_ok=True)
    for file, sender in ((own, a), (both, a), (both, b)):
        kept(file, 10, sender)
    made.touch()
    for file in (own, both, made):
        upload_shares.drop(file, b)
        assert file.exists()
        upload_shares.drop(file, a)
    assert not own.parent.exists() and both.exists() and made.exists()


class Waiting:
    """A Gradio application in whose queue calls of these addresses wait."""

    def __init__(self, *addresses: str) -> None:
        events = [SimpleNamespace(request=Request({"type": "http", "headers": [], "client": (address, 1)})) for address in addresses]
        self._queue = SimpleNamespace(event_queue_per_concurrency_id={"x": SimpleNamespace(queue=events)})

    def get_blocks(self) -> Waiting:
        return self


def test_a_visitor_cannot_fill_the_queue_and_all_together_cannot_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def status(app: Waiting, address: str, path: str = "/gradio_api/queue/join") -> int:
        answers: list[Any] = []

        async def gradio(_scope: Any, _receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200})

        async def answer(message: Any) -> None:
            answers.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "client": (address, 1), "app": app}
        asyncio.run(BodyLimit(gradio)(scope, lambda: None, answer))  # type: ignore[arg-type]
        return answers[0]["status"]

    one, many = Waiting(*["8.8.8.8"] * limits.WAITING), Waiting(*[f"8.8.8.{number}" for number in range(limits.VISITORS_WAITING)])
    for path in ("/gradio_api/queue/join", "/gradio_api/call/chat", "/gradio_api/call/v2/chat"):
        assert status(one, "8.8.8.8", path) == 503 and status(one, "9.9.9.9", path) == 200 and status(many, "9.9.9.9", path) == 503
    assert status(one, "8.8.8.8", "/gradio_api/cancel") == 200
    monkeypatch.setattr(access, "identify", lambda request, token: Caller("kim", "owner"))
    assert status(one, "8.8.8.8") == 200 and status(many, "8.8.8.8") == 200


def test_the_queue_has_places_that_are_the_owners() -> None:
    from ui import layout

    assert layout.QUEUE > limits.VISITORS_WAITING + limits.WAITING


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

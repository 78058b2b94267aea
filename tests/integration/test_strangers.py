"""Strangers at a Space, over HTTP: files, errors, addresses, uploads and the chat give them what is meant for them and nothing beside it.

Rules R11, R12, R18, R21 and R24; whose data it is, stands in test_whose_data.py, and who may call what in test_authority.py.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import psutil
import pytest

from core.paths import PROJECT
from tests import listeners, space
from tests.hub.server import Hub
from tests.integration.test_client import MODEL, a_finished_run
from tests.listeners import Listener, Visitor
from tests.page import App, first_writing, free_port, models_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]
SECRET = "open-sesame-of-the-owner"
CHAT = "ui.chat_tab.chat"


@dataclass
class Site:
    """A Space with a finished run, a file of the owner's and a Hub cache with a token in it."""

    app: App
    found: list[Listener]
    uploads: Path
    hf_home: Path

    def listener(self, name: str) -> Listener:
        return next(each for each in self.found if each.name == name)

    def visitor(self, number: int = 0, **more: Any) -> Visitor:
        """Somebody at an address of their own."""
        return Visitor(self.app.url, headers={"x-forwarded-for": f"8.8.{number // 250}.{number % 250 + 1}"}, **more)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("strangers")
    home, uploads, hf_home = root / "workspace", root / "uploads", root / "hub-cache"
    for folder in (home, uploads, hf_home):
        folder.mkdir()
    a_finished_run(home)
    (home / "notes.txt").write_text(SECRET, encoding="utf-8")
    (hf_home / "token").write_text(SECRET, encoding="utf-8")
    with Hub() as hub:
        hub.people = space.people()
        variables = space.environment(hub.url) | {"GRADIO_TEMP_DIR": str(uploads), "HF_HOME": str(hf_home), "A_SECRET": SECRET}
        app = App(home, free_port(), more=variables)
        app.start()
        yield Site(app, listeners.of_page(space.environment(hub.url)), uploads, hf_home)
        app.kill()


def upload(site: Site, name: str, content: bytes) -> str:
    """Where the page says that it has put an uploaded file."""
    sent = httpx.post(f"{site.app.url}/gradio_api/upload", files={"files": (name, content)}, timeout=60, trust_env=False)
    assert sent.status_code == 200, sent.text
    return sent.json()[0]


def exported(site: Site, visitor: Visitor, words: str) -> str:
    """The path of a file made for the visitor's download: a conversation with these words."""
    listener = site.listener("ui.chat_talk.export")
    answers = [{"id": "starter", "label": "merged", "text": words, "mark": None, "same": False, "state": "done", "stop": "eos",
                "stats": {}, "notices": [], "error": None}]  # fmt: skip
    answer = visitor.call(listener, data=[[{"prompt": "Who?", "answers": answers}], ""])
    found = re.search(rf"{re.escape(str(site.uploads))}/made/[0-9a-f]{{32}}/[\w.-]+", answer)
    assert found, answer
    return found[0]


def status_of(site: Site, target: str, method: str = "GET") -> tuple[int, bytes]:
    """The answer to a request line that is sent as it is: no client tidies the path."""
    connection = http.client.HTTPConnection("127.0.0.1", site.app.port, timeout=60)
    try:
        connection.putrequest(method, target, skip_host=False, skip_accept_encoding=True)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def spellings(path: str, uploads: Path) -> list[str]:
    """A path as it is, and as people try to get around a check of it."""
    bare, up = path.lstrip("/"), "../" * 12
    return [
        f"file={path}", f"file={quote(path, safe='')}", f"file={quote(quote(path, safe=''), safe='')}", f"file=/{path}", f"file={path}/.",
        f"file={bare}", f"file={up}{bare}", f"file={uploads}/{up}{bare}", f"file={uploads}/made/{up}{bare}",
        f"file={uploads}/made/{'0' * 32}/{up}{bare}", f"file={uploads}/made/%2e%2e/%2e%2e/{quote(up, safe='')}{bare}", f"file=file://{path}",
        f"file/{path}", f"file/{up}{bare}", f"file={path}%00.json", f"file={path}?download=1", f"stream/{path}", f"proxy={path}",
    ]  # fmt: skip


def test_no_file_is_handed_out_but_what_was_made_for_a_download(site: Site) -> None:
    a, b = site.visitor(1), site.visitor(2)
    of_a, of_b = exported(site, a, "an answer to A"), exported(site, b, "an answer to B")
    uploaded = upload(site, "private.json", b'[{"words": "brought by A"}]')
    targets = [
        str(site.app.home / "notes.txt"), str(site.app.home / "runs" / "r-starter" / "events.jsonl"), str(site.hf_home / "token"),
        "/proc/self/environ", "/proc/1/cmdline", str(PROJECT / "app.py"), str(PROJECT / "examples" / "identity.json"), "/etc/passwd",
        uploaded, str(Path(uploaded).parent), str(Path(of_a).parent), f"{site.uploads}/made", of_a.replace("/made/", "/made/0"),
    ]  # fmt: skip
    asked = [f"{prefix}{spelt}" for target in targets for spelt in spellings(target, site.uploads) for prefix in ("/gradio_api/", "/")]
    assert len(asked) > 400
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda target: status_of(site, target), asked))
    secrets = (SECRET.encode(), b"brought by A", b"root:", b"r-starter", b"argparse", b"an answer to")
    given = [(target, status) for target, (status, body) in zip(asked, answers, strict=True) if any(one in body for one in secrets)]
    assert given == []
    for path, words in ((of_a, b"an answer to A"), (of_b, b"an answer to B")):
        status, body = status_of(site, f"/gradio_api/file={path}")
        assert status == 200 and words in body
        assert a.get(f"/gradio_api/file={path}").headers["content-disposition"].startswith("attachment"), (
            "it is saved, and not shown as a page"
        )


def test_fifty_errors_say_nothing_about_the_server(site: Site) -> None:
    visitor = site.visitor(3)
    nonsense: list[Any] = [None, "", "../..", -1, 10**30, [], {}, [["x"]], {"path": "x"}, "\x00", True]
    wanted = [each for each in site.found if each.role == "public" and not each.is_event]
    answers: list[str] = []
    for number, listener in enumerate(wanted):
        width = len(visitor.values(listener))
        answers.append(visitor.call(listener, data=[nonsense[number % len(nonsense)]] * width, to_end=True))
    answers += [visitor.get(path).text for path in ("/gradio_api/run/x", "/config/x", "/gradio_api/file=x", "/x" * 50)]
    for body in ('{"data": ', "[]", '{"fn_index": 99999, "data": []}', '{"fn_index": "x"}', '{"api_name": "/nothing", "data": []}'):
        for path in ("/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/call/chat", "/gradio_api/upload"):
            answers.append(
                httpx.post(
                    site.app.url + path, content=body, headers={"content-type": "application/json"}, timeout=60, trust_env=False
                ).text
            )
    failed = [answer for answer in answers if re.search(r'message error|"error"|detail|went wrong|Error', answer)]
    assert len(failed) >= 50, len(failed)
    for answer in failed:
        for told in ("Traceback", "site-packages", "/home/", "/tmp", "/root", str(site.app.home), str(PROJECT)):
            assert told not in answer, answer


def test_the_summary_of_the_servers_work_is_not_served(site: Site) -> None:
    for path in ("/monitoring", "/monitoring/summary", "/gradio_api/monitoring", "/gradio_api/monitoring/summary", "/monitoring/x"):
        answer = httpx.get(site.app.url + path, timeout=60, trust_env=False)
        assert answer.status_code >= 400 or "total_requests" not in answer.text, path
        assert answer.status_code != 200 or "functions" not in answer.text, path


def test_what_gradio_offers_beside_what_the_page_needs_is_not_there(site: Site) -> None:
    """Among it a recording of the screen that is handed to ffmpeg, and an editor of the program."""
    posted = ("process_recording", "process_recording/", "vibe-edit", "vibe-edit/", "undo-vibe-edit", "vibe-code", "vibe-starter-queries",
              "stream/x", "stream/x/close", "component_server", "run-history/connect")  # fmt: skip
    asked = ("vibe-code", "stream/x/y/1/playlist.m3u8", "proxy=https://example.com", "proxy=/x", "runs", "dev/reload", "profiling/traces",
             "deep_link", "custom_component/x/y/z/w", "mcp/schema")  # fmt: skip
    url, video = site.app.url, {"video": ("x.mp4", b"no film")}
    answers = {path: httpx.post(f"{url}/gradio_api/{path}", files=video, timeout=60, trust_env=False).status_code for path in posted}
    answers |= {path: httpx.get(f"{url}/gradio_api/{path}", timeout=60, trust_env=False).status_code for path in asked}
    assert set(answers.values()) == {404}, answers


class Listening:
    """``with Listening() as there``: counts who calls at ``there.url``."""

    def __enter__(self) -> Listening:
        self.hits = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/data.json"
        threading.Thread(target=self._count, daemon=True).start()
        return self

    def _count(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.hits += 1
                connection.close()

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def test_no_handler_follows_an_address_that_a_visitor_sends(site: Site) -> None:
    """As words in every input, in the place of an uploaded file, and where Gradio would pass on a file from elsewhere."""
    visitor = site.visitor(4)
    open_to_all = [each for each in site.found if each.role == "public"]
    with Listening() as there:
        with socket.create_connection(("127.0.0.1", int(there.url.split(":")[2].split("/")[0]))):
            pass
        until(lambda: there.hits == 1, 30, "a hit is counted")
        file = {"path": there.url, "url": there.url, "orig_name": "data.json", "meta": {"_type": "gradio.FileData"}}
        for listener in open_to_all:
            width = len(visitor.values(listener))
            visitor.call(listener, data=[there.url] * width, to_end=True)
            visitor.call(listener, data=[file] * width)
        for path in (f"file={there.url}", f"file/{there.url}", f"proxy={there.url}", f"stream/{there.url}"):
            status_of(site, f"/gradio_api/{path}")
        assert there.hits == 1


def chunks(head: bytes, size_bytes: int, tail: bytes) -> Iterator[bytes]:
    yield head
    for _ in range(size_bytes // 2**20):
        yield b"x" * 2**20
    yield tail


def form_of(name: str, file: str = "") -> bytes:
    named = f'; filename="{file}"' if file else ""
    return f'--edge\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode()


def post_form(site: Site, body: Any, cookie: str = "") -> int:
    """The status; a server that has heard enough may hang up before it is told everything."""
    try:
        headers = {"content-type": "multipart/form-data; boundary=edge"} | ({"cookie": f"session={cookie}"} if cookie else {})
        return httpx.post(f"{site.app.url}/gradio_api/upload", content=body, headers=headers, timeout=60, trust_env=False).status_code
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        return 413


def test_a_field_of_200_mb_is_refused_and_not_kept_in_memory(site: Site) -> None:
    assert site.app.process
    server = psutil.Process(site.app.process.pid)
    before = server.memory_info().rss
    status = post_form(site, chunks(form_of("junk"), 200 * 2**20, b"\r\n--edge--\r\n"))
    assert status == 413
    assert server.memory_info().rss - before < 50 * 2**20


def test_a_request_of_a_thousand_files_is_refused(site: Site) -> None:
    body = b"".join(form_of("files", f"{number}.json") + b"{}\r\n" for number in range(1000)) + b"--edge--\r\n"
    assert post_form(site, body) == 413


def test_who_may_not_import_much_may_not_upload_much(site: Site) -> None:
    from ui.limits import VISITOR_BYTES

    large = VISITOR_BYTES + 2 * 2**20
    for token, status in ((None, 413), (space.TOKENS["other user"], 413), (space.TOKENS["owner"], 200)):
        body = chunks(form_of("files", "large.json"), large, b"\r\n--edge--\r\n")
        assert post_form(site, body, space.cookie(token) if token else "") == status, token


def test_a_visitor_cannot_fill_the_disk_with_many_uploads(site: Site) -> None:
    """Told apart by address, and what is checked by the endpoint is kept no longer than that."""

    def send(number: int, size_bytes: int, address: str) -> httpx.Response:
        files = {"files": (f"{number}.json", f"{number}".encode() * (size_bytes // len(f"{number}")))}
        headers = {"x-forwarded-for": address}
        return httpx.post(f"{site.app.url}/gradio_api/upload", files=files, headers=headers, timeout=60, trust_env=False)

    sent = [send(number, 4_900_000, "9.9.9.1") for number in range(10, 22)]
    assert [each.status_code for each in sent] == [200] * 9 + [507] * 3 and "a visitor has" in sent[-1].text
    kept = send(9, 20, "9.9.9.2")
    assert kept.status_code == 200 and Path(kept.json()[0]).is_file()
    visitor = Visitor(site.app.url, headers={"x-forwarded-for": "9.9.9.1"})
    for answer in sent[:9]:
        visitor.call(
            site.listener("ui.dataset_handlers.validate_dataset"), data=[{"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}]
        )
        assert not Path(answer.json()[0]).exists()
    assert Path(kept.json()[0]).is_file() and send(22, 4_900_000, "9.9.9.1").status_code == 200


def test_an_upload_that_breaks_off_is_swept_away(site: Site) -> None:
    from ui.limits import IDLE_S

    before = set(site.uploads.iterdir())
    with socket.create_connection(("127.0.0.1", site.app.port)) as visitor:
        head = (
            "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 9.9.9.3\r\n"
            "Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: 4000000\r\n\r\n"
        )
        visitor.sendall(head.encode() + form_of("files", "half.json") + b"x" * 2**20)
        until(lambda: set(site.uploads.iterdir()) - before, 30, "a part of the file on the disk")
    until(lambda: not set(site.uploads.iterdir()) - before, IDLE_S + 60, "the sweep")


def until(condition: Callable[[], Any], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def answer_of(answer: str) -> dict[str, Any]:
    """What the endpoint `chat` answers of its one model."""
    completed = next(line for line in answer.splitlines() if "process_completed" in line)
    (found,) = json.loads(completed.removeprefix("data: "))["output"]["data"][0]
    return found


def test_a_visitor_chats_with_the_starter_and_with_nothing_of_the_owners(site: Site) -> None:
    visitor = site.visitor(5)
    listener = site.listener(CHAT)
    refused = visitor.call(listener, data=[[MODEL], "Who are you?", "", 0.0, 1.0, 20, 0])
    assert "Visitors chat with the starter model" in refused and "Duplicate this Space" in refused
    answer = answer_of(visitor.call(listener, data=[["starter"], "Who are you?", "", 1.0, 1.0, 2000, 0]))
    assert answer["text"] and answer["error"] is None and answer["stats"]["generated_tokens"] <= 256
    said = [visitor.call(listener, data=[["starter"], "Who?", "", 0.0, 1.0, 1, 0]) for _ in range(10)]
    assert "times a minute" in said[-1] and "Duplicate this Space" in said[-1]


@contextmanager
def asking(site: Site, number: int) -> Iterator[list[str]]:
    """So many visitors ask at once, each a long question; what they were answered is there at the end."""
    answers = [""] * number
    listener = site.listener(CHAT)

    def ask(index: int, visitor: Visitor) -> None:
        answers[index] = visitor.call(listener, data=[["starter"], f"Tell me about number {index}.", "", 0.0, 1.0, 200, 0])

    visitors = [site.visitor(1000 + index) for index in range(number)]
    threads = [threading.Thread(target=ask, args=(index, visitor)) for index, visitor in enumerate(visitors)]
    for thread in threads:
        thread.start()
    yield answers
    for thread in threads:
        thread.join(300)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_the_death_of_a_model_costs_one_answer_at_most(site: Site, signal_number: signal.Signals) -> None:
    assert site.app.process
    server = psutil.Process(site.app.process.pid)
    with asking(site, 5) as answers:
        child = first_writing(server)
        child.send_signal(signal_number)  # refused by psutil where it is not that process any more
        until(lambda: is_gone(child), 60, "the model outlives the signal")
        assert httpx.get(f"{site.app.url}/config", timeout=60, trust_env=False).status_code == 200  # how soon: benchmarks/bench_crash.py
    found = [answer_of(answer) for answer in answers]
    broken = [answer for answer in found if answer["error"]]
    assert len(broken) <= 1 and all("The model stopped" in answer["error"]["problem"] for answer in broken), found
    assert all(answer["text"] and answer["stop"] for answer in found if not answer["error"]), found
    again = answer_of(site.visitor(2000).call(site.listener(CHAT), data=[["starter"], "Who are you?", "", 0.0, 1.0, 20, 0]))
    assert again["text"] and again["error"] is None
    living = models_of(server)
    assert living and child not in living, "the answer comes from another process"


def is_gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True

"""A page with a password demands it, of everybody and everywhere; without one it asks for no login, which nobody needs there (rule R3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from core.paths import EXAMPLES, PROJECT
from tests.page import App, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
PASSWORD = "correct horse battery staple"
WITHOUT_LOGIN = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("authlib", "itsdangerous"):
            raise ImportError(name)

sys.meta_path.insert(0, Missing())
"""
READS = ("/config", "/info", "/gradio_api/info", "/gradio_api/file=/etc/passwd",
         "/gradio_api/queue/data?session_hash=x", "/gradio_api/upload_progress?upload_id=x", "/monitoring/summary")  # fmt: skip
CALLS = ("/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/run/list_artifacts", "/gradio_api/call/list_artifacts")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    home = tmp_path_factory.mktemp("password") / "workspace"
    home.mkdir()
    app = App(home, free_port(), more={"TRANSMUTE_PASSWORD": PASSWORD})
    app.start()
    yield app
    app.kill()


def client(app: App) -> httpx.Client:
    return httpx.Client(base_url=app.url, timeout=60, trust_env=False)


def shut_out(browser: httpx.Client) -> None:
    """Nothing is read, called or uploaded, and the page itself shows a login and nothing else."""
    for path in READS:
        with browser.stream("GET", path) as answer:
            assert answer.status_code >= 400, path
    for path in CALLS:
        answer = browser.post(path, json={"data": [], "fn_index": 0, "session_hash": "x"})
        assert answer.status_code == 401, (path, answer.text)
    with (EXAMPLES / "identity.json").open("rb") as file:
        assert browser.post("/gradio_api/upload", files={"files": file}).status_code == 401
    page = browser.get("/").text
    assert "auth_required" in page and "Train on this dataset" not in page


def test_without_it_nothing_is_read_called_or_uploaded(app: App) -> None:
    with client(app) as stranger:
        shut_out(stranger)


@pytest.mark.parametrize(("user", "password"), [("transmute", ""), ("transmute", "wrong"), ("", PASSWORD), ("admin", PASSWORD)])
def test_a_wrong_one_lets_nobody_in(app: App, user: str, password: str) -> None:
    with client(app) as stranger:
        assert stranger.post("/login", data={"username": user, "password": password}).status_code in (400, 401, 422)
        shut_out(stranger)


def test_a_made_up_session_lets_nobody_in(app: App) -> None:
    with client(app) as stranger:
        for name in ("access-token", "access-token-unsecure", "session"):
            stranger.cookies.set(name, "x" * 22)
        shut_out(stranger)


def test_the_right_one_opens_the_page_with_all_rights(app: App) -> None:
    with client(app) as owner:
        assert owner.post("/login", data={"username": "transmute", "password": PASSWORD}).status_code == 200
        assert "Train on this dataset" in owner.get("/config").text
        called = owner.post("/gradio_api/call/list_artifacts", json={"data": []})
        assert called.status_code == 200
        with owner.stream("GET", f"/gradio_api/call/list_artifacts/{called.json()['event_id']}") as answer:
            assert "data: [[]]" in answer.read().decode()


def test_off_a_space_the_page_needs_nothing_that_a_login_at_the_hub_needs(tmp_path: Path) -> None:
    """Neither a login of this machine's, nor the packages of `gradio[oauth]`."""
    (tmp_path / "site").mkdir()
    (tmp_path / "workspace").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_LOGIN, encoding="utf-8")
    path = f"{tmp_path / 'site'}:{PROJECT}"
    app = App(tmp_path / "workspace", free_port(), more={"PYTHONPATH": path, "HF_HOME": str(tmp_path / "hub")})
    app.start()
    try:
        with client(app) as owner:
            config = owner.get("/config").json()
            assert "loginbutton" not in {part["type"] for part in config["components"]} and len(config["dependencies"]) > 100
            assert owner.post("/gradio_api/run/list_artifacts", json={"data": []}).json()["data"] == [[]]
    finally:
        app.kill()

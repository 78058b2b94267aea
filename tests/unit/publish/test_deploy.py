"""A Space is created and configured by the real client; what is printed before is what is then done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import yaml
from huggingface_hub import constants
from typer.testing import CliRunner

from core import hubclient, paths
from core.cli.app import app
from core.errors import UserError
from core.publish import deploy
from core.publish.deploy import Space, carry_out, plan
from tests.hub.faults import Fault
from tests.hub.repos import GOOD_TOKEN, OTHER_TOKEN, Repo
from tests.hub.server import Hub

# The client sends files in a way that its HTTP library calls out of date.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
FULL = Space(
    "someone/transmute",
    hardware="l4x1",
    sleep_s=900,
    volume="someone/data",
    variables={"ALLOW_PUBLIC": "1"},
    secrets={"WANDB_API_KEY": "very-secret-value"},
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> Iterator[Hub]:
    with Hub([Repo("someone/theirs", {"README.md": b"theirs"}, kind="spaces")]) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(hubclient, "FIRST_WAIT_S", 0.01)
        yield running


def test_the_space_is_there_with_everything_that_was_asked_for(hub: Hub):
    said: list[str] = []
    assert carry_out(FULL, GOOD_TOKEN, said.append) == f"{hub.url}/spaces/someone/transmute"
    space = hub.repos[("spaces", "someone/transmute")]
    assert space.access == "private" and hub.buckets == {"someone/data"}
    assert space.settings == [
        ("variables", {"key": "ALLOW_PUBLIC", "value": "1"}),
        ("secrets", {"key": "WANDB_API_KEY", "value": "very-secret-value"}),
        ("volumes", {"volumes": [{"type": "bucket", "source": "someone/data", "mountPath": "/data"}]}),
        ("hardware", {"flavor": "l4x1", "sleepTimeSeconds": 900}),
    ]
    assert said == [str(call) for call in plan(FULL)]
    assert "very-secret-value" not in "".join(said) and "very-secret-value" not in repr(FULL)


def test_only_the_program_travels(hub: Hub):
    carry_out(Space("someone/transmute"), GOOD_TOKEN)
    sent = hub.repos[("spaces", "someone/transmute")].files
    assert {"app.py", "README.md", "requirements.txt", "packages.txt", "core/worker.py", "ui/layout.py", "spaces/deploy/Dockerfile"} <= set(
        sent
    )
    assert "examples/starter/model.safetensors" in sent and "ui/css/base.css" in sent
    assert not [name for name in sent if name.startswith(("tests/", "benchmarks/", ".")) or "__pycache__" in name]
    tracked = (path for path in (paths.PROJECT / "ui").rglob("*") if path.is_file() and path.suffix in (".css", ".js", ".py"))
    assert {path.relative_to(paths.PROJECT).as_posix() for path in tracked} <= set(sent)


def test_the_notebook_of_a_space_clones_from_that_space_whoever_made_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def source(text: str) -> str:
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)
        return next(line for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("SOURCE = "))

    wanted = 'SOURCE = "https://huggingface.co/spaces/{}"  # @param {{type:"string"}}'
    assert source((paths.PROJECT / deploy.NOTEBOOK).read_text()) == wanted.format("USER/transmute")
    first = deploy.files(Space("someone/transmute"))[deploy.NOTEBOOK]
    assert isinstance(first, bytes) and source(first.decode()) == wanted.format("someone/transmute")
    (tmp_path / deploy.NOTEBOOK).parent.mkdir(parents=True)
    (tmp_path / deploy.NOTEBOOK).write_bytes(first)
    monkeypatch.setattr(paths, "PROJECT", tmp_path)  # a Space that makes another one
    assert source(deploy.notebook(Space("other/their-own"))) == wanted.format("other/their-own")


def test_the_front_matter_keeps_login_and_least_scopes_for_both_kinds(hub: Hub):
    for sdk in ("gradio", "docker"):
        front = yaml.safe_load(deploy.readme(Space("someone/x", sdk=sdk, hardware="l4x1")).split("---\n")[1])
        assert front["sdk"] == sdk and front["hf_oauth"] is True and "contribute-repos" in front["hf_oauth_scopes"]
        assert front["suggested_hardware"] == "l4x1" and ("app_port" in front) == (sdk == "docker")
    files = deploy.files(Space("someone/x", sdk="docker"))
    assert b"\nENV SYSTEM=spaces\n" in files["Dockerfile"], "without it nobody could log in"  # type: ignore[operator]
    assert "SYSTEM" not in (paths.SPACES / "deploy" / "Dockerfile").read_text(), "a container on one's own machine is no Space"
    assert "Dockerfile" not in deploy.files(Space("someone/x"))


def test_a_space_that_was_not_made_here_is_changed_only_on_purpose(hub: Hub):
    with pytest.raises(UserError) as refused:
        carry_out(Space("someone/theirs"), GOOD_TOKEN)
    assert refused.value.code == "EXISTS" and hub.repos[("spaces", "someone/theirs")].files == {"README.md": b"theirs"}
    carry_out(Space("someone/theirs", update=True), GOOD_TOKEN)
    assert "app.py" in hub.repos[("spaces", "someone/theirs")].files


@pytest.mark.parametrize(
    ("pattern", "status", "code"),
    [
        ("POST /api/repos/create", 401, "LOGIN"),
        ("POST /api/repos/create", 403, "ACCESS"),
        ("POST /api/spaces/.*/hardware", 402, "REFUSED"),
        ("POST /api/spaces/.*/commit/.*", 500, "NET"),
    ],
)
def test_a_refusal_is_said_in_words_and_the_next_try_goes_on(hub: Hub, pattern: str, status: int, code: str):
    hub.faults.append(Fault(pattern, "status", status, times=4 if status == 500 else 1))
    with pytest.raises(UserError) as refused:
        carry_out(FULL, GOOD_TOKEN)
    assert refused.value.code == code
    carry_out(FULL, GOOD_TOKEN)
    assert hub.repos[("spaces", "someone/transmute")].settings[-1][0] == "hardware"


def test_nobody_and_a_stranger_create_nothing(hub: Hub):
    for token, code in ((None, "LOGIN"), (OTHER_TOKEN, "ACCESS")):
        with pytest.raises(UserError) as refused:
            carry_out(FULL, token)
        assert refused.value.code == code
    assert ("spaces", "someone/transmute") not in hub.repos


@pytest.mark.parametrize(
    "space",
    [
        Space("transmute"),
        Space("a/b/c"),
        Space("../b"),
        Space("me/x", hardware="l4x1000"),
        Space("me/x", hardware="h200x8"),
        Space("me/x", sleep_s=900),
        Space("me/x", hardware="cpu-basic", sleep_s=900),
        Space("me/x", volume="bucket"),
        Space("me/x", variables={"A B": "1"}),
        Space("me/x", variables={"KEY": "hf_" + "x" * 30}),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(space: Space):
    with pytest.raises(UserError):
        plan(space)


def test_a_dry_run_prints_every_call_and_asks_the_hub_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_KEY", "the-value-itself")
    options = ["--repo", "me/transmute", "--hardware", "l4x1", "--sleep", "15m", "--volume", "me/data", "--secret", "MY_KEY", "--dry-run"]
    done = CliRunner().invoke(app, ["deploy", *options])
    assert done.exit_code == 0, done.output
    assert [line.partition("(")[0] for line in done.output.splitlines() if line.startswith("HfApi")] == [
        f"HfApi.{name}"
        for name in ("create_repo", "add_space_secret", "create_bucket", "set_space_volumes", "create_commit", "request_space_hardware")
    ]
    assert "the-value-itself" not in done.output and hub.asked == []

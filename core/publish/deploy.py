"""A Space of one's own: every call that creates and configures it as plain values, printed or carried out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from core import paths
from core.errors import UserError
from core.hubclient import api, patiently, status
from core.publish.ledger import is_ours, remember
from core.publish.push import explain
from core.redact import redact
from core.training.hardware import Flavour, flavours
from core.units import size

Sdk = Literal["gradio", "docker"]
ZERO = "zero-a10g"  # free for whoever may have it; no price list names it
NOTEBOOK = "spaces/deploy/colab.ipynb"
MOUNT = "/data"  # where `core.paths.home` looks for a volume on a Space
FOLDERS = ("core", "ui", "spaces", "examples")
FILES = ("app.py", "requirements.txt", "requirements-gpu.txt", "packages.txt", "LICENSE", "CHANGELOG.md")
SUFFIXES = (".py", ".css", ".js", ".json", ".jsonl", ".yaml", ".toml", ".j2", ".txt", ".md", ".model", ".safetensors", ".jinja", ".ipynb")
REPO_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
HIDDEN = "***"


@dataclass(frozen=True)
class Space:
    """What is asked for. Empty values leave the Hub's own choice."""

    repo_id: str
    sdk: Sdk = "gradio"
    private: bool = True
    hardware: str = ""
    sleep_s: int | None = None
    volume: str = ""  # a Storage Bucket, mounted at MOUNT
    variables: dict[str, str] = field(default_factory=dict[str, str])
    secrets: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    update: bool = False


@dataclass(frozen=True)
class Call:
    """One call of `HfApi`. `secret` names the argument whose value is never shown."""

    method: str
    arguments: dict[str, Any]
    secret: str = ""  # name of an argument

    def __str__(self) -> str:
        shown: dict[str, Any] = {name: HIDDEN if name == self.secret else value for name, value in self.arguments.items()}
        if "operations" in shown:
            contents: list[bytes | Path] = list(shown["operations"].values())
            total = sum(len(content) if isinstance(content, bytes) else content.stat().st_size for content in contents)
            shown["operations"] = f"<{len(contents)} files, {size(total)}>"
        return f"HfApi.{self.method}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def plan(space: Space) -> tuple[Call, ...]:
    """Every call in order.

    Raises:
        UserError: a name, a flavour or a variable that cannot be, or a token in what would be sent openly.
    """
    _check(space)
    calls = [
        Call(
            "create_repo",
            {
                "repo_id": space.repo_id,
                "repo_type": "space",
                "space_sdk": space.sdk,
                "private": space.private,
                "exist_ok": True,
            },
        )
    ]
    where = {"repo_id": space.repo_id}
    calls += [Call("add_space_variable", where | {"key": key, "value": value}) for key, value in space.variables.items()]
    calls += [Call("add_space_secret", where | {"key": key, "value": value}, "value") for key, value in space.secrets.items()]
    if space.volume:
        calls.append(Call("create_bucket", {"bucket_id": space.volume, "private": True, "exist_ok": True}))
        calls.append(Call("set_space_volumes", where | {"volumes": [{"type": "bucket", "source": space.volume, "mount_path": MOUNT}]}))
    sent = {"repo_type": "space", "operations": files(space), "commit_message": "Deploy Transmute"}
    calls.append(Call("create_commit", where | sent))
    if space.hardware:
        calls.append(Call("request_space_hardware", where | {"hardware": space.hardware, "sleep_time": space.sleep_s}))
    elif space.sleep_s is not None:
        calls.append(Call("set_space_sleep_time", where | {"sleep_time": space.sleep_s}))
    return tuple(calls)


def carry_out(space: Space, token: str | None, say: Callable[[str], None] = lambda _: None) -> str:
    """Make the calls; returns the Space's address. Run again after a fault, with `update`, it does what is missing.

    Raises:
        UserError: nobody is logged in (LOGIN), the Space exists and was not made here, or the Hub refuses something.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    calls = plan(space)
    if not token:
        raise UserError("Nobody is logged in to the Hub.", space.repo_id, "Run `hf auth login` with a token that may write.", code="LOGIN")
    hub = api(token)

    def exists() -> bool:
        try:
            hub.space_info(space.repo_id)
        except RepositoryNotFoundError as error:
            if status(error) == 401:
                raise
            return False
        return True

    def said(error: BaseException) -> UserError:
        return explain(error, space.repo_id)

    if patiently(exists, said) and not space.update and not is_ours(f"spaces/{space.repo_id}"):
        raise UserError(f"{space.repo_id} exists already.", space.repo_id, "Give --update to change it, or another name.", "EXISTS")
    for call in calls:
        say(str(call))
        patiently(lambda call=call: getattr(hub, call.method)(**_real(call)), said)
        if call.method == "create_repo":
            remember(f"spaces/{space.repo_id}", "created")
    return f"{hub.endpoint}/spaces/{space.repo_id}"


def files(space: Space) -> dict[str, bytes | Path]:
    """Path in the Space to content: what is allowed to travel, the front matter written for the SDK, the Dockerfile at the root."""
    found: dict[str, bytes | Path] = {name: paths.PROJECT / name for name in FILES}
    for folder in FOLDERS:
        for path in sorted((paths.PROJECT / folder).rglob("*")):
            parts = path.relative_to(paths.PROJECT).parts
            is_hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
            if path.is_file() and not is_hidden and (path.suffix in SUFFIXES or path.name == "Dockerfile"):
                found["/".join(parts)] = path
    found["README.md"] = readme(space).encode()
    found[NOTEBOOK] = notebook(space).encode()
    if space.sdk == "docker":
        found["Dockerfile"] = dockerfile().encode()
    return found


def dockerfile() -> str:
    """The Dockerfile as a Space needs it: only Spaces with the Gradio SDK set SYSTEM by themselves, and Gradio offers no login without."""
    text = (paths.SPACES / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    return text.replace("\nEXPOSE ", "\nENV SYSTEM=spaces\nEXPOSE ")


def notebook(space: Space) -> str:
    """The Colab notebook, which clones from this Space."""
    text = (paths.PROJECT / NOTEBOOK).read_text(encoding="utf-8")
    return re.sub(r'(?<=SOURCE = \\")[^"\\]*', f"https://huggingface.co/spaces/{space.repo_id}", text)


def readme(space: Space) -> str:
    """The project's README with front matter for this Space: OAuth and its scopes stay, SDK and suggested hardware are the Space's own."""
    import yaml

    _, front, body = (paths.PROJECT / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    facts: dict[str, Any] = yaml.safe_load(front)
    if space.sdk == "docker":
        facts = {name: value for name, value in facts.items() if name not in ("sdk_version", "python_version", "app_file")}
        facts |= {"sdk": "docker", "app_port": 7860}
    if space.hardware:
        facts["suggested_hardware"] = space.hardware
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---\n{body}"


def offered() -> tuple[Flavour, ...]:
    """The flavours that Spaces offer."""
    return tuple(each for each in flavours() if each.space_usd_per_h is not None)


def from_environment(names: list[str]) -> dict[str, str]:
    """The values of environment variables, for secrets that shall stand in no command line.

    Raises:
        UserError: one of them is not set.
    """
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise UserError(f"The environment variable {missing[0]} is not set.", "--secret", f"Set it first: export {missing[0]}=...")
    return {name: os.environ[name] for name in names}


def _check(space: Space) -> None:
    if not REPO_ID.fullmatch(space.repo_id):
        raise UserError(f"{space.repo_id!r} is no name of a Space.", "--repo", "Write it as USER/NAME.")
    known = [each.name for each in offered()] + [ZERO]
    if space.hardware and space.hardware not in known:
        raise UserError(f"Spaces have no hardware {space.hardware!r}.", "--hardware", f"Take one of: {', '.join(known)}.")
    if space.sleep_s is not None and space.hardware in ("", "cpu-basic", ZERO):
        raise UserError("Only rented hardware has a sleep time of one's own.", "--sleep", "Leave it out, or name a flavour that costs.")
    if space.volume and not REPO_ID.fullmatch(space.volume):
        raise UserError(f"{space.volume!r} is no name of a bucket.", "--volume", "Write it as USER/BUCKET.")
    for name, value in (space.variables | space.secrets).items():
        if not VARIABLE.fullmatch(name):
            raise UserError(f"{name!r} is no name of a variable.", "--variable, --secret", "Letters, digits and _ only.")
        if name in space.variables and redact(value) != value:
            raise UserError(f"{name} looks like a secret, and variables are public.", "--variable", f"Give it as --secret {name}.")


def _real(call: Call) -> dict[str, Any]:
    """The arguments as the client wants them: operations and volumes are its own classes."""
    from huggingface_hub import CommitOperationAdd, Volume

    real = dict(call.arguments)
    if "operations" in real:
        real["operations"] = [CommitOperationAdd(path, content) for path, content in real["operations"].items()]
    if "volumes" in real:
        real["volumes"] = [Volume(**volume) for volume in real["volumes"]]
    return real

"""Who may call what: one decorator on every handler, which derives the caller's identity itself (reliability rules R1 to R3).

An endpoint that Gradio hides can still be called over HTTP, and a caller may send any token, so nothing here trusts the page.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import ipaddress
import os
import time
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import gradio as gr

from core.errors import UserError

Role = Literal["public", "signed_in", "owner"]
RANK: dict[Role, int] = {"public": 0, "signed_in": 1, "owner": 2}
IDENTITY_KEPT_S = 300.0
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Caller:
    """Who calls a handler. `token` is theirs, used in this request only and never stored; `scope` is what it was allowed to do, as the
    Hub wrote it when they signed in, and empty where nobody says."""

    name: str
    role: Role
    is_local: bool = False
    token: str | None = field(default=None, repr=False)
    scope: str = field(default="", compare=False)
    address: str = field(default="", repr=False, compare=False)  # on the network; told apart by it who has no name

    @property
    def key(self) -> str:
        """What tells this caller from others, where each may have a share of something."""
        return f"user {self.name}" if self.may("signed_in") else f"address {self.address}"

    def may(self, role: Role) -> bool:
        return RANK[self.role] >= RANK[role]


def allowed(role: Role) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a handler with the least role that may call it. A parameter annotated `Caller` receives the caller."""

    def mark(handler: Callable[..., Any]) -> Callable[..., Any]:
        hints = typing.get_type_hints(handler)
        wanted = [name for name, hint in hints.items() if hint is Caller and name != "return"]

        def admit(request: gr.Request | None, token: gr.OAuthToken | None) -> dict[str, Caller]:
            caller = identify(request, token.token if token else None, (token.scope if token else "") or "")
            page = getattr(request, "session_hash", None) if on_space() else None
            if not caller.may(role):
                raise login_ended() if page in _signed_in and not caller.token else refusal(role)
            if page and caller.token:
                if len(_signed_in) > 10_000:
                    _signed_in.clear()
                _signed_in.add(page)
            return dict.fromkeys(wanted, caller)

        if inspect.isgeneratorfunction(handler):

            @functools.wraps(handler)
            def guarded(request: Any, token: Any, /, *values: Any, **named: Any) -> Any:
                yield from handler(*values, **admit(request, token), **named)
        else:

            @functools.wraps(handler)
            def guarded(request: Any, token: Any, /, *values: Any, **named: Any) -> Any:
                return handler(*values, **admit(request, token), **named)

        _sign(guarded, handler, hints, wanted)
        guarded.allowed_role, guarded.admit = role, admit  # type: ignore[attr-defined]
        return guarded

    return mark


def _sign(guarded: Callable[..., Any], handler: Callable[..., Any], hints: dict[str, Any], wanted: list[str]) -> None:
    """Give `guarded` the signature by which Gradio fills in the request and the login, and then the handler's own inputs."""
    signature = inspect.signature(handler)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    added = [inspect.Parameter("_request", kind), inspect.Parameter("_token", kind)]
    own = [parameter for name, parameter in signature.parameters.items() if name not in wanted]
    guarded.__signature__ = signature.replace(parameters=[*added, *own])  # type: ignore[attr-defined]
    guarded.__annotations__ = {"_request": gr.Request, "_token": gr.OAuthToken | None} | {
        name: hint for name, hint in hints.items() if name not in wanted
    }


def refusal(role: Role) -> UserError:
    """What a caller without `role` is told."""
    if role == "signed_in" or (role == "owner" and has_login()):
        copy = " as its owner, or duplicate this Space to have one of your own." if role == "owner" else "."
        remedy = f"Sign in at the top of the page{copy}"
    else:
        remedy = "Duplicate this Space to get one of your own, or run Transmute on your own machine."
    who = "its owner" if role == "owner" else "people who are signed in"
    return UserError(f"On this Space only {who} may do that.", "who may act here", remedy, code="ACCESS")


def login_ended() -> UserError:
    """What somebody is told who was signed in when this page was opened."""
    return UserError(
        "Your login has ended.", "who may act here", "Sign in again at the top of the page; what was prepared is kept.", code="LOGIN"
    )


def on_space() -> bool:
    return os.environ.get("SYSTEM") == "spaces" or bool(os.environ.get("SPACE_ID"))


def has_login() -> bool:
    """Whether this Space offers a login; without one it is a read-only demo."""
    return os.environ.get("SYSTEM") == "spaces" and bool(os.environ.get("OAUTH_CLIENT_ID"))


def identify(request: gr.Request | None, token: str | None, scope: str = "") -> Caller:
    """The caller of a request: all rights on one's own machine; on a Space what `whoami` says of the token, and nothing without one."""
    if not on_space():
        has_password = bool(os.environ.get("TRANSMUTE_PASSWORD"))
        if request is None or (_is_loopback(request) and not (has_password and _comes_from_afar(request))):
            return Caller("this machine", "owner", is_local=True, token=saved_token())
        if has_password:
            return Caller("the owner", "owner", token=saved_token(), address=address_of(request))
        return Caller("somebody else", "public", address=address_of(request))
    anybody: Role = "owner" if os.environ.get("ALLOW_PUBLIC") == "1" else "public"
    known = _whoami(token) if token else None
    if known is None:
        return Caller("a visitor", anybody, address=address_of(request))
    role: Role = "owner" if anybody == "owner" or is_owner(known) else "signed_in"
    return Caller(str(known.get("name", "")), role, token=token, scope=scope, address=address_of(request))


def address_of(request: gr.Request | None) -> str:
    """Where a request comes from: on a Space the last address of the internet that its proxies have noted, for what stands before it is claimed."""
    noted = str(request.headers.get("x-forwarded-for", "")) if request and on_space() else ""
    for part in reversed(noted.split(",")):
        try:
            if (address := ipaddress.ip_address(part.strip())).is_global:
                return str(address)
        except ValueError:
            continue
    client = getattr(request, "client", None)
    return str(client.host) if client else ""


def is_owner(known: dict[str, Any]) -> bool:
    """Whether the answer of `whoami` is the Space's owner: its creator, its author, or a writer of the organisation that owns it."""
    creator, author = os.environ.get("SPACE_CREATOR_USER_ID"), os.environ.get("SPACE_AUTHOR_NAME")
    if known.get("type", "user") != "user":
        return False
    if creator and creator in (known.get("id"), known.get("sub")):
        return True
    if not author:
        return False
    writers = {org.get("name") for org in known.get("orgs") or () if org.get("roleInOrg") in ("write", "admin")}
    return author == known.get("name") or author in writers


def _is_loopback(request: gr.Request) -> bool:
    """Whether the browser was told to go to this machine; another name here would be a page that had its own name point at us."""
    host = str(request.headers.get("host", "")).lower()
    return host.rsplit(":", 1)[0] in LOOPBACK or host in LOOPBACK


def _comes_from_afar(request: gr.Request) -> bool:
    """Whether a request came over the network or was passed on, as `--share` does, whatever name it asks for."""
    passed_on = any(request.headers.get(name) for name in ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"))
    return passed_on or address_of(request) not in ("127.0.0.1", "::1")


def saved_token() -> str | None:
    """The token of ``hf auth login``, as the command line uses it."""
    from huggingface_hub import get_token

    return get_token()


_signed_in: set[str] = set()  # open pages that have had a login; this changes what is said and never what is allowed
_identities: dict[str, tuple[float, dict[str, Any] | None]] = {}  # by the token's sha256, never by the token


def _whoami(token: str) -> dict[str, Any] | None:
    """What the Hub says about `token`; None when it does not know it or cannot be asked."""
    key = hashlib.sha256(token.encode()).hexdigest()
    asked_s, known = _identities.get(key, (float("-inf"), None))
    if time.monotonic() - asked_s < IDENTITY_KEPT_S:
        return known
    import httpx
    from huggingface_hub import whoami
    from huggingface_hub.errors import HfHubHTTPError

    try:
        known = whoami(token=token)
    except HfHubHTTPError:
        known = None
    except (httpx.HTTPError, OSError):
        return None  # ask again next time
    if len(_identities) > 1000:
        _identities.clear()
    _identities[key] = (time.monotonic(), known)
    return known

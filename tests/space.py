"""A Space on this machine: the variables that the platform sets, the people who visit it, and the session cookies that a login leaves."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import Any

import yaml
from itsdangerous import TimestampSigner

from core.paths import PROJECT

CREATOR_ID = "6123456789abcdef01234567"
# What a login is asked to allow, as the platform writes it.
_FRONT_MATTER = yaml.safe_load((PROJECT / "README.md").read_text(encoding="utf-8").split("---\n")[1])
SCOPES = " ".join(["openid", "profile", *_FRONT_MATTER["hf_oauth_scopes"]])
SECRET = "the-secret-of-this-space-and-no-other"
# By caller: the token of the login. Nobody's shape but a token's, so that what leaks one is found.
TOKENS = {name: f"hf_oauth_{name.replace(' ', '')}{'x' * 24}" for name in ("other user", "org reader", "org writer", "owner")}


def environment(hub_url: str) -> dict[str, str]:
    """What a Space of the organisation ``alchemists`` finds around it, with `hub_url` as its Hub."""
    return {
        "SYSTEM": "spaces",
        "SPACE_ID": "alchemists/transmute",
        "SPACE_HOST": "127.0.0.1",
        "SPACE_AUTHOR_NAME": "alchemists",
        "SPACE_CREATOR_USER_ID": CREATOR_ID,
        "OAUTH_CLIENT_ID": "transmute-of-the-alchemists",
        "OAUTH_CLIENT_SECRET": SECRET,
        "OAUTH_SCOPES": SCOPES,
        "OPENID_PROVIDER_URL": hub_url,
        "HF_ENDPOINT": hub_url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }


def people() -> dict[str, dict[str, Any]]:
    """What the Hub's `whoami` says of each token."""

    def person(name: str, identifier: str, role: str = "") -> dict[str, Any]:
        return {"type": "user", "id": identifier, "name": name, "orgs": [{"name": "alchemists", "roleInOrg": role}] if role else []}

    return {
        TOKENS["other user"]: person("mallory", "0" * 24),
        TOKENS["org reader"]: person("rita", "1" * 24, "read"),
        TOKENS["org writer"]: person("walter", "2" * 24, "write"),
        TOKENS["owner"]: person("kim", CREATOR_ID),
    }


def cookie(token: str, secret: str = SECRET, scope: str = SCOPES) -> str:
    """The session cookie of somebody who has logged in, signed as Gradio's session middleware signs it."""
    login = {"access_token": token, "scope": scope, "expires_at": time.time() + 3600, "userinfo": {"sub": "x", "name": "x"}}
    session = base64.b64encode(json.dumps({"oauth_info": login}).encode())
    signer = TimestampSigner(hashlib.sha256(f"{secret}-v4".encode()).hexdigest())
    return signer.sign(session).decode()

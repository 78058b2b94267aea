"""The Hub as an OpenID provider: the page that asks a person, the code, and the signed token, as the client of Gradio's login checks them."""

from __future__ import annotations

import base64
import functools
import html
import secrets
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey

if TYPE_CHECKING:
    from tests.hub.server import Hub

Answer = tuple[int, dict[str, str], bytes]
LOGIN_ROUTES = (
    (r"/\.well-known/openid-configuration", "openid_configuration"),
    (r"/oauth/authorize", "authorize"),
    (r"/oauth/allow", "allow"),
    (r"/oauth/token", "token"),
    (r"/oauth/jwks", "jwks"),
    (r"/oauth/userinfo", "userinfo"),
)
LASTS_S = 8 * 3600


@functools.cache
def signing_key() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "of-the-tests", "use": "sig", "alg": "RS256"})


class Login:
    """Mixed into the server's answers. Whoever stands in the Hub's `people` may log in; a code is good for one exchange."""

    hub: Hub
    headers: Any
    body: bytes
    path: str

    def openid_configuration(self) -> Answer:
        at = self.hub.url
        return self._json(
            {
                "issuer": at,
                "authorization_endpoint": f"{at}/oauth/authorize",
                "token_endpoint": f"{at}/oauth/token",
                "userinfo_endpoint": f"{at}/oauth/userinfo",
                "jwks_uri": f"{at}/oauth/jwks",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    def authorize(self) -> Answer:
        """The page on which a person says who they are, and allows it."""
        from tests.hub.server import RefusedError

        asked = self._query()
        if asked.get("client_id") not in self.hub.clients or asked.get("response_type") != "code":
            raise RefusedError(400, message="Unknown client")
        links = [
            f'<p><a href="/oauth/allow?{html.escape(urlencode(asked | {"name": person["name"]}))}">Authorize as {person["name"]}</a></p>'
            for person in self.hub.people.values()
        ]
        scopes = html.escape(asked.get("scope", ""))
        return 200, {"Content-Type": "text/html"}, f"<h1>Transmute asks for {scopes}</h1>{''.join(links)}".encode()

    def allow(self) -> Answer:
        asked = self._query()
        code = secrets.token_urlsafe(16)
        self.hub.codes[code] = asked
        back = asked["redirect_uri"] + ("&" if urlsplit(asked["redirect_uri"]).query else "?")
        return 302, {"Location": back + urlencode({"code": code, "state": asked["state"]})}, b""

    def token(self) -> Answer:
        """A code for a token, to the client that it was given to."""
        from tests.hub.server import RefusedError

        form = {name: values[0] for name, values in parse_qs(self.body.decode()).items()}
        client, _, secret = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode().partition(":")
        asked = self.hub.codes.pop(form.get("code", ""), {})
        is_right = client == asked.get("client_id") and self.hub.clients.get(client) == secret
        if form.get("grant_type") != "authorization_code" or not is_right or form.get("redirect_uri") != asked["redirect_uri"]:
            raise RefusedError(400, message="invalid_grant")
        token, person = next((token, person) for token, person in self.hub.people.items() if person["name"] == asked["name"])
        now = int(time.time())
        claims = {"iss": self.hub.url, "aud": client, "iat": now, "exp": now + LASTS_S, "nonce": asked.get("nonce")} | profile(person)
        signed = jwt.encode({"alg": "RS256", "kid": signing_key().kid}, claims, signing_key())
        given = {"access_token": token, "token_type": "bearer", "expires_in": LASTS_S, "scope": asked.get("scope", "")}
        return self._json(given | {"id_token": signed})

    def jwks(self) -> Answer:
        return self._json({"keys": [signing_key().as_dict(private=False)]})

    def userinfo(self) -> Answer:
        from tests.hub.server import RefusedError

        if (known := self.hub.people.get(self.headers.get("Authorization", "").removeprefix("Bearer "))) is None:
            raise RefusedError(401)
        return self._json(profile(known))

    def _query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def _json(self, value: Any) -> Answer:
        raise NotImplementedError


def profile(person: dict[str, Any]) -> dict[str, Any]:
    """What OpenID says of somebody."""
    name = person["name"]
    return {"sub": person["id"], "name": name, "preferred_username": name, "profile": f"/{name}", "picture": ""}

"""A small OpenID provider on loopback: discovery, authorize, token and keys, and every way to be wrong."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import new as hmac
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

CLIENT_ID, CLIENT_SECRET = "fallow", "not a secret: a test"


def _same(claims: dict[str, Any]) -> dict[str, Any]:
    return claims


@dataclass
class Provider:
    """What the provider says and does; tests change it.

    Attributes:
        claims: of whoever logs in, beside those that the protocol asks for.
        change: what becomes of the claims before they are signed.
        sign: claims to the text of the token; with the provider's own key unless told.
        codes: what stands behind each code: nonce, challenge, redirect_uri.
    """

    issuer: str = ""
    claims: dict[str, Any] = field(default_factory=lambda: {"preferred_username": "cleo", "groups": ["staff"]})
    change: Callable[[dict[str, Any]], dict[str, Any]] = _same
    sign: Callable[[dict[str, Any]], str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "one"}))
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    token_status: int = 200

    def authorize(self, url: str) -> str:
        """Where the provider sends a browser back that came by this address, as somebody who has logged in there."""
        parts = urlsplit(url)
        asked = dict(parse_qsl(parts.query))
        assert url.startswith(f"{self.issuer}/authorize?")
        assert (asked["response_type"], asked["client_id"], asked["code_challenge_method"]) == (
            "code",
            CLIENT_ID,
            "S256",
        )
        assert {"openid"} <= set(asked["scope"].split())
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state'], 'iss': self.issuer})}"

    def token(self, form: dict[str, str], authorization: str) -> dict[str, Any]:
        """The answer of the token endpoint. Raises: KeyError, AssertionError: a code that is not known, or not so."""
        flow = self.codes.pop(form["code"])
        assert _base64(sha256(form["code_verifier"].encode()).digest()) == flow["code_challenge"]
        assert form["redirect_uri"] == flow["redirect_uri"]
        sent = base64.b64decode(authorization.removeprefix("Basic ")).decode()
        assert sent == f"{CLIENT_ID}:{CLIENT_SECRET}"
        now_s = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "subject-1",
            "aud": CLIENT_ID,
            "iat": now_s,
            "exp": now_s + 300,
            "nonce": flow["nonce"],
            **self.claims,
        }
        text = (self.sign or self.signed)(self.change(claims))
        return {"access_token": "a", "token_type": "Bearer", "id_token": text}

    def signed(self, claims: dict[str, Any]) -> str:
        """With the provider's own key."""
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)


def unsigned(claims: dict[str, Any]) -> str:
    """`alg: none`."""
    return f"{_parts({'alg': 'none'}, claims)}."


def signed_by_secret(provider: Provider) -> Callable[[dict[str, Any]], str]:
    """HS256 with the public key as the secret: the old confusion of keys. By hand, as no library does it any more."""
    secret = provider.key.as_pem(private=False)

    def sign(claims: dict[str, Any]) -> str:
        parts = _parts({"alg": "HS256", "kid": "one"}, claims)
        return f"{parts}.{_base64(hmac(secret, parts.encode(), sha256).digest())}"

    return sign


def _parts(*parts: dict[str, Any]) -> str:
    return ".".join(_base64(json.dumps(part).encode()) for part in parts)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def provider() -> Iterator[Provider]:
    """It runs on a free port until the test is over."""
    made = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/.well-known/openid-configuration":
                self._answer(
                    200,
                    {
                        "issuer": made.issuer,
                        "authorization_endpoint": f"{made.issuer}/authorize",
                        "token_endpoint": f"{made.issuer}/token",
                        "jwks_uri": f"{made.issuer}/keys",
                        "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
                        **made.metadata,
                    },
                )
            elif self.path == "/keys":
                self._answer(200, KeySet([made.key]).as_dict(private=False))
            else:
                self._answer(404, {})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            try:
                answer = made.token(form, self.headers.get("Authorization", ""))
            except (KeyError, AssertionError):
                self._answer(400, {"error": "invalid_grant"})
            else:
                self._answer(made.token_status, answer)

        def _answer(self, status: int, value: object) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.issuer = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

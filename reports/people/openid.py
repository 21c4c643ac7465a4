"""Logging in by an OpenID provider: the code flow with PKCE, state and nonce. authlib and joserfc do the checking."""

from __future__ import annotations

import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from authlib.integrations.base_client import OAuthError  # type: ignore[import-untyped]
from authlib.integrations.requests_client import OAuth2Session  # type: ignore[import-untyped]
from authlib.oidc.core import CodeIDToken  # type: ignore[import-untyped]
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry
from requests import RequestException

from agent.settings import read_secret
from aggregator.problems import Problem, Refused
from reports.people.accounts import normal_name
from reports.people.gate import Outsider
from reports.people.roles import Role
from reports.people.settings import OpenIdConfig, parse_issuer

# Never `none`, and never a shared secret: who can check one can also make one.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519")
CONNECT_S, READ_S = 5.0, 10.0
FLOW_LIFE_S = 600.0
MAX_FLOWS = 10_000
# Of the threads that make pages, those that may wait for the provider: a silent one must not stop the rest.
ASKED_AT_ONCE = 2
MAX_ANSWER_BYTES = 1 << 20
_LEEWAY_S = 60
_PART_BYTES = 16_384
_METADATA_LIFE_S = 3600.0
_MAX_SUBJECT_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flow:
    """A person on the way to the provider. `browser`: what only that person's browser sends."""

    browser: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)
    redirect_uri: str
    next_path: str
    begun_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """Who came back from the provider, and where to go on."""

    outsider: Outsider
    next_path: str


class OpenId:
    """One provider. Any thread may use it; it blocks, for CONNECT_S and READ_S at most at each request.

    Args:
        config: of `[report.login.oidc]`.
        clock: Unix time in seconds.
    """

    def __init__(self, config: OpenIdConfig, *, clock: Callable[[], float]) -> None:
        self._config = config
        self._clock = clock
        self._flows: OrderedDict[str, _Flow] = OrderedDict()
        self._metadata: tuple[Mapping[str, Any], float] | None = None
        self._keys: KeySet | None = None
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(ASKED_AT_ONCE)

    def begin(self, redirect_uri: str, browser: str, next_path: str) -> str:
        """The address at the provider to send a person to. Raises: Refused, 502: it does not answer."""
        metadata = self._read_metadata()
        flow = _Flow(
            browser=browser,
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(48),
            redirect_uri=redirect_uri,
            next_path=next_path,
            begun_s=self._clock(),
        )
        state = secrets.token_urlsafe(32)
        with self._lock:
            self._flows[state] = flow
            while len(self._flows) > MAX_FLOWS:
                self._flows.popitem(last=False)
        with self._session(redirect_uri) as session:
            url, _ = session.create_authorization_url(
                metadata["authorization_endpoint"], state=state, nonce=flow.nonce, code_verifier=flow.verifier
            )
        return str(url)

    def finish(self, answer: Mapping[str, str], browser: str | None) -> Arrived:
        """Who it is, of the parameters with which the provider sent somebody back.

        Raises: Refused: 401 anything about it is wrong, 403 no role is meant for this person, 502 no answer.
        """
        now_s = self._clock()
        with self._lock:
            flow = self._flows.pop(answer.get("state", ""), None)
        if flow is None or browser is None or not secrets.compare_digest(flow.browser, browser):
            raise _refused("this log-in was not begun in this browser: begin again")
        if not 0 <= now_s - flow.begun_s <= FLOW_LIFE_S:
            raise _refused("this log-in was begun too long ago: begin again")
        if answer.get("iss", self._config.issuer) != self._config.issuer:
            raise _refused("another provider answered")
        if "code" not in answer:
            # Its words come from outside, and stand in nobody's page.
            raise _refused("the provider did not let you in")
        claims = self._checked_claims(self._exchange(flow, answer["code"]), flow, now_s)
        return Arrived(outsider=self._outsider(claims), next_path=flow.next_path)

    def _exchange(self, flow: _Flow, code: str) -> Mapping[str, Any]:
        metadata = self._read_metadata()
        try:
            with self._asking(), self._session(flow.redirect_uri) as session:
                token = session.fetch_token(
                    metadata["token_endpoint"],
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=flow.verifier,
                    allow_redirects=False,
                )
        except (OAuthError, ValueError) as error:
            raise _refused("the provider does not know this log-in any more: begin again") from error
        except RequestException as error:
            raise _away() from error
        if not isinstance(token, Mapping) or not isinstance(token.get("id_token"), str):
            raise _refused("the provider did not say who you are")
        return token

    def _checked_claims(self, token: Mapping[str, Any], flow: _Flow, now_s: float) -> Mapping[str, Any]:
        """Raises: Refused, 401: not signed by the provider, not for us, not for this log-in, or over."""
        registry = JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
        try:
            try:
                decoded = jwt.decode(token["id_token"], self._read_keys(), registry=registry)
            except InvalidKeyIdError:
                # The provider has changed its keys since.
                decoded = jwt.decode(token["id_token"], self._read_keys(anew=True), registry=registry)
            claims = CodeIDToken(
                decoded.claims,
                decoded.header,
                {
                    "iss": {"essential": True, "value": self._config.issuer},
                    "aud": {"essential": True, "value": self._config.client_id},
                    "sub": {"essential": True},
                    "nonce": {"essential": True, "value": flow.nonce},
                },
                {
                    "nonce": flow.nonce,
                    "client_id": self._config.client_id,
                    "access_token": token.get("access_token"),
                },
            )
            claims.validate(now=int(now_s), leeway=_LEEWAY_S)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise _refused("what the provider said of you does not hold") from error
        return dict(claims)

    def _outsider(self, claims: Mapping[str, Any]) -> Outsider:
        config = self._config
        subject = f"{config.issuer} {claims['sub']}"
        typed = claims.get(config.name_claim)
        name = normal_name(typed) if isinstance(typed, str) else None
        if config.name_claim == "email" and claims.get("email_verified") is not True:
            name = None
        if name is None or len(subject) > _MAX_SUBJECT_CHARS or not subject.isprintable():
            raise Refused(Problem(403, "login", f"the provider's {config.name_claim} is no name for an account"))
        groups = claims.get(config.role_claim, [])
        held = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
        roles = [config.roles[each] for each in held if isinstance(each, str) and each in config.roles]
        if not roles:
            raise Refused(Problem(403, "login", f"{name}: no role here is meant for you; ask an admin"))
        return Outsider(subject=subject, name=name, role=max(roles, key=list(Role).index))

    def _session(self, redirect_uri: str | None = None) -> Any:
        config = self._config
        secret = None if config.client_secret_file is None else read_secret(config.client_secret_file)
        session = OAuth2Session(
            config.client_id,
            secret,
            redirect_uri=redirect_uri,
            scope=config.scopes,
            code_challenge_method="S256",
            default_timeout=(CONNECT_S, READ_S),
        )
        # A proxy of the environment would be asked for our own loopback.
        session.trust_env = urlsplit(config.issuer).scheme == "https"
        return session

    def _read_metadata(self) -> Mapping[str, Any]:
        """What the provider says of itself, at most an hour old. Raises: Refused, 502."""
        known, now_s = self._metadata, self._clock()
        if known is not None and 0 <= now_s - known[1] < _METADATA_LIFE_S:
            return known[0]
        found = self._get(f"{self._config.issuer.rstrip('/')}/.well-known/openid-configuration")
        try:
            if found["issuer"] != self._config.issuer:
                raise ValueError("it is another issuer")
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                parse_issuer(str(found[name]).partition("?")[0])
        except (KeyError, ValueError) as error:
            raise _away("says of itself what cannot be") from error
        self._metadata = (found, now_s)
        return found

    def _read_keys(self, *, anew: bool = False) -> KeySet:
        if self._keys is None or anew:
            self._keys = KeySet.import_key_set(self._get(str(self._read_metadata()["jwks_uri"])))  # type: ignore[arg-type]
        return self._keys

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Raises: Refused, 503: others wait for the provider already."""
        if not self._room.acquire(blocking=False):
            raise _late()
        try:
            yield
        finally:
            self._room.release()

    @staticmethod
    def _read(answer: Any) -> bytes:
        """The body. Raises: ValueError: it is too long."""
        found = b""
        for part in answer.iter_content(_PART_BYTES):
            found += part
            if len(found) > MAX_ANSWER_BYTES:
                raise ValueError("the answer is too long")
        return found

    def _get(self, url: str) -> dict[str, Any]:
        try:
            with self._asking(), self._session() as session:
                answer = session.get(url, withhold_token=True, allow_redirects=False, stream=True)
                answer.raise_for_status()
                found = json.loads(self._read(answer))
        except (RequestException, ValueError) as error:
            raise _away() from error
        if not isinstance(found, dict):
            raise _away("says of itself what cannot be")
        return found


def _late() -> Refused:
    detail = "too many people log in by the OpenID provider just now, or it is slow: try again"
    return Refused(Problem(503, "busy", detail, retry_after_s=2))


def _refused(detail: str) -> Refused:
    return Refused(Problem(401, "login", detail))


def _away(what: str = "does not answer") -> Refused:
    return Refused(Problem(502, "provider", f"the OpenID provider {what}; log in by password, or try again later"))

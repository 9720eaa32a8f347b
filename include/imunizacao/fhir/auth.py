"""Who we are to the mirror. A new way to authenticate is one way to ask for a token, or one class with two methods."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote_plus, urlencode, urlsplit

import jwt
import msgspec

from imunizacao.errors import ConfigurationError
from imunizacao.events import log_event
from imunizacao.fhir.addresses import split_address
from imunizacao.fhir.keys import SigningKey, read_signing_key
from imunizacao.settings import MirrorSettings

if TYPE_CHECKING:
    from imunizacao.fhir.transport import Answer

REFRESH_AT: Final = 0.8
"""Share of its life after which a token is renewed."""
LONGEST_LIFE_SECONDS: Final = 86_400.0
"""No token lives longer than a day: a larger `expires_in` is in milliseconds, as the RNDS sends it (1800000)."""
ASSERTION_SECONDS: Final = 240
"""Life of a signed assertion. SMART allows five minutes, and a server refuses one that claims more by its own clock."""
SKEW_SECONDS: Final = 5.0
"""Difference between our clock and a server's `Date` that matters."""
DEFAULT_SMART_SCOPE: Final = "system/*.rs"
_UNKNOWN_LIFE_SECONDS: Final = 300.0
_RNDS_HEADER: Final = "X-Authorization-Server"
_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_JUDGED_HERE: Final = frozenset({200, 400, 401})
"""Answers to a POST for a token that RFC 6749 gives a meaning; the transport judges all others."""
_OAUTH_ERRORS: Final = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    }
)
_SENDABLE: Final = re.compile(r"[\x21-\x7e]+")
_HELP: Final = "See docs/runbook/mirror-access.md."


class Authenticator(Protocol):
    """Gives the headers of a request."""

    async def headers(self) -> Mapping[str, str]:
        """Headers that identify us; may ask a token service first."""
        ...

    def invalidate(self, used: Mapping[str, str]) -> bool:
        """The mirror refused `used` (401). Tell whether other headers can be had: then the request is tried once more."""
        ...


class AskService(Protocol):
    """Asks a service other than the FHIR search, with the transport's retries, and without headers that identify us."""

    async def __call__(
        self,
        url: str,
        *,
        where: str,
        method: str = "GET",
        expected: frozenset[int],
        headers: Mapping[str, str] | None = None,
        content: Callable[[], bytes] | None = None,
    ) -> Answer:
        """The answer, of an expected status."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An access token. `repr` hides it."""

    value: str = field(repr=False)
    life_seconds: float


class StaticHeaders:
    """The same headers for every request: no authentication, or HTTP basic."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = dict(headers)

    async def headers(self) -> Mapping[str, str]:
        """The headers."""
        return self._headers

    def invalidate(self, used: Mapping[str, str]) -> bool:
        """Nothing better can be had."""
        return False


class TokenHeaders:
    """A short-lived token in one header, and what else goes with it.

    One token serves all connections. It is renewed at 80 % of its life, or when the mirror refuses it; requests that were
    refused with an older token do not throw a newer one away. A renewal that cannot succeed is not tried again.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[Token]],
        *,
        header: str = "Authorization",
        others: Mapping[str, str] | None = None,
        monotonic: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._header = header
        self._others = dict(others or {})
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._token: Token | None = None
        self._renew_at = 0.0
        self._refusal = ""

    async def headers(self) -> Mapping[str, str]:
        """Headers with a token that is still good."""
        async with self._lock:
            token = self._token
            if token is None or self._monotonic() >= self._renew_at:
                token = await self._renew()
        return {self._header: f"Bearer {token.value}", **self._others}

    def invalidate(self, used: Mapping[str, str]) -> bool:
        """Forget the token if it is the one that was refused."""
        if self._token is not None and used.get(self._header) == f"Bearer {self._token.value}":
            self._token = None
        return True

    async def _renew(self) -> Token:
        if self._refusal:
            raise ConfigurationError(self._refusal)
        try:
            self._token = token = await self._ask()
        except ConfigurationError as error:
            self._refusal = str(error)
            raise
        self._renew_at = self._monotonic() + REFRESH_AT * token.life_seconds
        return token


def make_authenticator(
    settings: MirrorSettings, *, ask: AskService, monotonic: Callable[[], float], now: Callable[[], datetime]
) -> Authenticator:
    """The authenticator that the settings name; reads the signing key of `smart`."""
    if settings.auth == "basic":
        return StaticHeaders({"Authorization": f"Basic {_pair(settings.login, settings.password)}"})
    if settings.auth == "oauth2":
        return TokenHeaders(SecretGrant(settings, ask=ask), monotonic=monotonic)
    if settings.auth == "smart":
        grant = AssertionGrant(settings, read_signing_key(settings), ask=ask, now=now)
        return TokenHeaders(grant, monotonic=monotonic)
    if settings.auth == "rnds":
        requester = {"Authorization": settings.requester_cns}
        return TokenHeaders(
            CertificateGrant(settings, ask=ask), header=_RNDS_HEADER, others=requester, monotonic=monotonic
        )
    return StaticHeaders({})


class CertificateGrant:
    """RNDS: the client certificate of the connection is all that the token service asks for. GET, or POST where GET answers 405."""

    def __init__(self, settings: MirrorSettings, *, ask: AskService) -> None:
        self._url = settings.token_url
        self._ask = ask
        self._method = "GET"

    async def __call__(self) -> Token:
        """Ask for a token."""
        may_be_refused = frozenset({200, 405}) if self._method == "GET" else frozenset({200})
        answer = await self._ask(self._url, where="access token", method=self._method, expected=may_be_refused)
        if answer.status == 405:
            self._method = "POST"
            answer = await self._ask(self._url, where="access token", method="POST", expected=frozenset({200}))
        return read_token(answer.body, server_now=answer.date)


class SecretGrant:
    """OAuth2 client credentials with a secret, in `Authorization: Basic` or in the form."""

    def __init__(self, settings: MirrorSettings, *, ask: AskService) -> None:
        self._url = settings.token_url
        self._ask = ask
        form = {"grant_type": "client_credentials"}
        if settings.scope:
            form["scope"] = settings.scope
        self._headers: dict[str, str] = {}
        if settings.token_endpoint_auth == "form":  # noqa: S105 (a place, no secret)
            form |= {"client_id": settings.client_id, "client_secret": settings.client_secret}
        else:
            # RFC 6749 §2.3.1: both halves are form-encoded before they are joined.
            pair = _pair(quote_plus(settings.client_id), quote_plus(settings.client_secret))
            self._headers["Authorization"] = f"Basic {pair}"
        self._form = urlencode(form).encode()

    async def __call__(self) -> Token:
        """Ask for a token."""
        answer = await _post(self._ask, self._url, lambda: self._form, self._headers)
        return _granted(
            answer,
            self._url,
            "Check client_id, client_secret, scope, and where the service wants them (token_endpoint_auth)",
        )


class AssertionGrant:
    """SMART Backend Services: an assertion that our key signed takes the place of a secret.

    It is signed afresh for every try, since a service refuses one that it has seen. A refusal while the service's clock and the
    one we signed by differ is answered once, on the service's clock, which is then kept.
    """

    def __init__(
        self, settings: MirrorSettings, key: SigningKey, *, ask: AskService, now: Callable[[], datetime]
    ) -> None:
        self._settings = settings
        self._key = key
        self._ask = ask
        self._now = now
        self._url = settings.token_url
        self._offset = 0.0
        """What to add to our clock to get the service's."""

    async def __call__(self) -> Token:
        """Ask for a token."""
        self._url = self._url or await self._discover()
        answer = await _post(self._ask, self._url, self._form)
        if answer.status != 200:
            offset = (answer.date - self._now()).total_seconds()
            if abs(offset - self._offset) > SKEW_SECONDS:
                log_event("mirror.sign_again", seconds=round(offset))
                self._offset = offset
                answer = await _post(self._ask, self._url, self._form)
        hint = "Check client_id, scope, and that the service knows the public half of the signing key under its `kid`"
        return _granted(answer, self._url, hint)

    def _form(self) -> bytes:
        claims = {
            "iss": self._settings.client_id,
            "sub": self._settings.client_id,
            "aud": self._url,
            "exp": int(self._now().timestamp() + self._offset) + ASSERTION_SECONDS,
            "jti": str(uuid.uuid4()),
        }
        signed = jwt.encode(claims, self._key.key, algorithm=self._key.algorithm, headers={"kid": self._key.key_id})
        form = {
            "grant_type": "client_credentials",
            "scope": self._settings.scope or DEFAULT_SMART_SCOPE,
            "client_assertion_type": _ASSERTION_TYPE,
            "client_assertion": signed,
        }
        return urlencode(form).encode()

    async def _discover(self) -> str:
        """The token address, from the mirror's own SMART configuration."""
        url = f"{self._settings.base_url.rstrip('/')}/.well-known/smart-configuration"
        known = frozenset({200, 400, 401, 403, 404, 405, 406, 410})
        answer = await self._ask(url, where="SMART configuration", expected=known)
        try:
            found = msgspec.json.decode(answer.body, type=_SmartConfiguration) if answer.status == 200 else None
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            found = None
        if found is None:
            raise ConfigurationError(
                f"The mirror names no token address at {url} (status {answer.status}). Set token_url "
                f"(IMUNIZACAO_MIRROR_TOKEN_URL). {_HELP}"
            )
        algorithms = found.token_endpoint_auth_signing_alg_values_supported
        if algorithms and self._key.algorithm not in algorithms:
            wanted = (
                " or ".join(name for name in algorithms if name in {"RS384", "ES384"})
                or "an algorithm that we do not sign with"
            )
            raise ConfigurationError(
                f"The signing key makes {self._key.algorithm}, and the mirror's SMART configuration wants {wanted}. {_HELP}"
            )
        parts, base = split_address(found.token_endpoint, what="a token address"), urlsplit(self._settings.base_url)
        if parts.scheme not in {"https", base.scheme} or not parts.hostname:
            raise ConfigurationError(
                f"The mirror's SMART configuration at {url} gives a token address that is not {base.scheme}. Set token_url "
                f"(IMUNIZACAO_MIRROR_TOKEN_URL). {_HELP}"
            )
        return found.token_endpoint


async def _post(
    ask: AskService, url: str, form: Callable[[], bytes], headers: Mapping[str, str] | None = None
) -> Answer:
    sent = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
    return await ask(url, where="access token", method="POST", expected=_JUDGED_HERE, headers=sent, content=form)


def _granted(answer: Answer, url: str, hint: str) -> Token:
    """The token of an answer to a form; a refusal is told by its code alone, since its text may quote what we sent."""
    if answer.status == 200:
        return read_token(answer.body, server_now=answer.date)
    try:
        error = msgspec.json.decode(answer.body, type=_OauthError).error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        error = ""
    parts = urlsplit(url)
    told = f"{answer.status} {error if error in _OAUTH_ERRORS else ''}".rstrip()
    raise ConfigurationError(
        f"The token service at {parts.scheme}://{parts.netloc.rpartition('@')[2]} refuses us: {told}. {hint}. {_HELP}"
    )


class _SmartConfiguration(msgspec.Struct):
    token_endpoint: str
    token_endpoint_auth_signing_alg_values_supported: list[str] | None = None


class _OauthError(msgspec.Struct):
    error: str = ""


class _TokenAnswer(msgspec.Struct):
    access_token: str
    expires_in: float | str | None = None


class _Claims(msgspec.Struct):
    exp: float | None = None
    iat: float | None = None


def read_token(body: bytes, *, server_now: datetime) -> Token:
    """Read the answer of a token service.

    The life comes from the JWT itself where it can be read: what is left until `exp` on the server's clock (ours may be wrong),
    never more than `exp` less `iat`. Else it comes from `expires_in`, in seconds or, as the RNDS does, in milliseconds. Raises
    `ConfigurationError`.
    """
    try:
        answer = msgspec.json.decode(body, type=_TokenAnswer)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        # `from None`: the decoder's message says where in a body that holds a secret.
        raise ConfigurationError(
            f"The token service answered without `access_token`. Check the token address. {_HELP}"
        ) from None
    if not _SENDABLE.fullmatch(answer.access_token):
        raise ConfigurationError(f"The token service answered with a token that cannot be sent. {_HELP}")
    life = _claimed_life(answer.access_token, server_now)
    if life is None:
        life = _told_life(answer.expires_in)
    return Token(value=answer.access_token, life_seconds=min(life, LONGEST_LIFE_SECONDS))


def _told_life(expires_in: float | str | None) -> float:
    try:
        life = float(expires_in or 0)
    except ValueError:
        return _UNKNOWN_LIFE_SECONDS
    if life > LONGEST_LIFE_SECONDS:
        life /= 1000
    return life if life > 0 else _UNKNOWN_LIFE_SECONDS  # not a number compares false as well


def _claimed_life(token: str, server_now: datetime) -> float | None:
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        text = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        claims = msgspec.json.decode(text, type=_Claims)
    except (binascii.Error, ValueError, RecursionError):
        return None
    if claims.exp is None:
        return None
    # Two ways to see it: a service may hand out a token that it made some minutes ago, and its `Date` may be missing or wrong.
    starts = (server_now.timestamp(), claims.iat)
    lives = [claims.exp - start for start in starts if start is not None and claims.exp > start]
    return min(lives, default=None)


def _pair(name: str, secret: str) -> str:
    return base64.b64encode(f"{name}:{secret}".encode()).decode()

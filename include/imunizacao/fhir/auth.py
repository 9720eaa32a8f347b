"""Who we are to the mirror. A new way to authenticate is one class with two methods."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import msgspec

from imunizacao.errors import ConfigurationError
from imunizacao.settings import MirrorSettings

REFRESH_AT: Final = 0.8
"""Share of its life after which a token is renewed."""
LONGEST_LIFE_SECONDS: Final = 86_400.0
"""No token lives longer than a day: a larger `expires_in` is in milliseconds, as the RNDS sends it (1800000)."""
_UNKNOWN_LIFE_SECONDS: Final = 300.0
_ACCESS_HEADER: Final = "X-Authorization-Server"


class Authenticator(Protocol):
    """Gives the headers of a request."""

    async def headers(self) -> Mapping[str, str]:
        """Headers that identify us; may ask a token service first."""
        ...

    def invalidate(self, used: Mapping[str, str]) -> bool:
        """The mirror refused `used` (401). Tell whether other headers can be had: then the request is tried once more."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An access token. `repr` hides it."""

    value: str
    life_seconds: float

    def __repr__(self) -> str:
        return f"Token(life_seconds={self.life_seconds})"


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


class RndsToken:
    """The two headers of the RNDS: a short-lived token and the CNS of the professional who asks.

    One token serves all connections. It is renewed at 80 % of its life, or when the mirror refuses it; requests that were
    refused with an older token do not throw a newer one away.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[Token]],
        *,
        requester_cns: str,
        monotonic: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._requester = requester_cns
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._token: Token | None = None
        self._renew_at = 0.0

    async def headers(self) -> Mapping[str, str]:
        """Headers with a token that is still good."""
        async with self._lock:
            token = self._token
            if token is None or self._monotonic() >= self._renew_at:
                token = await self._ask()
                self._token = token
                self._renew_at = self._monotonic() + REFRESH_AT * token.life_seconds
        return {_ACCESS_HEADER: f"Bearer {token.value}", "Authorization": self._requester}

    def invalidate(self, used: Mapping[str, str]) -> bool:
        """Forget the token if it is the one that was refused."""
        if self._token is not None and used.get(_ACCESS_HEADER) == f"Bearer {self._token.value}":
            self._token = None
        return True


def make_authenticator(
    settings: MirrorSettings, *, ask_token: Callable[[], Awaitable[Token]], monotonic: Callable[[], float]
) -> Authenticator:
    """The authenticator that the settings name."""
    if settings.auth == "basic":
        pair = base64.b64encode(f"{settings.login}:{settings.password}".encode()).decode()
        return StaticHeaders({"Authorization": f"Basic {pair}"})
    if settings.auth == "rnds":
        return RndsToken(ask_token, requester_cns=settings.requester_cns, monotonic=monotonic)
    return StaticHeaders({})


class _TokenAnswer(msgspec.Struct):
    access_token: str
    expires_in: float | None = None


class _Claims(msgspec.Struct):
    exp: float | None = None
    iat: float | None = None


def read_token(body: bytes, *, server_now: datetime) -> Token:
    """Read the answer of a token service.

    The life comes from the JWT itself where it can be read (`exp` less `iat`, else less the server's clock: ours may be
    wrong), else from `expires_in`, in seconds or, as the RNDS does, in milliseconds. Raises `ConfigurationError`.
    """
    try:
        answer = msgspec.json.decode(body, type=_TokenAnswer)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        # `from None`: the decoder's message says where in a body that holds a secret.
        raise ConfigurationError(
            "The token service answered without `access_token`. Check the token address; see docs/runbook/mirror-access.md."
        ) from None
    if not answer.access_token or not answer.access_token.isascii() or not answer.access_token.isprintable():
        raise ConfigurationError(
            "The token service answered with a token that cannot be sent. See docs/runbook/mirror-access.md."
        )
    life = _claimed_life(answer.access_token, server_now)
    if life is None and answer.expires_in is not None:
        life = answer.expires_in / 1000 if answer.expires_in > LONGEST_LIFE_SECONDS else answer.expires_in
    if life is None or life <= 0:
        life = _UNKNOWN_LIFE_SECONDS
    return Token(value=answer.access_token, life_seconds=min(life, LONGEST_LIFE_SECONDS))


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
    life = claims.exp - (server_now.timestamp() if claims.iat is None else claims.iat)
    return life if life > 0 else None

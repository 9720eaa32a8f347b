"""Who may read: nobody asked, HTTP basic, or the two headers of the RNDS.

RNDS: `GET` or `POST /api/token` answers a token whose `expires_in` is in milliseconds; every FHIR call then carries
`X-Authorization-Server: Bearer <token>` and `Authorization: <CNS of the requester>`, bare. Source: RIA implementation guide,
integration page. The certificate of the token call is not simulated.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Mode = Literal["none", "basic", "rnds"]
MODES: Final[tuple[Mode, ...]] = ("none", "basic", "rnds")
EXPIRED: Final = "(EHR-ERR882) Token de acesso ausente, inválido ou expirado"
_REQUESTER_CNS: Final = re.compile(r"[1-9]\d{14}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Checks the credentials of a request."""

    mode: Mode
    login: str = ""
    password: str = field(default="", repr=False)
    token_seconds: int = 1800
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """Of the tokens; new in every process, so a restart ends them all."""

    def __post_init__(self) -> None:
        if self.mode == "basic" and not (self.login and self.password):
            raise ValueError("--auth basic needs a login and a password: --login, and --password or MIRROR_PASSWORD")

    def new_token(self, *, now: int) -> dict[str, str | int]:
        """The answer of the token endpoint. `now` in milliseconds."""
        claims = {
            "iss": "mirror",
            "iat": now // 1000,
            "exp": now // 1000 + self.token_seconds,
            "jti": secrets.token_hex(8),
        }
        body = f"{_encode(json.dumps({'alg': 'HS256', 'typ': 'JWT'}).encode())}.{_encode(json.dumps(claims).encode())}"
        return {
            "access_token": f"{body}.{self._sign(body)}",
            "scope": "read write",
            "token_type": "jwt",
            "expires_in": self.token_seconds * 1000,
        }

    def refuse(self, headers: Mapping[str, str], *, now: int) -> str | None:
        """Why the request may not pass, or None when it may."""
        if self.mode == "basic":
            return None if self._knows(headers.get("authorization", "")) else "Credenciais ausentes ou inválidas"
        if self.mode == "rnds":
            scheme, _, token = headers.get("x-authorization-server", "").partition(" ")
            if scheme.lower() != "bearer" or not self._valid(token.strip(), now):
                return EXPIRED
            if not _REQUESTER_CNS.fullmatch(headers.get("authorization", "").strip()):
                return "(EHR-ERR882) CNS do profissional requisitante ausente ou inválido em Authorization"
        return None

    def _knows(self, header: str) -> bool:
        scheme, _, encoded = header.partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return False
        wanted = f"{self.login}:{self.password}".encode()
        return scheme.lower() == "basic" and hmac.compare_digest(given, wanted)

    def _valid(self, token: str, now: int) -> bool:
        body, _, signature = token.rpartition(".")
        if not body or not hmac.compare_digest(signature.encode(), self._sign(body).encode()):
            return False
        claims = json.loads(base64.urlsafe_b64decode(body.partition(".")[2] + "=="))
        return bool(claims["exp"] * 1000 > now)

    def _sign(self, body: str) -> str:
        return _encode(hmac.digest(self.key, body.encode(), "sha256"))


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")

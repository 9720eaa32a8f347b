"""Who may read: nobody asked, HTTP basic, a bearer token (OAuth2 or SMART), or the two headers of the RNDS.

RNDS: `GET` or `POST /api/token` answers a token whose `expires_in` is in milliseconds; every FHIR call then carries
`X-Authorization-Server: Bearer <token>` and `Authorization: <CNS of the requester>`, bare. Source: RIA implementation guide,
integration page. The certificate of the token call is a matter of the listener (`--auth-port`).

OAuth2 and SMART: a form by `POST /api/token` (RFC 6749; SMART App Launch 2, Backend Services), `expires_in` in seconds, then
`Authorization: Bearer <token>`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import parse_qs, unquote_plus

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_public_key

Mode = Literal["none", "basic", "oauth2", "smart", "rnds"]
MODES: Final[tuple[Mode, ...]] = ("none", "basic", "oauth2", "smart", "rnds")
TokenMethod = Literal["any", "get", "post"]
TOKEN_METHODS: Final[tuple[TokenMethod, ...]] = ("any", "get", "post")
ClientAuth = Literal["basic", "form"]
CLIENT_AUTHS: Final[tuple[ClientAuth, ...]] = ("basic", "form")
ALGORITHMS: Final = ("RS384", "ES384")
_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_LONGEST_ASSERTION_SECONDS: Final = 300
EXPIRED: Final = "(EHR-ERR882) Token de acesso ausente, inválido ou expirado"
_REQUESTER_CNS: Final = re.compile(r"[1-9]\d{14}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no token: an error of RFC 6749 and what a person may want to know."""

    error: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Checks the credentials of a request."""

    mode: Mode
    login: str = ""
    password: str = field(default="", repr=False)
    token_seconds: int = 1800
    token_uses: int = 0
    """Requests that one token serves before it counts as revoked; 0 = any number."""
    token_method: TokenMethod = "any"
    """How the RNDS's token is asked for; the other method is answered with 405."""
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    client_auth: ClientAuth = "basic"
    """OAuth2: where client id and secret are expected."""
    public_keys: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """SMART: the client's registered keys by `kid`; a key without one is under an empty text."""
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    """Of the tokens; new in every process, so a restart ends them all."""
    uses: Counter[str] = field(default_factory=Counter, repr=False)
    seen_assertions: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        if self.mode == "basic" and not (self.login and self.password):
            raise ValueError("--auth basic needs a login and a password: --login, and --password or MIRROR_PASSWORD")
        if self.mode == "oauth2" and not (self.client_id and self.client_secret):
            raise ValueError("--auth oauth2 needs --client-id, and --client-secret or MIRROR_CLIENT_SECRET")
        if self.mode == "smart" and not (self.client_id and self.public_keys):
            raise ValueError("--auth smart needs --client-id, and --client-keys with its public keys")

    @property
    def gives_tokens(self) -> bool:
        """Whether there is a token endpoint."""
        return self.mode in {"oauth2", "smart", "rnds"}

    def token_methods(self) -> tuple[str, ...]:
        """HTTP methods of the token endpoint."""
        if self.mode in {"oauth2", "smart"}:
            return ("POST",)
        return ("GET", "POST") if self.token_method == "any" else (self.token_method.upper(),)

    def grant(self, headers: Mapping[str, str], body: bytes, *, url: str, now: int) -> dict[str, str | int] | Refusal:
        """A token, or why not. `url` is the address that was asked, `now` in milliseconds."""
        if self.mode == "rnds":
            return self.new_token(now=now)
        if headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
            return Refusal("invalid_request", "the body is no form")
        form = {
            name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items() if len(values) == 1
        }
        if form.get("grant_type") != "client_credentials":
            return Refusal("unsupported_grant_type", "grant_type is not client_credentials")
        problem = (
            self._client_problem(headers, form) if self.mode == "oauth2" else self._assertion_problem(form, url, now)
        )
        if problem:
            return Refusal("invalid_client", problem)
        if self.mode == "smart" and not form.get("scope", "").startswith("system/"):
            return Refusal("invalid_scope", "the scope is not one of system/")
        given = self.new_token(now=now)
        return given | {"token_type": "bearer", "expires_in": self.token_seconds, "scope": form.get("scope", "")}

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
        if self.gives_tokens:
            name = "x-authorization-server" if self.mode == "rnds" else "authorization"
            scheme, _, token = headers.get(name, "").partition(" ")
            if scheme.lower() != "bearer" or not self._valid(token.strip(), now):
                return EXPIRED
            if self.mode == "rnds" and not _REQUESTER_CNS.fullmatch(headers.get("authorization", "").strip()):
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
        self.uses[claims["jti"]] += 1
        used_up = 0 < self.token_uses < self.uses[claims["jti"]]
        return bool(claims["exp"] * 1000 > now) and not used_up

    def _client_problem(self, headers: Mapping[str, str], form: Mapping[str, str]) -> str:
        if self.client_auth == "form":
            given = (form.get("client_id", ""), form.get("client_secret", ""))
        else:
            scheme, _, encoded = headers.get("authorization", "").partition(" ")
            try:
                name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
            except (binascii.Error, ValueError):
                return "Authorization is not Basic"
            if scheme.lower() != "basic" or "client_secret" in form:
                return "client id and secret belong into Authorization: Basic, and only there"
            given = (unquote_plus(name), unquote_plus(secret))
        known = hmac.compare_digest(given[1].encode(), self.client_secret.encode()) and given[0] == self.client_id
        return "" if known else "client id and secret are not known"

    def _assertion_problem(self, form: Mapping[str, str], url: str, now: int) -> str:
        """What is wrong with a SMART assertion: signature, who, for whom, and times by the server's own clock."""
        assertion = form.get("client_assertion", "")
        if form.get("client_assertion_type") != _ASSERTION_TYPE:
            return "client_assertion_type is not jwt-bearer"
        try:
            head = jwt.get_unverified_header(assertion)
            key = self.public_keys.get(str(head.get("kid", ""))) or self.public_keys.get("")
            if key is None:
                return "no key is registered under this kid"
            claims = jwt.decode(
                assertion,
                key,
                algorithms=list(ALGORITHMS),
                audience=url,
                options={"require": ["iss", "sub", "aud", "exp", "jti"], "verify_exp": False},
            )
        except (jwt.PyJWTError, TypeError, ValueError, AttributeError) as error:  # the others: a key of another kind
            return f"the assertion is not accepted: {type(error).__name__}"
        if not head.get("kid") or claims["iss"] != self.client_id or claims["sub"] != self.client_id:
            return "kid, iss or sub is not right"
        left = int(claims["exp"]) - now // 1000
        if not 0 < left <= _LONGEST_ASSERTION_SECONDS:
            return "exp is over, or more than five minutes away"
        if claims["jti"] in self.seen_assertions:
            return "this assertion was used before"
        self.seen_assertions.add(claims["jti"])
        return ""

    def _sign(self, body: str) -> str:
        return _encode(hmac.digest(self.key, body.encode(), "sha256"))


def read_public_keys(path: Path) -> dict[str, Any]:
    """The client's public keys by `kid`, from a JWKS or from one PEM."""
    data = path.read_bytes()
    if b"-----BEGIN" in data:
        return {"": load_pem_public_key(data)}
    try:
        keys = jwt.PyJWKSet.from_dict(json.loads(data)).keys
    except (jwt.PyJWTError, ValueError) as error:
        raise ValueError(f"{path} is neither a JWKS nor a public key in PEM") from error
    return {key.key_id or "": key.key for key in keys}


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")

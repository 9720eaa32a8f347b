"""Everything that can be set, in one frozen object. It comes from the environment (CLI) or from Airflow connections (DAG glue)."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, cast
from urllib.parse import urlsplit

from imunizacao.errors import ConfigurationError

MirrorAuth = Literal["none", "basic", "rnds"]
_AUTHS: Final = ("none", "basic", "rnds")


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorSettings:
    """The FHIR mirror of the RNDS and how politely to use it."""

    base_url: str
    """FHIR base, for example `https://mirror.example.org/fhir/r4`."""
    auth: MirrorAuth = "none"
    login: str = ""
    password: str = field(default="", repr=False)
    token_url: str = ""
    """RNDS: where the access token is asked for."""
    requester_cns: str = field(default="", repr=False)
    """RNDS: CNS of the professional who asks, sent in `Authorization`."""
    page_size: int = 500
    max_connections: int = 4
    requests_per_second: float = 0.0
    """0 = no limit of our own."""
    slice_cap: int = 50_000
    """A time slice with more documents than this is cut further."""
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    retry_budget: float = 1800.0
    """Seconds that one chain of requests may spend on retries before the task fails, naming the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """An S3 service with conditional writes, and the two buckets."""

    endpoint_url: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    work_bucket: str = "imunizacao-work"
    public_bucket: str = "imunizacao-public"
    max_connections: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudonymSettings:
    """Key of the HMAC-SHA256 pseudonyms; the key id is published, the key never."""

    key: bytes = field(repr=False)
    key_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How much of this machine a stage may use."""

    threads: int = 2
    memory_limit: str = "1GB"
    scratch_dir: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    """Local disk for spills and parts; every stage cleans up its own folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a run."""

    mirror: MirrorSettings
    storage: StorageSettings
    pseudonym: PseudonymSettings
    engine: EngineSettings = field(default_factory=EngineSettings)
    controle_dsn: str = field(default="", repr=False)
    """PostgreSQL of the schema `controle`; empty = outcomes go to the work bucket only."""


_ENV: Final[dict[str, str]] = {
    "IMUNIZACAO_MIRROR_URL": "FHIR base of the mirror, for example https://mirror.example.org/fhir/r4",
    "IMUNIZACAO_MIRROR_AUTH": "none | basic | rnds (default none)",
    "IMUNIZACAO_MIRROR_LOGIN": "user of basic authentication",
    "IMUNIZACAO_MIRROR_PASSWORD": "password of basic authentication",
    "IMUNIZACAO_MIRROR_TOKEN_URL": "RNDS: address of the token service",
    "IMUNIZACAO_MIRROR_REQUESTER_CNS": "RNDS: CNS of the professional who asks",
    "IMUNIZACAO_MIRROR_PAGE_SIZE": "documents per page (default 500)",
    "IMUNIZACAO_MIRROR_MAX_CONNECTIONS": "connections at once (default 4)",
    "IMUNIZACAO_MIRROR_REQUESTS_PER_SECOND": "limit of our own, 0 = none (default 0)",
    "IMUNIZACAO_MIRROR_SLICE_CAP": "documents above which a time slice is cut further (default 50000)",
    "IMUNIZACAO_MIRROR_RETRY_BUDGET": "seconds of retries per chain of requests (default 1800)",
    "IMUNIZACAO_S3_ENDPOINT": "address of the S3 service, for example http://127.0.0.1:8333",
    "IMUNIZACAO_S3_ACCESS_KEY": "access key of the pipeline",
    "IMUNIZACAO_S3_SECRET_KEY": "secret key of the pipeline",
    "IMUNIZACAO_S3_REGION": "region (default us-east-1)",
    "IMUNIZACAO_WORK_BUCKET": "private bucket of the stages (default imunizacao-work)",
    "IMUNIZACAO_PUBLIC_BUCKET": "bucket that readers see (default imunizacao-public)",
    "IMUNIZACAO_PSEUDONYM_KEY": "secret of the pseudonyms, 32 characters or more",
    "IMUNIZACAO_PSEUDONYM_KEY_ID": "name of that key, published (default k1)",
    "IMUNIZACAO_CONTROLE_DSN": "PostgreSQL of the schema controle; empty = outcomes in the work bucket only",
    "IMUNIZACAO_THREADS": "threads of DuckDB (default 2)",
    "IMUNIZACAO_MEMORY_LIMIT": "memory of DuckDB (default 1GB)",
    "IMUNIZACAO_SCRATCH_DIR": "local disk for spills (default: the system's temporary folder)",
}


def environment_help() -> str:
    """One line per environment variable, for `python -m imunizacao --help`."""
    width = max(map(len, _ENV))
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in _ENV.items())


def settings_from_env(env: Mapping[str, str]) -> Settings:
    """Read all settings from environment variables; every missing one is named in a single `ConfigurationError`."""
    unknown = sorted(name for name in env if name.startswith("IMUNIZACAO_") and name not in _ENV)
    if unknown:
        raise ConfigurationError(
            f"Unknown setting(s) {', '.join(unknown)}. `python -m imunizacao --help` lists the ones that exist."
        )
    required = (
        "IMUNIZACAO_MIRROR_URL",
        "IMUNIZACAO_S3_ENDPOINT",
        "IMUNIZACAO_S3_ACCESS_KEY",
        "IMUNIZACAO_S3_SECRET_KEY",
        "IMUNIZACAO_PSEUDONYM_KEY",
    )
    missing = [name for name in required if not env.get(name)]
    if missing:
        raise ConfigurationError(
            "Missing setting(s):\n" + "\n".join(f"  {name}: {_ENV[name]}" for name in missing) + "\n"
            "Set them in the environment; for a complete local installation run `make up`."
        )
    auth = env.get("IMUNIZACAO_MIRROR_AUTH", "none")
    return Settings(
        mirror=mirror_settings(
            base_url=env["IMUNIZACAO_MIRROR_URL"],
            auth=auth,
            login=env.get("IMUNIZACAO_MIRROR_LOGIN", ""),
            password=env.get("IMUNIZACAO_MIRROR_PASSWORD", ""),
            token_url=env.get("IMUNIZACAO_MIRROR_TOKEN_URL", ""),
            requester_cns=env.get("IMUNIZACAO_MIRROR_REQUESTER_CNS", ""),
            page_size=_number(env, "IMUNIZACAO_MIRROR_PAGE_SIZE", 500),
            max_connections=_number(env, "IMUNIZACAO_MIRROR_MAX_CONNECTIONS", 4),
            requests_per_second=_decimal(env, "IMUNIZACAO_MIRROR_REQUESTS_PER_SECOND", 0.0),
            slice_cap=_number(env, "IMUNIZACAO_MIRROR_SLICE_CAP", 50_000),
            retry_budget=_decimal(env, "IMUNIZACAO_MIRROR_RETRY_BUDGET", 1800.0),
        ),
        storage=storage_settings(
            endpoint_url=env["IMUNIZACAO_S3_ENDPOINT"],
            access_key=env["IMUNIZACAO_S3_ACCESS_KEY"],
            secret_key=env["IMUNIZACAO_S3_SECRET_KEY"],
            region=env.get("IMUNIZACAO_S3_REGION") or "us-east-1",
            work_bucket=env.get("IMUNIZACAO_WORK_BUCKET") or "imunizacao-work",
            public_bucket=env.get("IMUNIZACAO_PUBLIC_BUCKET") or "imunizacao-public",
        ),
        pseudonym=pseudonym_settings(
            key=env["IMUNIZACAO_PSEUDONYM_KEY"], key_id=env.get("IMUNIZACAO_PSEUDONYM_KEY_ID") or "k1"
        ),
        engine=engine_settings(env),
        controle_dsn=env.get("IMUNIZACAO_CONTROLE_DSN", ""),
    )


def engine_settings(env: Mapping[str, str]) -> EngineSettings:
    """Threads, memory and scratch disk from the environment; the scratch folder must exist."""
    scratch = Path(env.get("IMUNIZACAO_SCRATCH_DIR") or tempfile.gettempdir())
    if not scratch.is_dir():
        raise ConfigurationError(
            f"IMUNIZACAO_SCRATCH_DIR {scratch} is not a folder. Create it, or leave the variable empty for {tempfile.gettempdir()}."
        )
    memory = env.get("IMUNIZACAO_MEMORY_LIMIT") or "1GB"
    if not re.fullmatch(r"[0-9]+ ?(MB|GB|MiB|GiB)", memory):
        raise ConfigurationError(f"IMUNIZACAO_MEMORY_LIMIT {memory!r} is not a size. Example: 1GB.")
    return EngineSettings(threads=_number(env, "IMUNIZACAO_THREADS", 2), memory_limit=memory, scratch_dir=scratch)


def mirror_settings(
    *,
    base_url: str,
    auth: str = "none",
    login: str = "",
    password: str = "",
    token_url: str = "",
    requester_cns: str = "",
    page_size: int = 500,
    max_connections: int = 4,
    requests_per_second: float = 0.0,
    slice_cap: int = 50_000,
    retry_budget: float = 1800.0,
) -> MirrorSettings:
    """Check and build the settings of the mirror."""
    _require_http("The mirror's address", base_url)
    if auth not in _AUTHS:
        raise ConfigurationError(f"Mirror authentication {auth!r} is unknown. Expected one of: {', '.join(_AUTHS)}.")
    if auth == "basic" and not (login and password):
        raise ConfigurationError("Mirror authentication `basic` needs login and password.")
    if auth == "rnds" and not (token_url and requester_cns):
        raise ConfigurationError("Mirror authentication `rnds` needs the token address and the requester's CNS.")
    if auth == "rnds":
        _require_http("The mirror's token address", token_url)
    if not 1 <= page_size <= 10_000 or not 1 <= max_connections <= 64:
        raise ConfigurationError("Mirror page size must be 1–10000 and connections 1–64.")
    return MirrorSettings(
        base_url=base_url.rstrip("/"),
        auth=cast(MirrorAuth, auth),
        login=login,
        password=password,
        token_url=token_url,
        requester_cns=requester_cns,
        page_size=page_size,
        max_connections=max_connections,
        requests_per_second=requests_per_second,
        slice_cap=slice_cap,
        retry_budget=retry_budget,
    )


def storage_settings(
    *,
    endpoint_url: str,
    access_key: str,
    secret_key: str,
    region: str = "us-east-1",
    work_bucket: str = "imunizacao-work",
    public_bucket: str = "imunizacao-public",
) -> StorageSettings:
    """Check and build the settings of the object store. Private and public objects never share a bucket."""
    _require_http("The S3 address", endpoint_url)
    if work_bucket == public_bucket:
        raise ConfigurationError(
            f"Work and public bucket are both {work_bucket!r}: what is private would be readable. Name two buckets."
        )
    return StorageSettings(
        endpoint_url=endpoint_url,
        access_key=access_key,
        secret_key=secret_key,
        region=region,
        work_bucket=work_bucket,
        public_bucket=public_bucket,
    )


def pseudonym_settings(*, key: str, key_id: str) -> PseudonymSettings:
    """Check and build the pseudonym key. A short key can be guessed and undoes every pseudonym."""
    if len(key) < 32:
        raise ConfigurationError(
            f"The pseudonym key has {len(key)} characters, 32 or more are needed. "
            "Make one with: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    if not re.fullmatch(r"[a-z0-9-]{1,16}", key_id):
        raise ConfigurationError(f"Pseudonym key id {key_id!r} must be 1–16 of a-z, 0-9 and '-'.")
    return PseudonymSettings(key=key.encode(), key_id=key_id)


def _require_http(what: str, url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        shown = re.sub(r"//[^/@]*@", "//…@", url)  # an address may carry a password
        raise ConfigurationError(f"{what} {shown!r} is not an http(s) address.")


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    try:
        value = int(text)
    except ValueError as error:
        raise ConfigurationError(f"{name} {text!r} is not a whole number. {_ENV[name]}") from error
    if value < 1:
        raise ConfigurationError(f"{name} must be 1 or more, not {value}.")
    return value


def _decimal(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name) or str(default)
    try:
        value = float(text)
    except ValueError as error:
        raise ConfigurationError(f"{name} {text!r} is not a number. {_ENV[name]}") from error
    if not 0 <= value < float("inf"):
        raise ConfigurationError(f"{name} must be 0 or more, not {text!r}.")
    return value

"""Everything that can be set, in one frozen object. It comes from the environment (CLI) or from Airflow connections (DAG glue)."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, cast
from urllib.parse import urlsplit

from imunizacao import paths
from imunizacao.errors import ConfigurationError

MirrorAuth = Literal["none", "basic", "oauth2", "smart", "rnds"]
_AUTHS: Final = ("none", "basic", "oauth2", "smart", "rnds")
TokenEndpointAuth = Literal["basic", "form"]
_TOKEN_ENDPOINT_AUTHS: Final = ("basic", "form")
MirrorWay = Literal["auto", "documents", "resources", "export"]
_WAYS: Final = ("auto", "documents", "resources", "export")


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorSettings:
    """The FHIR mirror of the RNDS and how politely to use it."""

    base_url: str = field(repr=False)
    """FHIR base, for example `https://mirror.example.org/fhir/r4`."""
    auth: MirrorAuth = "none"
    login: str = ""
    password: str = field(default="", repr=False)
    token_url: str = ""
    """Where the access token is asked for. With `smart` it may be empty: the mirror's SMART configuration names it."""
    requester_cns: str = field(default="", repr=False)
    """RNDS: CNS of the professional who asks, sent in `Authorization`."""
    client_id: str = ""
    """OAuth2 and SMART: the name we are registered under."""
    client_secret: str = field(default="", repr=False)
    token_endpoint_auth: TokenEndpointAuth = "basic"  # noqa: S105 (a place, no secret)
    """OAuth2: where client id and secret go, `Authorization: Basic` or the form."""
    scope: str = ""
    """OAuth2 and SMART: what we ask for."""
    signing_private_key: str = field(default="", repr=False)
    """SMART: private key, as PEM, JWK or base64 of one of them."""
    signing_key_file: str = ""
    """SMART: the same in a file."""
    signing_key_passphrase: str = field(default="", repr=False)
    signing_key_id: str = ""
    """SMART: `kid` of the key, as registered; a JWK may carry it itself."""
    client_certificate: str = field(default="", repr=False)
    """Certificate for mutual TLS: a PFX in base64, or PEM."""
    client_certificate_file: str = ""
    """The same in a file: PFX (P12) or PEM."""
    client_private_key: str = field(default="", repr=False)
    """Its key as PEM, where the certificate does not hold it."""
    client_key_file: str = ""
    """The same in a file."""
    client_certificate_passphrase: str = field(default="", repr=False)
    """Of the PFX, or of the key."""
    ca_file: str = ""
    """PEM of authorities to trust besides those that this machine trusts."""
    way: MirrorWay = "auto"
    """How documents are asked for: search of document Bundles, search of Immunization with its neighbours, Bulk Data `$export`, or
    what the CapabilityStatement offers, in this order."""
    page_size: int = 500
    max_connections: int = 4
    requests_per_second: float = 0.0
    """0 = no limit of our own."""
    slice_cap: int = 50_000
    """A time slice with more documents than this is cut further."""
    connect_timeout: float = 10.0
    """Seconds until a connection is made."""
    read_timeout: float = 60.0
    """Seconds without a byte; a whole answer may take four times as long, a whole file sixty times."""
    retry_budget: float = 1800.0
    """Seconds that one chain of requests may spend on retries before the task fails, naming the page."""
    export_deadline: float = 21_600.0
    """Bulk Data: seconds from the kick-off of an export to its manifest before it is given up."""


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
    """Keys of the HMAC-SHA256 pseudonyms; key ids are published, keys never."""

    key: bytes = field(repr=False)
    key_id: str
    previous_key: bytes = field(default=b"", repr=False)
    """The key before, while readers change over: `co_paciente_anterior` is made with it. Empty outside of a change of keys."""
    previous_key_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningSettings:
    """The Ed25519 key that signs published days, as PEM in a text or a file. `imunizacao.signing` reads it."""

    key: str = field(default="", repr=False)
    """PEM (PKCS#8), or base64 of it."""
    key_file: str = ""
    """The same in a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NominalSettings:
    """Where files with identifiers go, and who may write there. Their presence means that the nominal profile is on."""

    bucket: str
    access_key: str
    secret_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How much of this machine a stage may use."""

    threads: int = 2
    memory_limit: str = "1GB"
    scratch_dir: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    """Local disk for spills and parts; every stage cleans up its own folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HousekeepingSettings:
    """Days that objects are kept after they were last written, by the clock of the store."""

    orphans_days: int = 7
    """What nothing names any more; also how long a run counts as being at work on its day."""
    withdrawn_days: int = 30
    """Files of withdrawn days and UFs, after the withdrawal."""
    runs_days: int = 30
    """Objects of runs, but for the newest landing of a day."""
    landing_days: int = 90
    """The newest whole landing of a day."""
    quarantine_days: int = 180
    """Quarantine with its documents, and what establishments are told."""
    docs_days: int = 365
    """Data Docs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a run."""

    mirror: MirrorSettings
    storage: StorageSettings
    pseudonym: PseudonymSettings
    engine: EngineSettings = field(default_factory=EngineSettings)
    nominal: NominalSettings | None = None
    """None: nothing with identifiers is published."""
    signing: SigningSettings | None = None
    """None: days are published without a signature."""
    controle_dsn: str = field(default="", repr=False)
    """PostgreSQL of the schema `controle`; empty = outcomes go to the work bucket only."""
    expectations: Path = paths.EXPECTATIONS
    """Folder of the suites of rules."""
    housekeeping: HousekeepingSettings = field(default_factory=HousekeepingSettings)


_ENV: Final[dict[str, str]] = {
    "IMUNIZACAO_MIRROR_URL": "FHIR base of the mirror, for example https://mirror.example.org/fhir/r4",
    "IMUNIZACAO_MIRROR_AUTH": "none | basic | oauth2 | smart | rnds (default none)",
    "IMUNIZACAO_MIRROR_LOGIN": "user of basic authentication",
    "IMUNIZACAO_MIRROR_PASSWORD": "password of basic authentication",
    "IMUNIZACAO_MIRROR_TOKEN_URL": "oauth2, smart, rnds: address of the token service (smart: found by itself when empty)",
    "IMUNIZACAO_MIRROR_REQUESTER_CNS": "rnds: CNS of the professional who asks",
    "IMUNIZACAO_MIRROR_CLIENT_ID": "oauth2, smart: client id",
    "IMUNIZACAO_MIRROR_CLIENT_SECRET": "oauth2: client secret",
    "IMUNIZACAO_MIRROR_TOKEN_ENDPOINT_AUTH": "oauth2: basic | form, where client id and secret go (default basic)",
    "IMUNIZACAO_MIRROR_SCOPE": "oauth2, smart: scope (default for smart: system/*.rs)",
    "IMUNIZACAO_MIRROR_SIGNING_PRIVATE_KEY": "smart: private key as PEM or JWK, or base64 of one of them",
    "IMUNIZACAO_MIRROR_SIGNING_KEY_FILE": "smart: file of that key",
    "IMUNIZACAO_MIRROR_SIGNING_KEY_PASSPHRASE": "smart: passphrase of that key",
    "IMUNIZACAO_MIRROR_SIGNING_KEY_ID": "smart: kid of that key (default: the one of the JWK)",
    "IMUNIZACAO_MIRROR_CLIENT_CERTIFICATE": "client certificate: PFX in base64, or PEM",
    "IMUNIZACAO_MIRROR_CLIENT_CERTIFICATE_FILE": "file of the client certificate: PFX (P12) or PEM",
    "IMUNIZACAO_MIRROR_CLIENT_PRIVATE_KEY": "its private key as PEM, where the certificate does not hold it",
    "IMUNIZACAO_MIRROR_CLIENT_KEY_FILE": "file of that key",
    "IMUNIZACAO_MIRROR_CLIENT_CERTIFICATE_PASSPHRASE": "passphrase of the PFX or of the key",
    "IMUNIZACAO_MIRROR_CA_FILE": "PEM of authorities to trust besides those of this machine",
    "IMUNIZACAO_MIRROR_WAY": "auto | documents | resources | export (default auto)",
    "IMUNIZACAO_MIRROR_PAGE_SIZE": "documents per page (default 500)",
    "IMUNIZACAO_MIRROR_MAX_CONNECTIONS": "connections at once (default 4)",
    "IMUNIZACAO_MIRROR_REQUESTS_PER_SECOND": "limit of our own, 0 = none (default 0)",
    "IMUNIZACAO_MIRROR_SLICE_CAP": "documents above which a time slice is cut further (default 50000)",
    "IMUNIZACAO_MIRROR_CONNECT_TIMEOUT": "seconds until a connection is made (default 10)",
    "IMUNIZACAO_MIRROR_READ_TIMEOUT": "seconds without a byte of an answer (default 60)",
    "IMUNIZACAO_MIRROR_RETRY_BUDGET": "seconds of retries per chain of requests (default 1800)",
    "IMUNIZACAO_MIRROR_EXPORT_DEADLINE": "Bulk Data: seconds that the mirror may take for an export (default 21600)",
    "IMUNIZACAO_S3_ENDPOINT": "address of the S3 service, for example http://127.0.0.1:8333",
    "IMUNIZACAO_S3_ACCESS_KEY": "access key of the pipeline",
    "IMUNIZACAO_S3_SECRET_KEY": "secret key of the pipeline",
    "IMUNIZACAO_S3_REGION": "region (default us-east-1)",
    "IMUNIZACAO_WORK_BUCKET": "private bucket of the stages (default imunizacao-work)",
    "IMUNIZACAO_PUBLIC_BUCKET": "bucket that readers see (default imunizacao-public)",
    "IMUNIZACAO_PSEUDONYM_KEY": "secret of the pseudonyms, 32 characters or more",
    "IMUNIZACAO_PSEUDONYM_KEY_ID": "name of that key, published (default k1)",
    "IMUNIZACAO_PSEUDONYM_PREVIOUS_KEY": "the secret before, while readers change over; empty = no change of keys",
    "IMUNIZACAO_PSEUDONYM_PREVIOUS_KEY_ID": "name of that key, needed with it",
    "IMUNIZACAO_SIGNING_KEY": "Ed25519 key that signs published days: PEM (PKCS#8) or base64 of it; empty = days without signature",
    "IMUNIZACAO_SIGNING_KEY_FILE": "file of that key",
    "IMUNIZACAO_NOMINAL": "on | off: publish files with identifiers for managers, into a bucket of their own (default off)",
    "IMUNIZACAO_NOMINAL_BUCKET": "that bucket; neither the work bucket nor the public one",
    "IMUNIZACAO_NOMINAL_ACCESS_KEY": "access key for that bucket alone (default: that of the pipeline)",
    "IMUNIZACAO_NOMINAL_SECRET_KEY": "its secret key",
    "IMUNIZACAO_CONTROLE_DSN": "PostgreSQL of the schema controle; empty = outcomes in the work bucket only",
    "IMUNIZACAO_THREADS": "threads of DuckDB (default 2)",
    "IMUNIZACAO_MEMORY_LIMIT": "memory of DuckDB (default 1GB)",
    "IMUNIZACAO_SCRATCH_DIR": "local disk for spills (default: the system's temporary folder)",
    "IMUNIZACAO_KEEP_ORPHANS_DAYS": "housekeeping: days for what nothing names; a run counts as at work as long (default 7)",
    "IMUNIZACAO_KEEP_WITHDRAWN_DAYS": "housekeeping: days for files of a withdrawn day or UF, 0 = none (default 30)",
    "IMUNIZACAO_KEEP_RUNS_DAYS": "housekeeping: days for objects of runs, but for the newest landing of a day (default 30)",
    "IMUNIZACAO_KEEP_LANDING_DAYS": "housekeeping: days for the newest landing of a day (default 90)",
    "IMUNIZACAO_KEEP_QUARANTINE_DAYS": "housekeeping: days for quarantine and acknowledgements (default 180)",
    "IMUNIZACAO_KEEP_DOCS_DAYS": "housekeeping: days for Data Docs (default 365)",
    "IMUNIZACAO_EXPECTATIONS": "folder with the suites of rules (default: expectations/ of this installation)",
}


def environment_help() -> str:
    """One line per environment variable, for `python -m imunizacao --help`."""
    width = max(map(len, _ENV))
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in _ENV.items())


def require_controle_dsn(env: Mapping[str, str]) -> str:
    """Address of the database, of a command that cannot work without it."""
    dsn = env.get("IMUNIZACAO_CONTROLE_DSN", "")
    if not dsn:
        raise ConfigurationError("Set IMUNIZACAO_CONTROLE_DSN to the PostgreSQL database of the schema controle.")
    return dsn


def settings_from_env(env: Mapping[str, str]) -> Settings:
    """Read all settings from environment variables; every missing one is named in a single `ConfigurationError`."""
    _refuse_unknown(env)
    _require_all(env, ("IMUNIZACAO_MIRROR_URL", *_STORAGE, "IMUNIZACAO_PSEUDONYM_KEY"))
    storage = _storage_from_env(env)
    return Settings(
        mirror=_mirror_from_env(env),
        storage=storage,
        pseudonym=pseudonym_settings(
            key=env["IMUNIZACAO_PSEUDONYM_KEY"],
            key_id=env.get("IMUNIZACAO_PSEUDONYM_KEY_ID") or "k1",
            previous_key=env.get("IMUNIZACAO_PSEUDONYM_PREVIOUS_KEY", ""),
            previous_key_id=env.get("IMUNIZACAO_PSEUDONYM_PREVIOUS_KEY_ID", ""),
        ),
        engine=engine_settings(env),
        nominal=_nominal_from_env(env, storage),
        signing=_signing_from_env(env),
        controle_dsn=env.get("IMUNIZACAO_CONTROLE_DSN", ""),
        expectations=expectations_folder(env),
        housekeeping=housekeeping_settings(env),
    )


def mirror_settings_from_env(env: Mapping[str, str]) -> MirrorSettings:
    """Read the settings of the mirror alone, for what needs neither a bucket nor a key."""
    _refuse_unknown(env)
    if not env.get("IMUNIZACAO_MIRROR_URL"):
        raise ConfigurationError(
            f"Missing setting IMUNIZACAO_MIRROR_URL: {_ENV['IMUNIZACAO_MIRROR_URL']}. Set it in the environment."
        )
    return _mirror_from_env(env)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSettings:
    """What a command needs that works on buckets alone."""

    storage: StorageSettings
    nominal: NominalSettings | None
    signing: SigningSettings | None


def bucket_settings_from_env(env: Mapping[str, str]) -> BucketSettings:
    """Read the settings of the buckets and of the signing key, for what needs neither the mirror nor the pseudonyms."""
    _refuse_unknown(env)
    _require_all(env, _STORAGE)
    storage = _storage_from_env(env)
    return BucketSettings(storage=storage, nominal=_nominal_from_env(env, storage), signing=_signing_from_env(env))


_STORAGE: Final = ("IMUNIZACAO_S3_ENDPOINT", "IMUNIZACAO_S3_ACCESS_KEY", "IMUNIZACAO_S3_SECRET_KEY")


def _require_all(env: Mapping[str, str], required: tuple[str, ...]) -> None:
    missing = [name for name in required if not env.get(name)]
    if missing:
        raise ConfigurationError(
            "Missing setting(s):\n" + "\n".join(f"  {name}: {_ENV[name]}" for name in missing) + "\n"
            "Set them in the environment; for a complete local installation run `make up`."
        )


def _storage_from_env(env: Mapping[str, str]) -> StorageSettings:
    return storage_settings(
        endpoint_url=env["IMUNIZACAO_S3_ENDPOINT"],
        access_key=env["IMUNIZACAO_S3_ACCESS_KEY"],
        secret_key=env["IMUNIZACAO_S3_SECRET_KEY"],
        region=env.get("IMUNIZACAO_S3_REGION") or "us-east-1",
        work_bucket=env.get("IMUNIZACAO_WORK_BUCKET") or "imunizacao-work",
        public_bucket=env.get("IMUNIZACAO_PUBLIC_BUCKET") or "imunizacao-public",
    )


def _nominal_from_env(env: Mapping[str, str], storage: StorageSettings) -> NominalSettings | None:
    return nominal_settings(
        switch=env.get("IMUNIZACAO_NOMINAL", ""),
        bucket=env.get("IMUNIZACAO_NOMINAL_BUCKET", ""),
        access_key=env.get("IMUNIZACAO_NOMINAL_ACCESS_KEY", ""),
        secret_key=env.get("IMUNIZACAO_NOMINAL_SECRET_KEY", ""),
        storage=storage,
    )


def _signing_from_env(env: Mapping[str, str]) -> SigningSettings | None:
    return signing_settings(
        key=env.get("IMUNIZACAO_SIGNING_KEY", ""), key_file=env.get("IMUNIZACAO_SIGNING_KEY_FILE", "")
    )


def _refuse_unknown(env: Mapping[str, str]) -> None:
    unknown = sorted(name for name in env if name.startswith("IMUNIZACAO_") and name not in _ENV)
    if unknown:
        raise ConfigurationError(
            f"Unknown setting(s) {', '.join(unknown)}. `python -m imunizacao --help` lists the ones that exist."
        )


def _mirror_from_env(env: Mapping[str, str]) -> MirrorSettings:
    return mirror_settings(
        base_url=env["IMUNIZACAO_MIRROR_URL"],
        auth=env.get("IMUNIZACAO_MIRROR_AUTH") or "none",
        login=env.get("IMUNIZACAO_MIRROR_LOGIN", ""),
        password=env.get("IMUNIZACAO_MIRROR_PASSWORD", ""),
        token_url=env.get("IMUNIZACAO_MIRROR_TOKEN_URL", ""),
        requester_cns=env.get("IMUNIZACAO_MIRROR_REQUESTER_CNS", ""),
        client_id=env.get("IMUNIZACAO_MIRROR_CLIENT_ID", ""),
        client_secret=env.get("IMUNIZACAO_MIRROR_CLIENT_SECRET", ""),
        token_endpoint_auth=env.get("IMUNIZACAO_MIRROR_TOKEN_ENDPOINT_AUTH") or "basic",
        scope=env.get("IMUNIZACAO_MIRROR_SCOPE", ""),
        signing_private_key=env.get("IMUNIZACAO_MIRROR_SIGNING_PRIVATE_KEY", ""),
        signing_key_file=env.get("IMUNIZACAO_MIRROR_SIGNING_KEY_FILE", ""),
        signing_key_passphrase=env.get("IMUNIZACAO_MIRROR_SIGNING_KEY_PASSPHRASE", ""),
        signing_key_id=env.get("IMUNIZACAO_MIRROR_SIGNING_KEY_ID", ""),
        client_certificate=env.get("IMUNIZACAO_MIRROR_CLIENT_CERTIFICATE", ""),
        client_certificate_file=env.get("IMUNIZACAO_MIRROR_CLIENT_CERTIFICATE_FILE", ""),
        client_private_key=env.get("IMUNIZACAO_MIRROR_CLIENT_PRIVATE_KEY", ""),
        client_key_file=env.get("IMUNIZACAO_MIRROR_CLIENT_KEY_FILE", ""),
        client_certificate_passphrase=env.get("IMUNIZACAO_MIRROR_CLIENT_CERTIFICATE_PASSPHRASE", ""),
        ca_file=env.get("IMUNIZACAO_MIRROR_CA_FILE", ""),
        way=env.get("IMUNIZACAO_MIRROR_WAY") or "auto",
        page_size=_number(env, "IMUNIZACAO_MIRROR_PAGE_SIZE", 500),
        max_connections=_number(env, "IMUNIZACAO_MIRROR_MAX_CONNECTIONS", 4),
        requests_per_second=_decimal(env, "IMUNIZACAO_MIRROR_REQUESTS_PER_SECOND", 0.0),
        slice_cap=_number(env, "IMUNIZACAO_MIRROR_SLICE_CAP", 50_000),
        connect_timeout=_decimal(env, "IMUNIZACAO_MIRROR_CONNECT_TIMEOUT", 10.0),
        read_timeout=_decimal(env, "IMUNIZACAO_MIRROR_READ_TIMEOUT", 60.0),
        retry_budget=_decimal(env, "IMUNIZACAO_MIRROR_RETRY_BUDGET", 1800.0),
        export_deadline=_decimal(env, "IMUNIZACAO_MIRROR_EXPORT_DEADLINE", 21_600.0),
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


def housekeeping_settings(env: Mapping[str, str]) -> HousekeepingSettings:
    """How long objects are kept, from the environment. A landing never goes before the other objects of its run."""
    defaults = HousekeepingSettings()
    settings = HousekeepingSettings(
        orphans_days=_number(env, "IMUNIZACAO_KEEP_ORPHANS_DAYS", defaults.orphans_days),
        withdrawn_days=_number(env, "IMUNIZACAO_KEEP_WITHDRAWN_DAYS", defaults.withdrawn_days, least=0),
        runs_days=_number(env, "IMUNIZACAO_KEEP_RUNS_DAYS", defaults.runs_days),
        landing_days=_number(env, "IMUNIZACAO_KEEP_LANDING_DAYS", defaults.landing_days),
        quarantine_days=_number(env, "IMUNIZACAO_KEEP_QUARANTINE_DAYS", defaults.quarantine_days),
        docs_days=_number(env, "IMUNIZACAO_KEEP_DOCS_DAYS", defaults.docs_days),
    )
    if settings.landing_days < settings.runs_days or settings.runs_days < settings.orphans_days:
        raise ConfigurationError(
            f"IMUNIZACAO_KEEP_LANDING_DAYS {settings.landing_days}, _RUNS_DAYS {settings.runs_days} and _ORPHANS_DAYS {settings.orphans_days} "
            "must not grow in this order: a run would lose its landing before it is over. See docs/runbook/housekeeping.md."
        )
    return settings


def expectations_folder(env: Mapping[str, str]) -> Path:
    """Where the suites of rules are: a folder of one's own, or the one that came with the code."""
    folder = Path(env.get("IMUNIZACAO_EXPECTATIONS") or paths.EXPECTATIONS)
    if not folder.is_dir():
        raise ConfigurationError(
            f"IMUNIZACAO_EXPECTATIONS {folder} is not a folder. Name the folder of the suites, or leave the variable empty for {paths.EXPECTATIONS}."
        )
    return folder


def mirror_settings(
    *,
    base_url: str,
    auth: str = "none",
    login: str = "",
    password: str = "",
    token_url: str = "",
    requester_cns: str = "",
    client_id: str = "",
    client_secret: str = "",
    token_endpoint_auth: str = "basic",  # noqa: S107 (a place, no secret)
    scope: str = "",
    signing_private_key: str = "",
    signing_key_file: str = "",
    signing_key_passphrase: str = "",
    signing_key_id: str = "",
    client_certificate: str = "",
    client_certificate_file: str = "",
    client_private_key: str = "",
    client_key_file: str = "",
    client_certificate_passphrase: str = "",
    ca_file: str = "",
    way: str = "auto",
    page_size: int = 500,
    max_connections: int = 4,
    requests_per_second: float = 0.0,
    slice_cap: int = 50_000,
    connect_timeout: float = 10.0,
    read_timeout: float = 60.0,
    retry_budget: float = 1800.0,
    export_deadline: float = 21_600.0,
) -> MirrorSettings:
    """Check and build the settings of the mirror."""
    _require_http("The mirror's address", base_url)
    if way not in _WAYS:
        raise ConfigurationError(f"The way into the mirror {way!r} is unknown. Expected one of: {', '.join(_WAYS)}.")
    if not 1 <= page_size <= 10_000 or not 1 <= max_connections <= 64:
        raise ConfigurationError("Mirror page size must be 1–10000 and connections 1–64.")
    if slice_cap < 1 or not (0 <= requests_per_second < float("inf") and 0 <= retry_budget < float("inf")):
        raise ConfigurationError("Mirror slice_cap must be 1 or more, requests_per_second and retry_budget 0 or more.")
    if not (0 < connect_timeout <= 600 and 0 < read_timeout <= 3600):
        raise ConfigurationError(
            "Mirror connect_timeout must be above 0 and at most 600 seconds, read_timeout at most 3600."
        )
    settings = MirrorSettings(
        base_url=base_url.rstrip("/"),
        auth=cast(MirrorAuth, auth),
        login=login,
        password=password,
        token_url=token_url,
        requester_cns=requester_cns,
        client_id=client_id,
        client_secret=client_secret,
        token_endpoint_auth=cast(TokenEndpointAuth, token_endpoint_auth),
        scope=scope,
        signing_private_key=signing_private_key,
        signing_key_file=signing_key_file,
        signing_key_passphrase=signing_key_passphrase,
        signing_key_id=signing_key_id,
        client_certificate=client_certificate,
        client_certificate_file=client_certificate_file,
        client_private_key=client_private_key,
        client_key_file=client_key_file,
        client_certificate_passphrase=client_certificate_passphrase,
        ca_file=ca_file,
        way=cast(MirrorWay, way),
        page_size=page_size,
        max_connections=max_connections,
        requests_per_second=requests_per_second,
        slice_cap=slice_cap,
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retry_budget=retry_budget,
        export_deadline=export_deadline,
    )
    _require_identity(settings)
    _require_client_certificate(settings)
    return settings


def _require_identity(mirror: MirrorSettings) -> None:
    """Raise unless the chosen way to authenticate has all that it needs. Values are not shown: most are secrets."""
    auth = mirror.auth
    if auth not in _AUTHS:
        raise ConfigurationError(f"Mirror authentication {auth!r} is unknown. Expected one of: {', '.join(_AUTHS)}.")
    if auth == "basic" and not (mirror.login and mirror.password):
        raise ConfigurationError("Mirror authentication `basic` needs login and password.")
    if auth == "oauth2" and not (mirror.token_url and mirror.client_id and mirror.client_secret):
        raise ConfigurationError("Mirror authentication `oauth2` needs token_url, client_id and client_secret.")
    if mirror.token_endpoint_auth not in _TOKEN_ENDPOINT_AUTHS:
        raise ConfigurationError(
            f"token_endpoint_auth {mirror.token_endpoint_auth!r} is unknown. Expected one of: {', '.join(_TOKEN_ENDPOINT_AUTHS)}."
        )
    if auth == "smart" and not (mirror.client_id and (mirror.signing_private_key or mirror.signing_key_file)):
        raise ConfigurationError(
            "Mirror authentication `smart` needs client_id, and signing_key_file or signing_private_key."
        )
    if mirror.signing_private_key and mirror.signing_key_file:
        raise ConfigurationError("Both signing_private_key and signing_key_file are set: leave one of them empty.")
    if auth == "rnds" and not (mirror.token_url and mirror.requester_cns):
        raise ConfigurationError("Mirror authentication `rnds` needs the token address and the requester's CNS.")
    if auth == "rnds" and not re.fullmatch(r"[1-9][0-9]{14}", mirror.requester_cns):
        raise ConfigurationError(
            f"The requester's CNS must be 15 digits without spaces or dots; it has {len(mirror.requester_cns)} characters. "
            "It is not shown here."
        )
    if auth in {"oauth2", "smart", "rnds"} and mirror.token_url:
        _require_http("The mirror's token address", mirror.token_url)


def _require_client_certificate(mirror: MirrorSettings) -> None:
    """Raise when the client certificate is given twice, in part, or for addresses that never ask for one."""
    for text, file in (("client_certificate", "client_certificate_file"), ("client_private_key", "client_key_file")):
        if getattr(mirror, text) and getattr(mirror, file):
            raise ConfigurationError(f"Both {text} and {file} are set: leave one of them empty.")
    if mirror.client_certificate or mirror.client_certificate_file:
        if not any(urlsplit(url).scheme == "https" for url in (mirror.base_url, mirror.token_url)):
            raise ConfigurationError(
                "A client certificate is set, but neither the mirror nor its token service has an https address: it would never "
                "be used. Mend the addresses, or leave the certificate empty."
            )
        return
    for name in ("client_private_key", "client_key_file", "client_certificate_passphrase"):
        if getattr(mirror, name):
            raise ConfigurationError(
                f"{name} is set without a certificate. Set client_certificate_file or client_certificate as well."
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


def nominal_settings(
    *, switch: str, bucket: str, storage: StorageSettings, access_key: str = "", secret_key: str = ""
) -> NominalSettings | None:
    """Check and build the settings of the nominal profile; None while the switch is not `on`, whatever else is set.

    It takes a switch in the environment of the worker and a bucket of its own: nobody turns it on by one slip.
    """
    if switch not in {"", "off", "on"}:
        raise ConfigurationError(
            f"IMUNIZACAO_NOMINAL is {switch!r}. Expected on or off; see docs/dados/privacidade.md."
        )
    if switch != "on":
        return None
    if not bucket:
        raise ConfigurationError(
            "IMUNIZACAO_NOMINAL is on, but no bucket for files with identifiers is named. Set IMUNIZACAO_NOMINAL_BUCKET (in Airflow: extra "
            "`bucket` of connection imunizacao_nominal), or switch it off; see docs/dados/privacidade.md."
        )
    if bucket in {storage.work_bucket, storage.public_bucket}:
        raise ConfigurationError(
            f"The bucket for files with identifiers is {bucket!r}, which is the work or the public bucket: who reads there would read "
            "identifiers. Name a bucket of its own, or set IMUNIZACAO_NOMINAL to off; see docs/dados/privacidade.md."
        )
    if bool(access_key) != bool(secret_key):
        raise ConfigurationError(
            "Only one of access key and secret key of the nominal bucket is set. Set both, or none to use those of the pipeline."
        )
    return NominalSettings(
        bucket=bucket, access_key=access_key or storage.access_key, secret_key=secret_key or storage.secret_key
    )


def signing_settings(*, key: str = "", key_file: str = "") -> SigningSettings | None:
    """Say where the signing key is; None when there is none. What it holds is looked at when it is read."""
    if key and key_file:
        raise ConfigurationError(
            "Both the signing key and a file of it are set (IMUNIZACAO_SIGNING_KEY and IMUNIZACAO_SIGNING_KEY_FILE, or password and extra "
            "`key_file` of connection imunizacao_signing): leave one of them empty. See docs/runbook/signing-keys.md."
        )
    return SigningSettings(key=key, key_file=key_file) if key or key_file else None


def pseudonym_settings(
    *, key: str, key_id: str, previous_key: str = "", previous_key_id: str = ""
) -> PseudonymSettings:
    """Check and build the pseudonym keys. A short key can be guessed and undoes every pseudonym.

    A previous key comes with its id or not at all; neither may be that of the present key. Keys are never shown.
    """
    _require_key("pseudonym key", key, key_id)
    if bool(previous_key) != bool(previous_key_id):
        there, missing = ("id", "key") if previous_key_id else ("key", "id")
        raise ConfigurationError(
            f"A previous pseudonym {there} is set without its {missing}. Set both while keys change, and none of them otherwise; see "
            "docs/dados/privacidade.md."
        )
    if previous_key:
        _require_key("previous pseudonym key", previous_key, previous_key_id)
        if previous_key_id == key_id:
            raise ConfigurationError(
                f"Present and previous pseudonym key have the same id {key_id!r}: readers could not tell which made a value. A new key "
                "needs a new id."
            )
        if previous_key == key:
            raise ConfigurationError(
                f"Pseudonym keys {key_id!r} and {previous_key_id!r} are the same key under two ids: nothing would change but the name. Make "
                "a new key, or leave the previous one empty."
            )
    return PseudonymSettings(
        key=key.encode(), key_id=key_id, previous_key=previous_key.encode(), previous_key_id=previous_key_id
    )


def _require_key(what: str, key: str, key_id: str) -> None:
    if len(key) < 32:
        raise ConfigurationError(
            f"The {what} has {len(key)} characters, 32 or more are needed. "
            "Make one with: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    if not re.fullmatch(r"[a-z0-9-]{1,16}", key_id):
        raise ConfigurationError(f"The id {key_id!r} of the {what} must be 1–16 of a-z, 0-9 and '-'.")


def _require_http(what: str, url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets of an IPv6 address that do not match
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        shown = re.sub(r"//[^/@]*@", "//…@", url)  # an address may carry a password
        raise ConfigurationError(f"{what} {shown!r} is not an http(s) address.")
    if "@" in parts.netloc:
        raise ConfigurationError(
            f"{what} http(s)://…@{parts.netloc.rpartition('@')[2]} carries a login. Take it out of the address, which stands in messages and "
            "page logs: login and password have settings of their own; see docs/connections.md."
        )


def _number(env: Mapping[str, str], name: str, default: int, *, least: int = 1) -> int:
    text = env.get(name) or str(default)
    try:
        value = int(text)
    except ValueError as error:
        raise ConfigurationError(f"{name} {text!r} is not a whole number. {_ENV[name]}") from error
    if value < least:
        raise ConfigurationError(f"{name} must be {least} or more, not {value}.")
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

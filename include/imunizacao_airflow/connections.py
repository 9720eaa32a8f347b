"""Settings from Airflow connections. One connection per outside system, each documented in docs/connections.md."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from imunizacao.errors import ConfigurationError
from imunizacao.settings import (
    MirrorSettings,
    PseudonymSettings,
    Settings,
    StorageSettings,
    engine_settings,
    mirror_settings,
    pseudonym_settings,
    storage_settings,
)

MIRROR, STORAGE, CONTROLE, PSEUDONYM, AIRFLOW = (
    "imunizacao_mirror",
    "imunizacao_s3",
    "imunizacao_controle",
    "imunizacao_pseudonym",
    "imunizacao_airflow",
)


def mirror_from_connection(connection: Any) -> MirrorSettings:
    """Type `http`. The FHIR base is extra `base_url`, or `host` when that is a whole address, or schema + host + port + extra
    `path` (default `/fhir/r4`). Extras as the parameters of `mirror_settings`; login and password for `basic`."""
    extra = connection.extra_dejson
    host = connection.host or ""
    if extra.get("base_url"):
        base_url = str(extra["base_url"])
    elif host.startswith(("http://", "https://")):
        base_url = host
    elif host:
        port = f":{connection.port}" if connection.port else ""
        base_url = f"{connection.schema or 'https'}://{host}{port}{extra.get('path', '/fhir/r4')}"
    else:
        raise ConfigurationError(f"Airflow connection {MIRROR} has no host. Fill in the address of the FHIR mirror.")
    return mirror_settings(
        base_url=base_url,
        auth=str(extra.get("auth") or "none"),
        login=connection.login or "",
        password=connection.password or "",
        token_url=str(extra.get("token_url") or ""),
        requester_cns=str(extra.get("requester_cns") or ""),
        page_size=int(extra.get("page_size") or 500),
        max_connections=int(extra.get("max_connections") or 4),
        requests_per_second=float(extra.get("requests_per_second") or 0),
        slice_cap=int(extra.get("slice_cap") or 50_000),
        retry_budget=float(extra.get("retry_budget") or 1800),
    )


def storage_from_connection(connection: Any) -> StorageSettings:
    """Type `aws` or `generic`: login = access key, password = secret key; extra `endpoint_url`, `region`, `work_bucket`,
    `public_bucket`."""
    extra = connection.extra_dejson
    if not extra.get("endpoint_url"):
        raise ConfigurationError(
            f"Airflow connection {STORAGE} has no extra `endpoint_url`. Fill in the address of the S3 service."
        )
    return storage_settings(
        endpoint_url=str(extra["endpoint_url"]),
        access_key=connection.login or "",
        secret_key=connection.password or "",
        region=str(extra.get("region") or extra.get("region_name") or "us-east-1"),
        work_bucket=str(extra.get("work_bucket", "imunizacao-work")),
        public_bucket=str(extra.get("public_bucket", "imunizacao-public")),
    )


def pseudonym_from_connection(connection: Any) -> PseudonymSettings:
    """Type `generic`: login = key id (published), password = key (secret)."""
    return pseudonym_settings(key=connection.password or "", key_id=connection.login or "k1")


def settings_from_connections(get_connection: Callable[[str], Any]) -> Settings:
    """All settings of a run: outside systems from connections, limits of this worker from its environment."""
    return Settings(
        mirror=mirror_from_connection(get_connection(MIRROR)),
        storage=storage_from_connection(get_connection(STORAGE)),
        pseudonym=pseudonym_from_connection(get_connection(PSEUDONYM)),
        engine=engine_settings(os.environ),
    )

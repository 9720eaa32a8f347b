"""Settings from Airflow connections. One connection per outside system, each documented in docs/connections.md."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, get_type_hints

from imunizacao.errors import ConfigurationError
from imunizacao.settings import (
    MirrorSettings,
    NominalSettings,
    PseudonymSettings,
    Settings,
    SigningSettings,
    StorageSettings,
    engine_settings,
    expectations_folder,
    housekeeping_settings,
    mirror_settings,
    nominal_settings,
    pseudonym_settings,
    signing_settings,
    storage_settings,
)

MIRROR, STORAGE, CONTROLE, PSEUDONYM, AIRFLOW, ALERTS, NOMINAL = (
    "imunizacao_mirror",
    "imunizacao_s3",
    "imunizacao_controle",
    "imunizacao_pseudonym",
    "imunizacao_airflow",
    "imunizacao_alerts",
    "imunizacao_nominal",
)
SIGNING = "imunizacao_signing"
"""The key that signs published days; without it they have no signature."""
REFERENCES = "imunizacao_references"
"""Login of the server that a reference file comes from; only needed where it asks for one."""


FRESHNESS_DEADLINE = "freshness_deadline_hours"
FRESHNESS_HOURS = 6.0
MOST_FRESHNESS_HOURS = 72


def mirror_from_connection(connection: Any) -> MirrorSettings:
    """Type `fhirmirror`, `generic` or `http`. The FHIR base is extra `base_url`, or `host` when that is a whole address, or schema + host + port + extra
    `path` (default `/fhir/r4`). Login and password are those of `basic`; every other parameter of `mirror_settings` is an extra of
    the same name; `freshness_deadline_hours` is for `freshness_deadline`; an extra of another name is an error."""
    extra = connection.extra_dejson
    kinds = {name: kind for name, kind in get_type_hints(mirror_settings).items() if name != "return"}
    known = sorted((set(kinds) | {"path", FRESHNESS_DEADLINE}) - {"login", "password"})
    unknown = sorted(set(extra) - set(known))
    if unknown:
        raise ConfigurationError(
            f"Airflow connection {MIRROR} has unknown extra(s): {', '.join(unknown)}. Known are: {', '.join(known)}. "
            "See docs/connections.md."
        )
    host = connection.host or ""
    if extra.get("base_url"):
        base_url = str(extra["base_url"])
    elif host.startswith(("http://", "https://")):
        base_url = host
    elif host:
        port = f":{connection.port}" if connection.port else ""
        base_url = f"{connection.schema or 'https'}://{host}{port}{extra.get('path') or '/fhir/r4'}"
    else:
        raise ConfigurationError(f"Airflow connection {MIRROR} has no host. Fill in the address of the FHIR mirror.")
    given = {
        name: _read_extra(name, extra[name], kind)
        for name, kind in kinds.items()
        if name != "base_url" and extra.get(name) not in (None, "")
    }
    return mirror_settings(base_url=base_url, login=connection.login or "", password=connection.password or "", **given)


def _read_extra(name: str, value: object, kind: type) -> Any:
    """The value of an extra as the type of its parameter; it may be a secret and is never shown."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ConfigurationError(
            f"Extra `{name}` of Airflow connection {MIRROR} must be a text or a number, not a {type(value).__name__}. A JWK goes in "
            "as text. See docs/connections.md."
        )
    try:
        read = kind(value)
    except ValueError:
        read = None
    if read is None or (kind is int and isinstance(value, float)) or (kind is float and not 0 <= read < float("inf")):
        wanted = "a whole number" if kind is int else "a number, 0 or more"
        raise ConfigurationError(
            f"Extra `{name}` of Airflow connection {MIRROR} must be {wanted}. See docs/connections.md."
        )
    return read


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


_PREVIOUS: Final = ("previous_secret", "previous_key_id")
"""Extras of the key before. Airflow hides the first by its name, in the UI and in logs."""


def pseudonym_from_connection(connection: Any) -> PseudonymSettings:
    """Type `generic`: login = key id (published), password = key (secret); extras `previous_secret` and `previous_key_id` while
    keys change. An extra of another name is an error: a misspelt one would end the change without a word."""
    extra = connection.extra_dejson
    unknown = sorted(set(extra) - set(_PREVIOUS))
    if unknown:
        raise ConfigurationError(
            f"Airflow connection {PSEUDONYM} has unknown extra(s): {', '.join(unknown)}. Known are: {', '.join(_PREVIOUS)}. "
            "See docs/connections.md."
        )
    return pseudonym_settings(
        key=connection.password or "",
        key_id=connection.login or "k1",
        previous_key=str(extra.get("previous_secret") or ""),
        previous_key_id=str(extra.get("previous_key_id") or ""),
    )


def settings_from_connections(get_connection: Callable[[str], Any]) -> Settings:
    """All settings of a run: outside systems from connections, limits of this worker from its environment."""
    storage = storage_from_connection(get_connection(STORAGE))
    return Settings(
        mirror=mirror_from_connection(get_connection(MIRROR)),
        storage=storage,
        pseudonym=pseudonym_from_connection(get_connection(PSEUDONYM)),
        engine=engine_settings(os.environ),
        nominal=nominal_from_connection(get_connection, storage),
        signing=signing_from_connection(get_connection),
        expectations=expectations_folder(os.environ),
        housekeeping=housekeeping_settings(os.environ),
    )


def signing_from_connection(get_connection: Callable[[str], Any]) -> SigningSettings | None:
    """Type `generic`: password = the key as PEM or base64 of it (secret), or extra `key_file`. None without the connection, or while it
    has neither. An extra of another name is an error: a misspelt one would end the signing without a word."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = get_connection(SIGNING)
    except AirflowNotFoundException:
        return None
    extra = connection.extra_dejson
    unknown = sorted(set(extra) - {"key_file"})
    if unknown:
        raise ConfigurationError(
            f"Airflow connection {SIGNING} has unknown extra(s): {', '.join(unknown)}. Known is: key_file. See docs/connections.md."
        )
    return signing_settings(key=connection.password or "", key_file=str(extra.get("key_file") or ""))


def nominal_from_connection(get_connection: Callable[[str], Any], storage: StorageSettings) -> NominalSettings | None:
    """Type `generic`: extra `bucket`; login and password = keys for it, if it has an identity of its own.

    Read only while `IMUNIZACAO_NOMINAL=on` stands in the environment of the worker: who may edit connections cannot switch it on alone.
    """
    switch = os.environ.get("IMUNIZACAO_NOMINAL", "")
    connection = get_connection(NOMINAL) if switch == "on" else None
    return nominal_settings(
        switch=switch,
        bucket=str(connection.extra_dejson.get("bucket") or "") if connection else "",
        access_key=(connection.login or "") if connection else "",
        secret_key=(connection.password or "") if connection else "",
        storage=storage,
    )


def freshness_deadline(connection: Any, hours: float | None = None) -> timedelta:
    """How long a run waits for the mirror to reach the end of its day: `hours` if given, else extra `freshness_deadline_hours`, else 6."""
    value = hours if hours is not None else connection.extra_dejson.get(FRESHNESS_DEADLINE)
    try:
        chosen = FRESHNESS_HOURS if value in (None, "") else float(value)
    except (TypeError, ValueError):
        chosen = -1.0
    if not 0 <= chosen <= MOST_FRESHNESS_HOURS:
        raise ConfigurationError(
            f"{FRESHNESS_DEADLINE} of Airflow connection {MIRROR} or of the run is {value!r}. Expected hours from 0 to "
            f"{MOST_FRESHNESS_HOURS}."
        )
    return timedelta(hours=chosen)

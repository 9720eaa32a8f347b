"""Reference files for the DAGs: the inbox or an address, and what is said of them in notes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from imunizacao.errors import ConfigurationError, ContractViolation, StorageUnavailable
from imunizacao.events import log_event
from imunizacao_airflow.connections import REFERENCES
from imunizacao_airflow.tasks import answer

if TYPE_CHECKING:
    from imunizacao.controle import Difference
    from imunizacao.pipeline import Services
    from imunizacao.reference import Affected, Imported, Refreshed

_MOST_BYTES: Final = 4 << 30
_SECONDS: Final = 60
_LOCAL: Final = ("127.0.0.1", "localhost", "::1")
_ONE = {
    "added": "a mais",
    "gone": "a menos",
    "moved": "em outro município",
    "closed": "desativados",
    "reopened": "reativados",
    "renamed": "com outro nome",
}


def refresh(services: Services, params: Mapping[str, Any], get_connection: Callable[[str], Any]) -> Refreshed:
    """Import the file that the params name, or else every file of the inbox."""
    from imunizacao.controle import migrate
    from imunizacao.reference import Refreshed, Refused, import_inbox, import_reference
    from imunizacao.reference.common import scratch
    from imunizacao.reference_day import ReferenceDay

    address = str(params.get("file") or "")
    if services.connect is None:
        raise ConfigurationError(
            "Reference versions are kept in PostgreSQL: connection imunizacao_controle is missing."
        )
    alone = [name for name in ("force", "valid_from") if params.get(name)]
    if alone and not address:
        raise ConfigurationError(
            f"`{alone[0]}` is for one file whose content you know. Name it (`file`), or start the run without `{alone[0]}`."
        )
    connection = services.connect()
    try:
        migrate(connection)
        if not address:
            return import_inbox(services.work, connection, engine=services.settings.engine)
        with scratch(services.settings.engine) as (_, folder):
            path, name = fetch(address, folder, get_connection)
            try:
                found = import_reference(
                    path,
                    connection,
                    kind=params.get("kind") or None,
                    force=bool(params.get("force")),
                    competencia=str(params.get("competencia") or ""),
                    table=str(params.get("table") or ""),
                    version=str(params.get("version") or ""),
                    valid_from=ReferenceDay.parse(params["valid_from"]).value if params.get("valid_from") else None,
                    file_name=name,
                    engine=services.settings.engine,
                )
            except (ContractViolation, ConfigurationError) as error:
                return Refreshed(refused=[Refused(file=name, message=str(error))])
            return Refreshed(imported=found)
    finally:
        connection.close()


def fetch(address: str, folder: Path, get_connection: Callable[[str], Any]) -> tuple[Path, str]:
    """The file at an address (`https://…`, or a path that the worker sees) and its name. Plain http only from this machine."""
    parts = urlsplit(address)
    if parts.scheme in ("", "file"):
        path = Path(parts.path)
        if not path.is_absolute() or not path.is_file():
            raise ConfigurationError(
                f"Reference file {address} is not there for this worker. Give a full path that every worker sees, or put the file into "
                "the inbox; see docs/runbook/reference-import.md."
            )
        return path, path.name
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
        raise ConfigurationError(
            f"Reference files come over https or from a path, not {parts.scheme}://. Change the address."
        )
    if parts.username or parts.password:
        raise ConfigurationError(f"Login and password belong into the connection {REFERENCES}, not into the address.")
    name = Path(parts.path).name or "file"
    target = folder / "fetched"
    _download(address, target, _login(get_connection))
    return target, name


def _login(get_connection: Callable[[str], Any]) -> tuple[str, str] | None:
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = get_connection(REFERENCES)
    except AirflowNotFoundException:
        return None
    return (connection.login, connection.password or "") if connection.login else None


def _download(address: str, target: Path, login: tuple[str, str] | None) -> None:
    import httpx

    shown = address.split("?", 1)[0]
    try:
        with (
            httpx.Client(timeout=_SECONDS, auth=login, follow_redirects=False) as client,
            client.stream("GET", address) as answer,
            target.open("wb") as out,
        ):
            if answer.status_code >= 500 or answer.status_code == 429:
                raise StorageUnavailable(
                    f"{shown} answered HTTP {answer.status_code}. Nothing was stored; it is tried again."
                )
            if answer.status_code != 200:
                raise ConfigurationError(
                    f"{shown} answered HTTP {answer.status_code}, expected 200. Nothing was stored. Check the address (a redirect is "
                    f"not followed) and the connection {REFERENCES}."
                )
            size = 0
            for block in answer.iter_bytes(1 << 20):
                size += len(block)
                if size > _MOST_BYTES:
                    raise ContractViolation(
                        f"{shown} sends more than {_MOST_BYTES} bytes. Nothing was stored. Check the address."
                    )
                out.write(block)
    except httpx.HTTPError as error:
        raise StorageUnavailable(
            f"{shown} cannot be read ({type(error).__name__}). Nothing was stored; it is tried again."
        ) from error
    log_event("reference.fetched", address=shown, bytes=size)


def refresh_note(done: Refreshed) -> str:
    """Note of a run: one part per file."""
    parts = [_imported(found) for found in done.imported]
    parts += [f"{refused.file} recusado" for refused in done.refused]
    return " · ".join(parts) or "nada a importar"


def _imported(found: Imported) -> str:
    from imunizacao.reference import CnesImport

    if isinstance(found, CnesImport):
        what = f"CNES {found.competencia}: {_thousands(found.rows)} estabelecimentos"
    elif found.kind == "ibge":
        what = f"IBGE {found.version}: {_thousands(found.rows)} municípios"
    else:
        what = f"PNI {found.name} {found.version}: {_thousands(found.rows)} códigos"
    if not found.stored:
        return f"{what}, já importado"
    if found.difference is None:
        return f"{what}, primeira versão"
    previous = "a tabela do projeto" if found.previous == "project" else found.previous
    return f"{what}; em relação a {previous}: {difference_text(found.difference)}"


def difference_text(difference: Difference) -> str:
    """Counts that are not zero, in Portuguese."""
    counts = [f"{_thousands(count)} {_ONE[name]}" for name, count in asdict(difference).items() if count]
    return ", ".join(counts) or "sem mudanças"


def find_days(services: Services, params: Mapping[str, Any]) -> Affected:
    """The published days that CNES `to` changes against `from`."""
    from imunizacao.reference_day import ReferenceDay
    from imunizacao.republish import find_affected

    answer(params)  # refused here, before any day is looked for
    if not params.get("from") or not params.get("to"):
        raise ConfigurationError("Name both CNES snapshots in the form of the run: `from` and `to`, AAAAMM or #id.")
    first, last = (ReferenceDay.parse(params[name]).value if params.get(name) else None for name in ("first", "last"))
    return find_affected(services, earlier=params["from"], later=params["to"], first=first, last=last)


def remake(services: Services, affected: Mapping[str, str], params: Mapping[str, Any], run_id: str) -> str:
    """Make one day again; JSON with what became of it."""
    from imunizacao import pipeline
    from imunizacao.models import to_json
    from imunizacao.republish import remake as remake_one

    result = remake_one(services, affected["day"], cnes=affected["cnes"], run_id=run_id, **answer(params))
    log_event("reference.day_remade", day=affected["day"], note=pipeline.run_note(result.published, result.validated))
    return to_json(
        {
            "day": affected["day"],
            "outcome": result.published.outcome,
            "revision": result.published.revision,
            "cnes": affected["cnes"],
        }
    )


def affected_note(found: Affected, *, dry_run: bool) -> str:
    """Note of a run that looked for affected days."""
    doses = _thousands(sum(day.doses for day in found.days))
    text = f"CNES {found.earlier} → {found.later}: {len(found.days)} de {found.checked} dias afetados, {doses} doses"
    if found.without_index:
        text += f"; {len(found.without_index)} dias sem índice de lugares"
    return f"{text}; nada foi refeito (dry_run)" if dry_run else text


def remade_note(remade: list[str]) -> str:
    """Note of a run that made days again, from what `remake` told of each."""
    found = [json.loads(text) for text in remade]
    revised = sorted(day["day"] for day in found if day["outcome"] == "published")
    text = f"{len(found)} dias refeitos, {len(revised)} com nova revisão"
    return f"{text}: {', '.join(revised[:5])}{' e outros' if len(revised) > 5 else ''}" if revised else text


def log_affected(found: Affected) -> None:
    """One line per affected day in the log of the task."""
    log = logging.getLogger("imunizacao")
    for day in found.days:
        log.info("%s: %d doses, %d establishments %s", day.day, day.doses, day.establishments, day.doses_by_change)


def _thousands(value: int) -> str:
    return f"{value:,}".replace(",", ".")

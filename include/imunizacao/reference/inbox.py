"""Reference files that somebody put into the work bucket: imported, then kept under the name of their content."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from imunizacao.controle import Connection, Kind
from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.events import log_event
from imunizacao.reference.common import scratch
from imunizacao.reference.importing import Imported, import_reference
from imunizacao.settings import EngineSettings
from imunizacao.storage import ObjectStore, file_sha256

INBOX: Final = "v1/inbox/references/"
"""Of the work bucket; below it a folder per kind: `cnes/`, `ibge/`, `pni/`."""
KEPT: Final = "v1/references/files/"
_ORDER: Final[tuple[Kind, ...]] = ("ibge", "pni", "cnes")
"""A CNES file is read with the newest municipalities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A file that was not imported, and stays where it is."""

    file: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What became of the files."""

    imported: list[Imported] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def to_json(self) -> str:
        """Text for XCom: names of files, versions and counts only."""
        return msgspec.json.encode(self).decode()


def import_inbox(work: ObjectStore, connection: Connection, *, engine: EngineSettings | None = None) -> Refreshed:
    """Import every file of the inbox: IBGE, then PNI, then CNES, by name.

    An imported file is kept below `v1/references/files/` under its sha256 and leaves the inbox. A file that is refused stays
    where it is and does not stop the others. A store or database that does not answer ends the import; run it again.
    """
    done = Refreshed()
    for kind in _ORDER:
        for info in list(work.list(f"{INBOX}{kind}/")):
            name = info.key.rsplit("/", 1)[-1]
            if not name:
                continue
            try:
                with scratch(engine) as (_, folder):
                    path = folder / "received"
                    work.download(info.key, path)
                    done.imported.extend(import_reference(path, connection, kind=kind, file_name=name, engine=engine))
                    _keep(work, kind, name, path)
            except (ContractViolation, ConfigurationError) as error:
                done.refused.append(Refused(file=f"{kind}/{name}", message=str(error)))
                log_event("reference.refused", kind=kind, file=name, error=type(error).__name__)
                continue
            work.delete(info.key)
    return done


def require_accepted(done: Refreshed) -> None:
    """Fail when a file was refused: `ContractViolation` with what each of them is refused for."""
    if done.refused:
        reasons = " ".join(f"{refused.file}: {refused.message}" for refused in done.refused)
        raise ContractViolation(
            f"{len(done.refused)} reference file(s) refused, {len(done.imported)} imported. {reasons} What was in use stays in use."
        )


def _keep(work: ObjectStore, kind: Kind, name: str, path: Path) -> None:
    sha256 = file_sha256(path)
    safe = re.sub(r"[^A-Za-z0-9._-]", "-", name).strip(".-") or "file"
    work.put_file(f"{KEPT}{kind}/{sha256[:12]}-{safe}", path, sha256=sha256)

"""Any reference file: which kind it is, and its import."""

from __future__ import annotations

import zipfile
from datetime import date
from pathlib import Path

from imunizacao.controle import Connection, Kind
from imunizacao.errors import ConfigurationError
from imunizacao.reference.cnes import CnesImport, import_cnes
from imunizacao.reference.code_system import looks_like_json
from imunizacao.reference.common import TableImport
from imunizacao.reference.ibge import import_ibge
from imunizacao.reference.pni import import_pni
from imunizacao.settings import EngineSettings

Imported = CnesImport | TableImport


def import_reference(
    source: Path,
    connection: Connection | None = None,
    *,
    kind: Kind | None = None,
    force: bool = False,
    competencia: str = "",
    table: str = "",
    version: str = "",
    valid_from: date | None = None,
    file_name: str = "",
    engine: EngineSettings | None = None,
) -> list[Imported]:
    """Import a file of any kind; see `import_cnes`, `import_ibge` and `import_pni` for what each refuses.

    `competencia` is for the CNES, `table` for the PNI, `version` and `valid_from` for IBGE and PNI.
    """
    kind = kind or guess_kind(source, file_name)
    if kind == "cnes" and valid_from is not None:
        raise ConfigurationError("A CNES file is in force from its competência on: give --competencia, no other date.")
    if kind == "cnes":
        return [
            import_cnes(source, connection, force=force, competencia=competencia, file_name=file_name, engine=engine)
        ]
    if kind == "ibge":
        return [
            import_ibge(
                source,
                connection,
                force=force,
                version=version,
                valid_from=valid_from,
                file_name=file_name,
                engine=engine,
            )
        ]
    return list(
        import_pni(
            source,
            connection,
            force=force,
            table=table,
            version=version,
            valid_from=valid_from,
            file_name=file_name,
            engine=engine,
        )
    )


def guess_kind(source: Path, file_name: str = "") -> Kind:
    """Tell by name and first bytes what a file is; `ConfigurationError` when that does not say."""
    name = (file_name or source.name).lower()
    if not source.is_file():
        raise ConfigurationError(f"Reference file {source} is not there. Give the path of the file to import.")
    if looks_like_json(source) or name.startswith("pni_"):
        return "pni"
    if zipfile.is_zipfile(source) or "cnes" in name or name.startswith("tbestabelecimento"):
        return "cnes"
    if "ibge" in name or "municipio" in name:
        return "ibge"
    raise ConfigurationError(f"{name} does not say what it is. Give the kind (--kind): cnes, ibge or pni.")

"""CNES snapshots that know more than the shipped one."""

from __future__ import annotations

import zipfile
from pathlib import Path

from imunizacao.paths import REFERENCE

SNAPSHOT = REFERENCE / "cnes" / "BASE_DE_DADOS_CNES_202602.ZIP"


def snapshot_with(known: set[str], competencia: str, folder: Path) -> Path:
    """The shipped CNES, a month later, with more establishments, all of them in Recife."""
    with zipfile.ZipFile(SNAPSHOT) as archive:
        text = archive.read(archive.namelist()[0]).decode("latin-1")
    header, first = text.split("\r\n")[:2]
    columns = [name.strip('"') for name in header.split(";")]
    lines = []
    for cnes in sorted(known):
        values = dict(zip(columns, first.split(";"), strict=True))
        values |= {"CO_UNIDADE": f'"261160{cnes}"', "CO_CNES": f'"{cnes}"', "CO_MUNICIPIO_GESTOR": '"261160"'}
        values["CO_MOTIVO_DESAB"] = '""'
        lines.append(";".join(values[name] for name in columns) + "\r\n")
    path = folder / f"BASE_DE_DADOS_CNES_{competencia}.ZIP"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"tbEstabelecimento{competencia}.csv", (text + "".join(lines)).encode("latin-1"))
    return path

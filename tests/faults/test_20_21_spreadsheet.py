"""A published CSV in a real spreadsheet program: zeros and accents stay, no cell becomes a formula."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

import pytest

from tests.faults.hostile import CONTRACT, STARTS, TEXTS, split_rows
from tests.unit.test_split import row

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
_AS_TEXT: Final = "CSV:59,34,76,1,,0,true,false"
""";, ", UTF-8, from line 1, quoted fields are text: what the contract of publication tells people to choose."""
_DEFAULT: Final = "CSV:59,34,76,1"
"""The same file opened without a thought."""
_TABLE: Final = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_TEXT: Final = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
LOTS: Final = (
    "0007",
    "000123456",
    "1e5",
    "10-11",
    "Imunização ç ã é",
    '=HYPERLINK("http://x")',
    "+1",
    "-1+1",
    "@SUM(A1)",
    "＝1+1",
)


def _open(path: Path, how: str) -> tuple[list[list[str]], list[str]]:
    """Cells as the program shows them, and the formulas that it made."""
    soffice = shutil.which("soffice")
    if soffice is None:
        pytest.skip("no LibreOffice on this machine: apt-get install --no-install-recommends libreoffice-calc")
    profile = f"-env:UserInstallation=file://{path.parent}/profile"
    command = [
        soffice,
        profile,
        "--headless",
        f"--infilter={how}",
        "--convert-to",
        "fods",
        "--outdir",
        str(path.parent),
    ]
    subprocess.run([*command, str(path)], check=True, capture_output=True, timeout=600)
    root = ElementTree.parse(path.with_suffix(".fods")).getroot()  # noqa: S314 - the program's own output
    rows, formulas = [], []
    for line in root.iter(f"{_TABLE}table-row"):
        cells: list[str] = []
        for cell in line.iter(f"{_TABLE}table-cell"):
            if f"{_TABLE}formula" in cell.attrib:
                formulas.append(cell.attrib[f"{_TABLE}formula"])
            text = "\n".join("".join(part.itertext()) for part in cell.iter(f"{_TEXT}p"))
            cells += [text] * int(cell.attrib.get(f"{_TABLE}number-columns-repeated", "1"))
        rows.append(cells)
    return rows, formulas


@pytest.mark.parametrize("how", [_AS_TEXT, _DEFAULT])
def test_a_published_csv_opens_in_a_spreadsheet(tmp_path: Path, how: str) -> None:
    rows = [row(number) | dict.fromkeys(TEXTS, lot) for number, lot in enumerate(LOTS)]
    outcome = split_rows(rows, tmp_path / "split")
    path = tmp_path / "imunizacao-total-sp_2026-03-14.csv"
    path.write_bytes(outcome.cuts.header.encode() + outcome.body.read_bytes())
    (header, *lines), formulas = _open(path, how)
    assert formulas == []
    assert tuple(header[: len(CONTRACT.names)]) == CONTRACT.names
    at = CONTRACT.names.index("co_lote_vacina")
    shown = [line[at] for line in lines[: len(LOTS)]]
    assert [text for text in shown if "Imuniza" in text] == ["Imunização ç ã é"]
    if how == _AS_TEXT:
        assert shown == [f"'{lot}" if lot.startswith(STARTS) else lot for lot in LOTS]
        assert lines[0][CONTRACT.names.index("co_dose_vacina")] == "1"
        assert lines[0][CONTRACT.names.index("dt_vacina")] == "2026-03-10"

"""The two official files of establishments: which table of a zip, which month, which encoding, and only the columns that are needed."""

from __future__ import annotations

import codecs
import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from imunizacao.errors import ConfigurationError, ContractViolation

MONTHLY_COLUMNS: Final = (
    "CO_UNIDADE",
    "CO_CNES",
    "NO_RAZAO_SOCIAL",
    "NO_FANTASIA",
    "TP_UNIDADE",
    "CO_MUNICIPIO_GESTOR",
    "CO_MOTIVO_DESAB",
    "CO_NATUREZA_JUR",
)
"""Of `tbEstabelecimentoAAAAMM.csv` (monthly base, DATASUS): the only columns that are read. CPF, addresses, telephones and e-mails
are skipped before anything is written."""
OPEN_COLUMNS: Final = (
    "CO_UNIDADE",
    "CO_CNES",
    "NO_RAZAO_SOCIAL",
    "NO_FANTASIA",
    "TP_UNIDADE",
    "CO_IBGE",
    "CO_MOTIVO_DESAB",
    "CO_NATUREZA_JUR",
)
"""Of `cnes_estabelecimentos.csv` (open data): it states the municipality, 6 digits, where the monthly base has the manager's."""
_PROJECTED: Final = (*MONTHLY_COLUMNS, "CO_IBGE")
"""What is handed on, in this order; a column that a file does not have is empty."""

_OPEN_MEMBER = re.compile(r"(?:.*/)?cnes_estabelecimentos[^/]*\.csv", re.IGNORECASE)
_MONTHLY_MEMBER = re.compile(r"(?:.*/)?tbEstabelecimento(?P<competencia>[0-9]{6})\.csv", re.IGNORECASE)
COMPETENCIA_IN_NAME = re.compile(r"(?<![0-9])(?P<competencia>[0-9]{6})(?=\.(?:zip|csv)$)", re.IGNORECASE)
COMPETENCIA = re.compile(r"[12][0-9]{3}(?:0[1-9]|1[0-2])")
_MEMBER_LIMIT = 4 << 30
_BLOCK = 1 << 20
_ASCII = bytes(range(128))
_C1 = frozenset(range(0x80, 0xA0))
_NOT_IN_CP1252 = frozenset({0x81, 0x8D, 0x8F, 0x90, 0x9D})
_UTF8_PAIR = re.compile(rb"[\xc2\xc3][\x80-\xbf]")


@dataclass(frozen=True, slots=True, kw_only=True)
class CnesContent:
    """The table inside a file."""

    competencia: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]


def open_cnes(path: Path, name: str, competencia: str) -> CnesContent:
    """Find the table inside the file, and its competência: given, in the name of the file, or in the name of the member."""
    if competencia and not COMPETENCIA.fullmatch(competencia):
        raise ConfigurationError(f"Competência {competencia!r} is not AAAAMM, for example 202602.")
    in_name = COMPETENCIA_IN_NAME.search(name)
    named = {competencia, in_name["competencia"] if in_name else ""} - {""}
    try:
        zipped = zipfile.is_zipfile(path)
        members = _members(path) if zipped else []
    except zipfile.BadZipFile as error:
        raise ContractViolation(f"CNES file {name} is a damaged zip. Download it again.") from error
    except OSError as error:
        raise ConfigurationError(
            f"CNES file {name} cannot be opened ({type(error).__name__}). Check its path."
        ) from error
    if zipped:
        chosen = [
            member
            for member in members
            if _member_competencia(member) in ("", competencia or _member_competencia(member))
        ]
        if len(chosen) != 1:
            raise ContractViolation(
                f"CNES file {name} has {len(chosen)} members tbEstabelecimentoAAAAMM.csv{' of ' + competencia if competencia else ''} "
                "or cnes_estabelecimentos.csv, expected one. Use BASE_DE_DADOS_CNES_AAAAMM.ZIP of the DATASUS, or the zip of the "
                "open data."
            )
        member = chosen[0]
        if member.file_size > _MEMBER_LIMIT:
            raise ContractViolation(
                f"Member {member.filename} of {name} announces {member.file_size} bytes, at most {_MEMBER_LIMIT} are read."
            )
        named |= {_member_competencia(member)} - {""}
    if len(named) != 1 or not COMPETENCIA.fullmatch(next(iter(named))):
        raise ContractViolation(
            f"The competência of CNES file {name} is {' or '.join(sorted(named)) or 'not in its name'}, expected one AAAAMM. "
            "Keep the official name of the file, or say which month it is (the file of the open data does not: --competencia AAAAMM)."
        )
    return CnesContent(
        competencia=next(iter(named)),
        open=(lambda: _open_member(path, member.filename)) if zipped else (lambda: path.open("rb")),
    )


def _members(path: Path) -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(path) as archive:
        patterns = (_MONTHLY_MEMBER, _OPEN_MEMBER)
        return [member for member in archive.infolist() if any(name.fullmatch(member.filename) for name in patterns)]


def _member_competencia(member: zipfile.ZipInfo) -> str:
    match = _MONTHLY_MEMBER.fullmatch(member.filename)
    return match["competencia"] if match else ""


@contextmanager
def _open_member(path: Path, name: str) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive, archive.open(name) as member:
        yield member


def detect_encoding(open_content: Callable[[], AbstractContextManager[IO[bytes]]]) -> str:
    """`utf-8` when the whole file is; else `cp1252` or `latin-1` by the bytes 0x80–0x9F. A mixture is refused."""
    decoder: codecs.IncrementalDecoder | None = codecs.getincrementaldecoder("utf-8")()
    high: Counter[int] = Counter()
    pairs = 0
    with open_content() as content:
        while block := content.read(_BLOCK):
            if decoder is not None:
                try:
                    decoder.decode(block)
                except UnicodeDecodeError:
                    decoder = None
            high.update(block.translate(None, _ASCII))
            pairs += len(_UTF8_PAIR.findall(block))
    if decoder is not None:
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            decoder = None
    if decoder is not None:
        return "utf-8"
    if 2 * pairs > high.total() / 2:
        raise ContractViolation(
            f"The CNES file mixes encodings: {pairs} letters are UTF-8, and other bytes are not. Nothing was stored. "
            "Use the file as the DATASUS publishes it, not one that was edited or joined."
        )
    seen = frozenset(high)
    return "cp1252" if seen & _C1 and not seen & _NOT_IN_CP1252 else "latin-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """What was read."""

    records: int
    unreadable: int


def project_columns(
    open_content: Callable[[], AbstractContextManager[IO[bytes]]], encoding: str, target: Path
) -> Projection:
    """Write the needed columns, in our order, as UTF-8. All other columns end here, unread."""
    records = unreadable = 0
    codec = "utf-8-sig" if encoding == "utf-8" else encoding
    with (
        open_content() as content,
        io.TextIOWrapper(content, encoding=codec, newline="") as text,
        target.open("w", encoding="utf-8", newline="") as out,
    ):
        reader = csv.reader(text, delimiter=";", strict=True)
        header = [column.strip().upper() for column in next(reader, [])]
        wanted = OPEN_COLUMNS if "CO_IBGE" in header else MONTHLY_COLUMNS
        missing = [column for column in wanted if header.count(column) != 1]
        if missing:
            raise ContractViolation(
                f"The CNES file lacks (or repeats) {', '.join(missing)}; it has {len(header)} columns. Nothing was stored. "
                "Expected: tbEstabelecimentoAAAAMM.csv of the monthly base or cnes_estabelecimentos.csv of the open data, `;` "
                "between columns, names in the first line."
            )
        positions = [header.index(column) if column in wanted else len(header) for column in _PROJECTED]
        writer = csv.writer(out, delimiter=";", quoting=csv.QUOTE_ALL, lineterminator="\n")
        line = reader.line_num
        while True:
            try:
                row = next(reader, None)
            except csv.Error:
                row = ["unreadable"]
            if row is None:
                break
            if len(row) == len(header):
                records += 1
                row.append("")  # of the columns that this file does not have
                writer.writerow([row[position] for position in positions])
            elif row:  # a blank line is nothing
                unreadable += reader.line_num - line
            line = reader.line_num
    return Projection(records=records, unreadable=unreadable)

"""FHIR R4 CodeSystems as tables of the PNI: which CodeSystem fills which table, and which element fills which column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from imunizacao.errors import ContractViolation
from imunizacao.reference.common import Row, clean_text, some


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """How a CodeSystem fills a table. The code fills the first column."""

    table: str
    display: str
    """Column."""
    definition: str = ""
    """Column; empty: not used."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """Code of a property → column."""
    width: int = 0
    """Codes get zeros in front up to it, as flatten gives them to those of documents; 0: they stay as they are."""


CODE_SYSTEMS: Final[Mapping[str, Mapped]] = {
    "BRImunobiologico": Mapped(
        table="imunobiologico",
        display="sg_vacina",
        definition="ds_vacina",
        properties={"Name": "no_vacina", "Category": "no_categoria"},
    ),
    "BRDose": Mapped(table="dose", display="ds_dose_vacina", definition="sg_dose_vacina"),
    "BREstrategiaVacinacao": Mapped(table="estrategia_vacinacao", display="ds_estrategia_vacinacao"),
    "BRGrupoAtendimento": Mapped(
        table="grupo_atendimento",
        display="ds_vacina_grupo_atendimento",
        properties={"Category": "ds_vacina_categoria_atendimento"},
    ),
    "BRFabricantePNI": Mapped(table="fabricante", display="sg_vacina_fabricante", definition="ds_vacina_fabricante"),
    "BRLocalAplicacao": Mapped(table="local_aplicacao", display="ds_local_aplicacao"),
    "BRViaAdministracao": Mapped(table="via_administracao", display="ds_via_administracao"),
    "BRCondicaoMaternal": Mapped(table="condicao_maternal", display="ds_condicao_maternal"),
    "BRRegistroOrigem": Mapped(table="origem_registro", display="ds_origem_registro", width=2),
    "BRPais": Mapped(table="pais", display="no_pais"),
    "BRRacaCor": Mapped(table="raca_cor", display="no_raca_cor_paciente"),
    "BREtniaIndigena": Mapped(table="etnia_indigena", display="no_etnia_indigena_paciente"),
    "BRTipoEstabelecimentoSaude": Mapped(table="tipo_estabelecimento", display="ds_tipo_estabelecimento"),
    "BRNacionalidade": Mapped(table="nacionalidade", display="no_nacionalidade"),
}
"""By the last part of the CodeSystem's URL, in either URI family of the RNDS. As the guide RIA 1.0.0-release (commit 9ecfc2c) and the
national terminology package 1.1.0 write them; see include/reference/SOURCES.md."""

_ACTIVE: Final = "st_ativo"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeSystem:
    """One CodeSystem of a file."""

    table: str
    version: str
    mapped: Mapped
    rows: list[Row]
    """Only the columns that the CodeSystem gives; the code is under `code`."""


def looks_like_json(path: Path) -> bool:
    """Whether a file begins as a JSON object does."""
    with path.open("rb") as content:
        return content.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"


def read_code_systems(path: Path, name: str, table: str = "") -> list[CodeSystem]:
    """The CodeSystems of a JSON file, each for a table of ours; `table` says it where the CodeSystem's own name does not.

    A Bundle may hold other resources and CodeSystems of no table of ours: they are left out. A file without any that is ours,
    a fragment or a supplement (`content`), or two for one table are a `ContractViolation`.
    """
    try:
        resource = msgspec.json.decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ContractViolation(
            f"{name} is not valid JSON ({error}). Nothing was stored. Download it again."
        ) from error
    found = list(_code_systems(resource))
    known = [
        _read(system, mapped, name)
        for system in found
        if (mapped := _mapped(system, table, alone=len(found) == 1)) is not None
    ]
    if not known:
        seen = some([str(system.get("url") or system.get("name")) for system in found]) or "none"
        raise ContractViolation(
            f"{name} has no CodeSystem of a PNI table (CodeSystems in it: {seen}). Nothing was stored. Known are: "
            f"{', '.join(CODE_SYSTEMS)}. Another name: say which table it is (--table)."
        )
    tables = [system.table for system in known]
    if len(set(tables)) != len(tables):
        raise ContractViolation(
            f"{name} has two CodeSystems for one table ({some(sorted(tables))}). Nothing was stored."
        )
    return known


def fill_rows(system: CodeSystem, columns: Sequence[str], before: Mapping[str, Row]) -> list[Row]:
    """Rows with all columns of the table: what the CodeSystem does not say of a code stays as it is in the table in use."""
    filled = []
    for row in system.rows:
        code = row["code"]
        filled.append(
            {**dict.fromkeys(columns, ""), **before.get(code, {}), **_own_columns(row, columns), columns[0]: code}
        )
    return filled


def _own_columns(row: Row, columns: Sequence[str]) -> Row:
    return {column: value for column, value in row.items() if column in columns}


def _code_systems(resource: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(resource, dict):
        return
    if resource.get("resourceType") == "CodeSystem":
        yield resource
    if resource.get("resourceType") == "Bundle":
        for entry in _list(resource, "entry"):
            yield from _code_systems(entry.get("resource"))


def _mapped(system: Mapping[str, Any], table: str, *, alone: bool) -> Mapped | None:
    if table and alone:
        return next((mapped for mapped in CODE_SYSTEMS.values() if mapped.table == table), None)
    tail = str(system.get("url", "")).split("|", 1)[0].rstrip("/").rsplit("/", 1)[-1]
    return next(
        (CODE_SYSTEMS[key] for key in (tail, str(system.get("name")), str(system.get("id"))) if key in CODE_SYSTEMS),
        None,
    )


def _read(system: Mapping[str, Any], mapped: Mapped, name: str) -> CodeSystem:
    content = system.get("content", "complete")
    if content != "complete":
        raise ContractViolation(
            f"CodeSystem {system.get('name')} of {name} has content {content!r}: it is not the whole list. Nothing was stored. Ask the "
            "terminology server for the complete CodeSystem."
        )
    rows: list[Row] = []
    for concept in _concepts(system):
        code, display = concept.get("code"), concept.get("display")
        if not isinstance(code, str):
            raise ContractViolation(
                f"CodeSystem {system.get('name')} of {name} has a concept without code. Nothing was stored."
            )
        row = {"code": code.zfill(mapped.width) if code.isdecimal() else code, _ACTIVE: "S"}
        if isinstance(display, str):
            row[mapped.display] = display
        if mapped.definition and isinstance(concept.get("definition"), str):
            row[mapped.definition] = concept["definition"]
        for item in _list(concept, "property"):
            value = next((item[key] for key in item if key.startswith("value")), None)
            if _inactive(item.get("code"), value):
                row[_ACTIVE] = "N"
            elif (column := mapped.properties.get(str(item.get("code")))) and isinstance(value, str):
                row[column] = value
        rows.append(
            {column: " ".join(clean_text(text).split()) if column != "code" else text for column, text in row.items()}
        )
    return CodeSystem(table=mapped.table, version=str(system.get("version") or ""), mapped=mapped, rows=rows)


def _concepts(holder: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every concept, a nested one after the one that holds it. A concept that only groups others (`notSelectable`) is no code."""
    for concept in _list(holder, "concept"):
        if not any(
            item.get("code") == "notSelectable" and item.get("valueBoolean") is True
            for item in _list(concept, "property")
        ):
            yield concept
        yield from _concepts(concept)


def _inactive(code: Any, value: Any) -> bool:
    """Both ways that FHIR knows: `inactive` (boolean) and `status` (code)."""
    return (code == "inactive" and value is True) or (code == "status" and value in ("retired", "inactive"))


def _list(holder: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = holder.get(key)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

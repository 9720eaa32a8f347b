"""Immunization documents as Python dicts, in the five shapes that the RNDS has used, and landing files made of them.

Shapes and paths: implementation guide of the RIA (`br.gov.saude.ria.fhir`) for the routine and campaign profiles, and the
unofficial definitions of the legacy load (Carga). Everything is seeded; nobody in here exists.
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow

from imunizacao.flatten import _PNI_TABLES, run_flatten
from imunizacao.paths import REFERENCE
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings, PseudonymSettings
from imunizacao.sql import open_engine

Json = dict[str, Any]
Kind = Literal["routine", "routine-1", "campaign", "campaign-1", "load"]
KINDS: tuple[Kind, ...] = ("routine", "routine-1", "campaign", "campaign-1", "load")

DAY = ReferenceDay.parse("2026-03-14")
PSEUDONYM = PseudonymSettings(key=b"a key that is used in tests and nowhere else", key_id="t1")
BASE = "http://www.saude.gov.br/fhir/r4/"
HOST = "https://mirror.example.org/fhir/r4/"

CNES = {
    # CNES: municipality, name. One establishment has no municipality; DF counts as one municipality.
    "2077485": ("355030", "UBS VILA DA SERRA"),
    "0000123": ("530010", "CENTRO DE SAÚDE Nº 1"),
    "2000733": ("120040", "UNIDADE MISTA"),
    "3000001": ("110001", "POSTO DA LINHA 47"),
    "7654321": (None, "SEM MUNICÍPIO"),
}

_PROFILES: dict[Kind, tuple[str, str]] = {
    "routine": ("BRRegistroImunobiologicoAdministradoRotina-2.0", "BRImunobiologicoAdministrado-3.0"),
    "routine-1": ("BRRegistroImunobiologicoAdministradoRotina-1.0", "BRImunobiologicoAdministrado-2.0"),
    "campaign": (
        "BRRegistroImunobiologicoAdministradoCampanha-2.0",
        "BRImunobiologicoAdministradoCampanha-2.0",
    ),
    "campaign-1": (
        "BRRegistroImunobiologicoAdministradoCampanha-1.0",
        "BRImunobiologicoAdministradoCampanha-1.0",
    ),
    "load": ("BRRegistroImunobiologicoAdministradoCarga-1.0", "BRImunobiologicoAdministradoCarga-1.0"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody invented. `secrets` lists every text about them that must not leave flatten."""

    identifier: str
    name: str
    birth: str
    cep: str
    professional: str
    local_id: str

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that no output may hold, in the forms in which documents carry them."""
        digits = "".join(character for character in self.identifier if character.isdigit())
        return (
            self.identifier,
            digits,
            self.name,
            self.birth,
            self.birth.replace("-", ""),
            self.cep,
            self.cep.replace("-", ""),
            self.professional,
            self.local_id,
        )


def invent_person(rng: random.Random) -> Person:
    """Invent a person with a CNS or a CPF (sometimes punctuated, sometimes with wrong check digits)."""
    kind = rng.choice(["cns", "cns", "cpf", "cpf-punctuated"])
    digits = "".join(rng.choices("0123456789", k=15 if kind == "cns" else 11))
    if kind == "cns":
        digits = rng.choice("12789") + digits[1:]
    identifier = digits
    if kind == "cpf-punctuated":
        identifier = f"{digits[:3]}.{digits[3:6]}.{digits[6:9]}-{digits[9:]}"
    cep = f"{rng.randrange(10**7, 10**8)}"
    return Person(
        identifier=identifier,
        name=f"Fulana {rng.choice(['Beltrana', 'Sicrana'])} {rng.randrange(10**6):06d} da Silva",
        birth=f"{rng.randrange(1930, 2005)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}",
        cep=rng.choice([cep, f"{cep[:5]}-{cep[5:]}"]),
        professional="7" + "".join(rng.choices("0123456789", k=14)),
        local_id=f"{rng.randrange(10**8)}-{digits}",
    )


def concept(system: str, code: str) -> Json:
    """A CodeableConcept with one coding, as the profiles have it (no display, no text)."""
    return {"coding": [{"system": f"{BASE}CodeSystem/{system}", "code": code}]}


def coded_extension(name: str, system: str, code: str) -> Json:
    """An extension with a CodeableConcept."""
    return {"url": f"{BASE}StructureDefinition/{name}", "valueCodeableConcept": concept(system, code)}


def _maybe(rng: random.Random, chance: float, target: Json, values: Json) -> None:
    for key, value in values.items():
        if rng.random() < chance:
            target[key] = value


def _immunization(rng: random.Random, kind: Kind, person: Person, identifier: str) -> Json:
    """One dose, with optional fields there or not and codes known or not."""
    occurrence = rng.choice(
        [
            f"2026-0{rng.randrange(1, 4)}-{rng.randrange(1, 15):02d}",
            f"2021-0{rng.randrange(1, 10)}-{rng.randrange(1, 29):02d}T{rng.randrange(24):02d}:04:28.202Z",
            f"2026-03-1{rng.randrange(5)}T{rng.randrange(24):02d}:30:00-0{rng.randrange(2, 6)}:00",
        ]
    )
    resource: Json = {
        "resourceType": "Immunization",
        "id": identifier,
        "meta": {"profile": [f"{BASE}StructureDefinition/{_PROFILES[kind][1]}"]},
        "extension": [
            coded_extension("BRGrupoAtendimento", "BRGrupoAtendimento", rng.choice(["000101", "999999", "00"]))
        ],
        "status": "completed",
        "vaccineCode": concept("BRImunobiologico", rng.choice(["1", "2", "33", "777"])),
        "patient": {"identifier": {"system": f"{BASE}StructureDefinition/BRIndividuo-1.0", "value": person.identifier}},
        "occurrenceDateTime": occurrence,
        "lotNumber": rng.choice(["4120Z005", " 4120z001 ", "=1+1", "lote\tcom\ncontrole\u0000", "ção💉"]),
        "performer": [{"actor": {"reference": rng.choice(["", "/"]) + f"Practitioner/{person.professional}"}}],
        "protocolApplied": [{"doseNumberString": rng.choice(["1", "2", "38", "99x"])}],
    }
    protocol = resource["protocolApplied"][0]
    if kind in {"routine", "routine-1"}:
        protocol["extension"] = [
            coded_extension("BREstrategiaVacinacao-1.0", "BREstrategiaVacinacao", rng.choice(["1", "2", "50"]))
        ]
        if rng.random() < 0.2:
            protocol["extension"].append(
                {
                    "url": f"{BASE}StructureDefinition/BREstrategiaVacinacaoPesquisa-1.0",
                    "extension": [{"url": "numeroProtocoloEstudoANVISA", "valueString": "123/2020"}],
                }
            )
        _maybe(
            rng,
            0.7,
            resource,
            {
                "primarySource": rng.random() < 0.5,
                "reportOrigin": concept("BRRegistroOrigem", rng.choice(["01", "1", "2", "02", "7"])),
                "location": {"identifier": {"system": f"{BASE}CodeSystem/BRPais", "value": "10"}},
                "expirationDate": rng.choice(["2027-01-31", "2027-02-30", "2027-05"]),
                "site": concept("BRLocalAplicacao", rng.choice(["0", "1", "98765"])),
                "route": concept("BRViaAdministracao", rng.choice(["0", "10862", "oral"])),
            },
        )
    if kind in {"routine", "campaign"}:
        maternal = coded_extension("BRCondicaoMaternal", "BRCondicaoMaternal", rng.choice(["1", "2", "3"]))
        place = (
            protocol.setdefault("extension", []) if kind == "routine" and rng.random() < 0.2 else resource["extension"]
        )
        if len(place) < 2:
            place.append(maternal)
    if kind == "routine" and rng.random() < 0.3:
        resource["extension"].append(
            {"url": f"{BASE}StructureDefinition/BRContatoHanseniase", "valueBoolean": rng.random() < 0.5}
        )
    if kind in {"campaign-1", "load"}:
        resource["manufacturer"] = rng.choice(
            [
                {"reference": "Organization/33781055006761", "display": "Display of Organization/33781055006761"},
                {"reference": "Organization/", "display": "PFIZER"},
                {"display": "laboratorios pfizer ltda"},
            ]
        )
    elif rng.random() < 0.8:
        resource["manufacturer"] = {
            "identifier": {"system": f"{BASE}CodeSystem/BRFabricantePNI", "value": rng.choice(["142", "152", "4"])}
        }
    return resource


def patient_resource(person: Person, rng: random.Random) -> Json:
    """The registry's Patient, as a mirror may add it."""
    resource: Json = {
        "resourceType": "Patient",
        "id": person.professional[::-1],
        "identifier": [{"value": person.identifier}],
        "name": [{"text": person.name}],
        "gender": rng.choice(["female", "male", "unknown", "other"]),
        "birthDate": person.birth,
        "address": [
            {
                "_city": {
                    "extension": [
                        {"url": "ibge", "valueString": rng.choice(["3550308", "355030", "5300108", "999999"])}
                    ]
                },
                "postalCode": person.cep,
                "country": rng.choice(["10", "BRASIL", "Brasil", "XX"]),
            }
        ],
    }
    if rng.random() < 0.7:
        parts: list[Json] = [
            {"url": "race", "valueCodeableConcept": concept("BRRacaCor", rng.choice(["01", "05", "77"]))}
        ]
        if rng.random() < 0.5:
            parts.append({"url": "indigenousEthnicity", "valueCodeableConcept": concept("BREtnia", "0001")})
        resource["extension"] = [
            {"url": f"{BASE}StructureDefinition/BRRacaCorEtnia-1.0", "extension": parts},
            {"url": f"{BASE}StructureDefinition/BRNacionalidade", "valueCode": "B"},
        ]
    return resource


def build_entry(
    rng: random.Random,
    *,
    identifier: str,
    person: Person,
    kind: Kind = "routine",
    doses: int = 1,
    instant: str = "2026-03-14T10:00:00.000-03:00",
    version: str | None = "1",
    status: str = "final",
    cnes: str | None = "2077485",
    replaces: str | None = None,
    local_id: str | None = None,
    requester: str = "12",
    with_patient: bool = False,
) -> Json:
    """Build one landing entry (fullUrl, resource): Composition first, then the doses, then what a mirror may add."""
    immunizations = [_immunization(rng, kind, person, f"{identifier}-dose-{n}") for n in range(doses)]
    composition: Json = {
        "resourceType": "Composition",
        "meta": {"profile": [f"{BASE}StructureDefinition/{_PROFILES[kind][0]}"]},
        "status": status,
        "type": concept("BRTipoDocumento", "RIA"),
        "subject": {"identifier": {"system": f"{BASE}StructureDefinition/BRIndividuo-1.0", "value": person.identifier}},
        "date": "2026-03-14T09:58:00-03:00",
        "author": [{"identifier": {"system": f"{BASE}StructureDefinition/BREstabelecimentoSaude-1.0"}}],
        "title": "Registro de Imunobiologico Administrado",
        "section": [{"entry": [{"reference": f"urn:uuid:transient-{n}"} for n in range(1, doses + 1)]}],
    }
    if cnes is not None:
        composition["author"][0]["identifier"]["value"] = cnes
    if replaces is not None:
        composition["relatesTo"] = [{"code": "replaces", "targetReference": {"reference": replaces}}]
    entries = [
        {"fullUrl": f"urn:uuid:transient-{n}", "resource": resource}
        for n, resource in enumerate([composition, *immunizations])
    ]
    if rng.random() < 0.2:
        entries.append(
            {"fullUrl": "urn:uuid:cid", "resource": {"resourceType": "Condition", "code": concept("BRCID10", "Z25")}}
        )
    if with_patient:
        entries.append({"fullUrl": "urn:uuid:patient", "resource": patient_resource(person, rng)})
        if rng.random() < 0.5:
            entries.append({"fullUrl": "urn:uuid:org", "resource": {"resourceType": "Organization", "id": cnes or "0"}})
    meta: Json = {"lastUpdated": instant}
    if version is not None:
        meta["versionId"] = version
    return {
        "fullUrl": f"{HOST}Bundle/{identifier}",
        "resource": {
            "resourceType": "Bundle",
            "id": identifier,
            "meta": meta,
            "identifier": {
                "system": f"{BASE}NamingSystem/BRRNDS-{requester}",
                "value": person.local_id if local_id is None else local_id,
            },
            "type": "document",
            "timestamp": "2026-03-14T09:59:00-03:00",
            "entry": entries,
        },
        "search": {"mode": "match"},
    }


def resources(entry: Json) -> list[Json]:
    """The `Bundle.entry` list of a landing entry, for a test to mend in place."""
    found: list[Json] = entry["resource"]["entry"]
    return found


def changed(entry: Json, change: Callable[[Json], None]) -> Json:
    """A deep copy of a landing entry with a change."""
    twin = copy.deepcopy(entry)
    change(twin)
    return twin


def line_of(entry: object) -> bytes:
    """The landing line of an entry."""
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()


def write_part(path: Path, lines: Iterable[bytes]) -> None:
    """Write a landing part: zstd, one line per entry."""
    with pyarrow.CompressedOutputStream(str(path), "zstd") as stream:
        for line in lines:
            stream.write(line + b"\n")


def reject_line(body: bytes, *, reason: str, page: int, position: int) -> bytes:
    """A line of a rejects file, as extract writes it (what flatten reads of it, and the body)."""
    record = {"reason": reason, "sha256": hashlib.sha256(body).hexdigest(), "page": page, "position": position}
    return json.dumps(record | {"bytes": len(body), "body_base64": "bm8="}).encode()


def write_references(folder: Path, cnes_names: Mapping[str, tuple[str | None, str]] = CNES) -> dict[str, Path]:
    """Write the reference tables as Parquet: IBGE and PNI from the project's CSVs, a CNES of the establishments given."""
    tables = {
        "municipios": REFERENCE / "ibge" / "ibge_municipios.csv",
        "ufs": REFERENCE / "ibge" / "ibge_ufs.csv",
        **{name: REFERENCE / "pni" / f"pni_{name}.csv" for name in _PNI_TABLES},
    }
    written: dict[str, Path] = {}
    with duckdb.connect() as connection:
        for name, source in tables.items():
            written[name] = folder / f"reference-{name}.parquet"
            connection.execute(
                f"copy (select * from read_csv('{source}', all_varchar = true, header = true)) to '{written[name]}' "
                "(format parquet)"
            )
        connection.execute(
            "create table cnes (co_cnes varchar, co_municipio_6 varchar, no_razao_social varchar, no_fantasia varchar, "
            "co_tipo_estabelecimento varchar, co_natureza_estabelecimento varchar)"
        )
        rows = [[cnes, place, "PREFEITURA MUNICIPAL", name, "02", "1"] for cnes, (place, name) in cnes_names.items()]
        connection.executemany("insert into cnes values (?, ?, ?, ?, ?, ?)", rows)
        written["cnes"] = folder / "reference-cnes.parquet"
        connection.execute(f"copy cnes to '{written['cnes']}' (format parquet)")
    return written


@dataclass(frozen=True, slots=True, kw_only=True)
class Flattened:
    """What a run of flatten made, read back from its files."""

    counts: dict[str, int]
    codes: dict[str, int]
    dose: list[Json]
    quarantine: list[Json]
    removed: list[Json]
    folder: Path = field(repr=False)

    def rows(self, *, with_place: bool = False) -> list[tuple[Any, ...]]:
        """The table of doses as sorted tuples of all columns; without part and line unless asked for."""
        left_out = set() if with_place else {"nu_parte", "nu_linha"}
        return sorted(
            (tuple(value for name, value in row.items() if name not in left_out) for row in self.dose), key=repr
        )


def read_rows(path: Path) -> list[Json]:
    """All rows of a Parquet file."""
    with duckdb.connect() as connection:
        answer = connection.execute("select * from read_parquet($path)", {"path": str(path)})
        names = [column[0] for column in answer.description]
        return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def flatten_lines(
    folder: Path,
    tables: dict[str, Path],
    parts: Sequence[Sequence[bytes]],
    *,
    rejects: Sequence[Sequence[bytes]] = (),
    threads: int = 2,
    memory_limit: str = "1GB",
    day: ReferenceDay = DAY,
    pseudonym: PseudonymSettings = PSEUDONYM,
) -> Flattened:
    """Write landing files into a new folder below `folder`, run the stage over them and read its three outputs."""
    place = folder / f"run-{len(list(folder.glob('run-*'))):03d}"
    place.mkdir()
    paths, reject_paths = [], []
    for number, lines in enumerate(parts):
        paths.append(place / f"part-{number:05d}.ndjson.zst")
        write_part(paths[-1], lines)
    for number, lines in enumerate(rejects):
        reject_paths.append(place / f"rejects-{number:05d}.ndjson.zst")
        write_part(reject_paths[-1], lines)
    with open_engine(EngineSettings(threads=threads, memory_limit=memory_limit), place) as duck:
        counts, codes = run_flatten(
            duck,
            parts=paths,
            lines=[len(lines) for lines in parts],
            rejects=reject_paths,
            tables=tables,
            pseudonym=pseudonym,
            day_start=day.start.isoformat(),
            day_end=day.end.isoformat(),
            folder=place,
            threads=threads,
        )
    return Flattened(
        counts=counts,
        codes=codes,
        dose=read_rows(place / "dose.parquet"),
        quarantine=read_rows(place / "quarantine_dose.parquet"),
        removed=read_rows(place / "removed.parquet"),
        folder=place,
    )

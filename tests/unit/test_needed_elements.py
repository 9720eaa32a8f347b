"""What a document must have to be published: the absence of each needed element has its own reason, that of any other has none.

The same holds for a profile that nobody has told us of: documents are read by their elements, not by their profile.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from imunizacao import paths
from imunizacao.settings import EngineSettings
from imunizacao.sql import open_engine
from imunizacao.validate.stage import run_validate
from imunizacao.validate.suites import load_suites
from tests.unit.fhir_documents import (
    BASE,
    DAY,
    Flattened,
    Json,
    Person,
    build_entry,
    changed,
    concept,
    flatten_lines,
    line_of,
    read_rows,
    resources,
    write_references,
)

PERSON: Final = Person(
    identifier="12345678909",
    name="Fulana Fictícia",
    birth="1980-01-01",
    cep="70000000",
    professional="200000000000003",
    local_id="local-1",
)
NEW_SYSTEMS: Final = "https://terminologia.saude.gov.br/fhir/CodeSystem/"
Change = Callable[[Json], None]


def composition(made: Json) -> Json:
    found: Json = resources(made)[0]["resource"]
    return found


def dose(made: Json) -> Json:
    found: Json = resources(made)[1]["resource"]
    return found


def drop(part: Callable[[Json], Json], name: str) -> Change:
    """A change that takes one element out."""

    def change(made: Json) -> None:
        del part(made)[name]

    return change


def good(name: str) -> Json:
    """A routine document that every rule lets pass."""
    made = build_entry(random.Random(5), identifier=name, person=PERSON, local_id=f"local-{name}")
    # The way the resources are called must not decide: nothing but these two.
    del resources(made)[2:]
    dose(made).update(
        {
            "vaccineCode": concept("BRImunobiologico", "33"),
            "occurrenceDateTime": "2026-03-10",
            "lotNumber": "4120Z005",
            "expirationDate": "2027-01-31",
            "reportOrigin": concept("BRRegistroOrigem", "02"),
            "primarySource": True,
            "protocolApplied": [
                {
                    "doseNumberString": "1",
                    "extension": [
                        {
                            "url": f"{BASE}StructureDefinition/BREstrategiaVacinacao-1.0",
                            "valueCodeableConcept": concept("BREstrategiaVacinacao", "1"),
                        }
                    ],
                }
            ],
        }
    )
    return made


def _profiles(of_composition: str | None, of_dose: str | None) -> Change:
    def change(made: Json) -> None:
        for resource, profile in ((composition(made), of_composition), (dose(made), of_dose)):
            if profile is None:
                del resource["meta"]["profile"]
            else:
                resource["meta"]["profile"] = [profile]

    return change


def _as_br_core(made: Json) -> None:
    """The shape that is announced: new addresses of the code systems, the strategy as a reason."""
    text = line_of(made).decode().replace(f"{BASE}CodeSystem/", NEW_SYSTEMS)
    made.clear()
    made.update(json.loads(text))
    _profiles(None, "https://br-core.saude.gov.br/fhir/StructureDefinition/br-core-immunization")(made)
    protocol = dose(made)["protocolApplied"][0]
    code = protocol.pop("extension")[0]["valueCodeableConcept"]["coding"][0]["code"]
    dose(made)["reasonCode"] = [{"coding": [{"system": f"{NEW_SYSTEMS}BREstrategiaVacinacao", "code": code}]}]


SHAPES: Final[dict[str, Change]] = {
    "known": lambda made: None,
    "new-version": _profiles(
        f"{BASE}StructureDefinition/BRRegistroImunobiologicoAdministradoRotina-3.0",
        f"{BASE}StructureDefinition/BRImunobiologicoAdministrado-4.0",
    ),
    "br-core": _as_br_core,
    "no-profile": _profiles(None, None),
}


def _nobody(made: Json) -> None:
    del composition(made)["subject"]
    del dose(made)["patient"]


def _without_id(made: Json) -> None:
    del made["fullUrl"]
    del made["resource"]["id"]


def _no_dose(made: Json) -> None:
    del resources(made)[1]


def _no_composition(made: Json) -> None:
    del resources(made)[0]


def _no_cnes(made: Json) -> None:
    del composition(made)["author"][0]["identifier"]["value"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """A change that takes something needed out, and all reasons and rules that must follow."""

    change: Change
    reasons: frozenset[str]
    rules: frozenset[str] = frozenset()


NEEDED: Final[dict[str, Needed]] = {
    "Bundle.type": Needed(change=drop(lambda made: made["resource"], "type"), reasons=frozenset({"NOT_A_DOCUMENT"})),
    "Bundle.id": Needed(change=_without_id, reasons=frozenset({"ID_MISSING"})),
    "Bundle.meta.lastUpdated": Needed(
        change=drop(lambda made: made["resource"]["meta"], "lastUpdated"), reasons=frozenset({"LAST_UPDATED_INVALID"})
    ),
    "Composition": Needed(change=_no_composition, reasons=frozenset({"COMPOSITION_INVALID"})),
    "Composition.status": Needed(change=drop(composition, "status"), reasons=frozenset({"STATUS_UNKNOWN"})),
    "Composition.author": Needed(change=drop(composition, "author"), reasons=frozenset({"CNES_MISSING"})),
    "Composition.author.identifier.value": Needed(change=_no_cnes, reasons=frozenset({"CNES_MISSING"})),
    "Composition.subject and Immunization.patient": Needed(
        change=_nobody,
        reasons=frozenset({"PATIENT_ID_INVALID", "PATIENT_MISSING"}),
        rules=frozenset({"IMU-004", "IMU-020"}),
    ),
    "Immunization": Needed(change=_no_dose, reasons=frozenset({"DOSE_MISSING"})),
    "Immunization.vaccineCode": Needed(
        change=drop(dose, "vaccineCode"), reasons=frozenset({"VACCINE_MISSING"}), rules=frozenset({"IMU-012"})
    ),
    "Immunization.occurrenceDateTime": Needed(
        change=drop(dose, "occurrenceDateTime"), reasons=frozenset({"DATE_MISSING"}), rules=frozenset({"IMU-008"})
    ),
    "Immunization.protocolApplied": Needed(
        change=drop(dose, "protocolApplied"), reasons=frozenset({"DOSE_CODE_MISSING"}), rules=frozenset({"IMU-014"})
    ),
    "Immunization.protocolApplied.doseNumber": Needed(
        change=drop(lambda made: dose(made)["protocolApplied"][0], "doseNumberString"),
        reasons=frozenset({"DOSE_CODE_MISSING"}),
        rules=frozenset({"IMU-014"}),
    ),
}

SPARED: Final[dict[str, Change]] = {
    "nothing": lambda made: None,
    "fullUrl": drop(lambda made: made, "fullUrl"),
    "Bundle.identifier": drop(lambda made: made["resource"], "identifier"),
    "Bundle.timestamp": drop(lambda made: made["resource"], "timestamp"),
    "Bundle.meta.versionId": drop(lambda made: made["resource"]["meta"], "versionId"),
    "Composition.subject": drop(composition, "subject"),
    "Composition.date": drop(composition, "date"),
    "Composition.type": drop(composition, "type"),
    "Composition.title": drop(composition, "title"),
    "Composition.section": drop(composition, "section"),
    "Immunization.patient": drop(dose, "patient"),
    "Immunization.status": drop(dose, "status"),
    "Immunization.extension": drop(dose, "extension"),
    "Immunization.lotNumber": drop(dose, "lotNumber"),
    "Immunization.expirationDate": drop(dose, "expirationDate"),
    "Immunization.reportOrigin": drop(dose, "reportOrigin"),
    "Immunization.primarySource": drop(dose, "primarySource"),
    "Immunization.performer": drop(dose, "performer"),
}
"""What may be missing: the dose is published all the same (a rule may flag it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A day with one document per shape and element, after flatten and the rules."""

    flattened: Flattened
    quarantine: dict[tuple[str, str], tuple[frozenset[str], frozenset[str]]]
    """(shape, element) → reasons and rules."""
    published: set[tuple[str, str]]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    folder = tmp_path_factory.mktemp("needed")
    tables = write_references(folder)
    names: list[tuple[str, str]] = []
    lines: list[bytes] = []
    changes: dict[str, Change] = {element: needed.change for element, needed in NEEDED.items()} | SPARED
    for shape, reshape in SHAPES.items():
        for element, change in changes.items():
            made = changed(good(f"doc-{len(names)}"), reshape)
            lines.append(line_of(changed(made, change)))
            names.append((shape, element))
    flattened = flatten_lines(folder, tables, [lines])
    place = folder / "judged"
    place.mkdir()
    counts = flattened.counts
    with open_engine(EngineSettings(scratch_dir=place), place) as duck:
        run_validate(
            duck,
            suites=load_suites(paths.EXPECTATIONS),
            day=DAY,
            dose=flattened.folder / "dose.parquet",
            structural=flattened.folder / "quarantine_dose.parquet",
            account={
                "fetched": counts["fetched"],
                "unique_documents": counts["unique"],
                "duplicates": counts["duplicates"],
                "doses": counts["doses"],
                "candidates": counts["candidates"],
                "quarantined": counts["quarantined"],
                "superseded": counts["superseded"],
                "removed": counts["removed"],
            },
            folder=place,
        )
    assert (counts["unique"], counts["doses"]) == (len(lines), len(lines)), "a document was lost"
    quarantine = {
        names[row["nu_linha"] - 1]: (frozenset(row["ds_motivos"]), frozenset(row["ds_regras"]))
        for row in read_rows(place / "quarantine.parquet")
    }
    published = {names[row["nu_linha"] - 1] for row in flattened.dose} - set(quarantine)
    return Judged(flattened=flattened, quarantine=quarantine, published=published)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("element", NEEDED)
def test_a_document_without_a_needed_element_waits_with_the_reason(judged: Judged, shape: str, element: str) -> None:
    needed = NEEDED[element]
    assert judged.quarantine.get((shape, element)) == (needed.reasons, needed.rules)
    assert (shape, element) not in judged.published


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("element", SPARED)
def test_a_document_without_any_other_element_is_published(judged: Judged, shape: str, element: str) -> None:
    assert judged.quarantine.get((shape, element)) is None
    assert (shape, element) in judged.published


def test_every_document_is_published_or_waits(judged: Judged) -> None:
    assert judged.published.isdisjoint(judged.quarantine)
    assert len(judged.published) + len(judged.quarantine) == len(SHAPES) * (len(NEEDED) + len(SPARED))


def test_unknown_profiles_are_counted_by_name_also_where_the_document_waits(judged: Judged) -> None:
    each = len(NEEDED) + len(SPARED)
    # Without a Composition there is nobody to say which generation it is; without "document" it is no document of ours.
    counted = each - 2
    assert {
        name: count for name, count in judged.flattened.codes.items() if name.startswith(("geração", "perfil"))
    } == {
        "geração RIA-R 2.0": counted,
        # Where the dose is missing, nothing says BR-Core.
        "geração BR-Core": counted - 1,
        "geração desconhecida": 2 * counted + 1,
        "perfil desconhecido BRRegistroImunobiologicoAdministradoRotina-3.0": counted,
        "perfil desconhecido BRImunobiologicoAdministrado-4.0": counted - 1,
    }


def _strategies(folder: Path, reasons: list[Any], *, with_extension: bool) -> list[str | None]:
    entries = []
    for number, reason in enumerate(reasons):
        made = good(f"doc-{number}")
        dose(made)["reasonCode"] = reason
        if not with_extension:
            del dose(made)["protocolApplied"][0]["extension"]
        entries.append(line_of(made))
    found = flatten_lines(folder, write_references(folder), [entries])
    assert found.counts["candidates"] == len(reasons)
    return [row["co_estrategia_vacinacao"] for row in sorted(found.dose, key=lambda row: row["nu_linha"])]


def _reason(code: Any, system: Any = f"{NEW_SYSTEMS}BREstrategiaVacinacao") -> Json:
    return {"coding": [{"system": system, "code": code}]}


def test_the_strategy_of_br_core_is_its_reason_and_no_other_reason_is_one(tmp_path: Path) -> None:
    other = _reason("9", "http://snomed.info/sct")
    assert _strategies(
        tmp_path,
        [
            [_reason("3")],
            [other, _reason("5")],
            [{"coding": [*other["coding"], *_reason("6", f"{BASE}CodeSystem/BREstrategiaVacinacao")["coding"]]}],
            [other],
            [_reason("7", "https://example.org/NaoBREstrategiaVacinacao")],
            [],
            "texto",
            [{"coding": [None, 5, {"system": 7, "code": "1"}]}],
        ],
        with_extension=False,
    ) == ["3", "5", "6", None, None, None, None, None]


def test_the_extension_of_the_strategy_wins_over_a_reason(tmp_path: Path) -> None:
    assert _strategies(tmp_path, [[_reason("3")]], with_extension=True) == ["1"]

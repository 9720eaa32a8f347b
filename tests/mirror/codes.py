"""Code values that the documents use: a slice of the national calendar of vaccination, weighted by how common each vaccine is.

The codes are of the RIA guide's code systems (BRImunobiologico, BRDose, BRFabricantePNI, BRViaAdministracao, BRLocalAplicacao,
BREstrategiaVacinacao, BRGrupoAtendimento); a test compares them with the project's reference tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

INTRAMUSCULAR: Final = "10890"
SUBCUTANEOUS: Final = "10916"
INTRADERMAL: Final = "10885"
ORAL: Final = "10907"

_ARMS: Final = ("1", "2", "14", "15")
_THIGHS: Final = ("3", "4", "17", "18")
_MOUTH: Final = ("9",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vaccine:
    """One vaccine and what goes with it. Ages in days."""

    code: str
    weight: int
    ages: tuple[int, int]
    doses: tuple[str, ...]
    makers: tuple[str, ...]
    route: str = INTRAMUSCULAR
    sites: tuple[str, ...] = _ARMS
    strategies: tuple[str, ...] = ("1", "1", "1", "4", "9", "14")
    groups: tuple[str, ...] = ("000210",)
    maternal: tuple[str, ...] = ("1",)


_CHILD: Final = ("1", "1", "1", "1", "4", "9", "2")
_CAMPAIGN: Final = ("5", "6", "1")
_WORKERS: Final = ("000210", "000907", "000923", "000931", "000103", "000801", "001102", "002001")

ROUTINE: Final = (
    Vaccine(
        code="15", weight=6, ages=(0, 30), doses=("9",), makers=("151", "163"), route=INTRADERMAL, sites=("12", "13")
    ),
    Vaccine(
        code="9", weight=6, ages=(0, 30), doses=("8", "1"), makers=("152", "163"), sites=_THIGHS, strategies=_CHILD
    ),
    Vaccine(
        code="42",
        weight=10,
        ages=(60, 400),
        doses=("1", "2", "3"),
        makers=("163", "17934"),
        sites=_THIGHS,
        strategies=_CHILD,
    ),
    Vaccine(code="22", weight=9, ages=(60, 400), doses=("1", "2", "3"), makers=("2862", "149"), sites=_THIGHS),
    Vaccine(code="26", weight=8, ages=(60, 460), doses=("1", "2", "38"), makers=("149", "159"), sites=_THIGHS),
    Vaccine(code="45", weight=7, ages=(60, 240), doses=("1", "2"), makers=("149", "159"), route=ORAL, sites=_MOUTH),
    Vaccine(code="41", weight=6, ages=(90, 460), doses=("1", "2", "38"), makers=("150", "2355"), sites=_THIGHS),
    Vaccine(
        code="14",
        weight=6,
        ages=(270, 20000),
        doses=("1", "38", "9"),
        makers=("149", "2862"),
        route=SUBCUTANEOUS,
        strategies=("1", "1", "3", "15"),
        groups=("000210", "002001", "000602"),
    ),
    Vaccine(code="24", weight=8, ages=(365, 10000), doses=("1", "2", "57"), makers=("149", "163"), route=SUBCUTANEOUS),
    Vaccine(code="56", weight=2, ages=(450, 1800), doses=("9",), makers=("149", "159"), route=SUBCUTANEOUS),
    Vaccine(code="34", weight=3, ages=(450, 2500), doses=("1", "2"), makers=("152", "165"), route=SUBCUTANEOUS),
    Vaccine(code="55", weight=3, ages=(450, 1800), doses=("9",), makers=("152", "165"), sites=_THIGHS),
    Vaccine(code="46", weight=5, ages=(450, 2500), doses=("6", "7"), makers=("163", "17934"), strategies=_CHILD),
    Vaccine(code="28", weight=1, ages=(450, 1800), doses=("6", "7"), makers=("149",), route=ORAL, sites=_MOUTH),
    Vaccine(code="67", weight=4, ages=(3285, 5400), doses=("9", "1"), makers=("152", "165"), strategies=("1", "14")),
    Vaccine(
        code="74", weight=3, ages=(4015, 5400), doses=("9", "38"), makers=("2862", "43175"), strategies=("1", "14")
    ),
    Vaccine(
        code="25", weight=6, ages=(2555, 30000), doses=("1", "2", "3", "38"), makers=("152", "163"), groups=_WORKERS
    ),
    Vaccine(
        code="57",
        weight=2,
        ages=(7300, 15000),
        doses=("9", "38"),
        makers=("159", "152"),
        groups=("001801",),
        maternal=("2", "2", "2", "3"),
    ),
    Vaccine(
        code="33",
        weight=14,
        ages=(180, 33000),
        doses=("8", "9", "1"),
        makers=("152",),
        groups=_WORKERS,
        strategies=_CAMPAIGN,
    ),
    Vaccine(code="104", weight=3, ages=(3650, 5400), doses=("1", "2"), makers=("39263",), route=SUBCUTANEOUS),
    Vaccine(code="21", weight=1, ages=(21900, 33000), doses=("9", "1"), makers=("165",), groups=("000302", "000210")),
    Vaccine(
        code="37",
        weight=2,
        ages=(365, 25000),
        doses=("1", "2", "3", "4"),
        makers=("152", "2862"),
        strategies=("11", "12"),
    ),
    Vaccine(
        code="103", weight=3, ages=(1825, 33000), doses=("38", "1", "37"), makers=("142", "44618"), groups=_WORKERS
    ),
    Vaccine(code="102", weight=2, ages=(180, 1700), doses=("1", "2", "3"), makers=("142", "28290"), sites=_THIGHS),
    Vaccine(
        code="109", weight=1, ages=(9000, 14000), doses=("9",), makers=("142",), groups=("001801",), maternal=("2",)
    ),
    Vaccine(code="93", weight=1, ages=(3300, 16000), doses=("1", "2", "3"), makers=("165",), strategies=("8",)),
)
CAMPAIGN: Final = (
    Vaccine(
        code="85", weight=6, ages=(6570, 33000), doses=("1", "2", "37", "38"), makers=("149", "163"), groups=_WORKERS
    ),
    Vaccine(code="86", weight=6, ages=(6570, 33000), doses=("1", "2", "38"), makers=("152", "29501"), groups=_WORKERS),
    Vaccine(code="87", weight=6, ages=(4380, 33000), doses=("1", "2", "38"), makers=("142",), groups=_WORKERS),
    Vaccine(code="88", weight=2, ages=(6570, 33000), doses=("9", "38"), makers=("30587",), groups=_WORKERS),
    Vaccine(code="33", weight=4, ages=(180, 33000), doses=("8", "9"), makers=("152",), groups=_WORKERS),
)


def spread(vaccines: tuple[Vaccine, ...]) -> tuple[Vaccine, ...]:
    """One entry per unit of weight: a uniform pick from it follows the weights."""
    return tuple(vaccine for vaccine in vaccines for _ in range(vaccine.weight))


WRITTEN_MAKERS: Final = (
    ("Organization/33781055000135", "FUNDACAO OSWALDO CRUZ"),
    ("Organization/61821344000156", "BUTANTAN"),
    ("Organization/46070868003699", "PFIZER"),
    ("Organization/61821344000156", "Sinovac/Butantan"),
    ("Organization/33781055000135", "ASTRA ZENECA"),
    ("Organization/3378155000135", "astrazenica"),
    ("Organization/", "SERUM INSTITUTE OF INDIA LTD."),
)
"""Manufacturer in RIA-C 1.0: an organization by CNPJ (sometimes malformed or empty) and a name as somebody typed it."""
TEMPLATE_MAKER: Final = ("Organization/33781055006761", "Display of Organization/33781055006761")
"""Template text of the official sample, sent unchanged by real systems (12,193 rows of the 2021 COVID files)."""

CBO: Final = ("223505", "322205", "322230", "225125", "223565")
"""Occupations: nurse, nursing technician and assistant, physician, family-health nurse."""
ICD10: Final = ("D57", "Z20.3", "B20", "N18", "E10", "Q90", "Z94", "D80")
REQUESTERS: Final = ("18602", "40114", "29376", "10021", "33007", "51590", "27718", "60301")
"""Numbers of BRRNDS-n naming systems: who sent the document."""

INACTIVE_VACCINES: Final = ("18", "95", "96", "105")
INACTIVE_GROUPS: Final = ("000201", "000102", "000301", "000701")
ABROAD: Final = ("45", "36", "21", "24")
"""BRPais: Portugal, United States, Argentina, Paraguay."""

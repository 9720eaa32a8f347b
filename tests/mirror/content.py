"""What one document says, before it becomes JSON: the draws from its 64 random bytes, and the traps applied to them."""

from __future__ import annotations

import json
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from tests.mirror import codes
from tests.mirror.calendar import date_text, offset_hours
from tests.mirror.cnes import TAIL, Establishment, by_municipio, read_municipios, read_snapshot
from tests.mirror.codes import Vaccine
from tests.mirror.persons import SERIALS, Person, practitioner_cns, spoil
from tests.mirror.traps import Role, Trap

LEGACY: Final = "http://www.saude.gov.br/fhir/r4/CodeSystem/"
TERMINOLOGY: Final = "https://terminologia.saude.gov.br/fhir/CodeSystem/"


class Kind(Enum):
    """Kinds of documents that a mirror holds: (Composition profile, Immunization profile, title, share of documents)."""

    ROUTINE_2 = ("RIA-R 2.0", "Rotina-2.0", "-3.0", "na Rotina", 0.78)
    ROUTINE_1 = ("RIA-R 1.0", "Rotina-1.0", "-2.0", "na Rotina", 0.06)
    CAMPAIGN_2 = ("RIA-C 2.0", "Campanha-2.0", "Campanha-2.0", "na Campanha", 0.06)
    CAMPAIGN_1 = ("RIA-C 1.0", "Campanha-1.0", "Campanha-1.0", "na Campanha", 0.06)
    LOAD = ("Carga 1.0", "Carga-1.0", "Carga-1.0", "- Carga", 0.04)

    def __init__(self, label: str, composition: str, immunization: str, title: str, share: float) -> None:
        self.label = label
        self.composition = f"BRRegistroImunobiologicoAdministrado{composition}"
        self.immunization = f"BRImunobiologicoAdministrado{immunization}"
        self.title = f"Registro de Imunobiologico Administrado {title}"
        self.share = share
        self.routine = title == "na Rotina"
        self.historic = label in {"RIA-C 1.0", "Carga 1.0"}
        """Documents of earlier years that a mirror loads or touches today."""


_KIND_LIMITS: Final = tuple(accumulate(kind.share for kind in Kind))
_KINDS: Final = tuple(Kind)
ROUTINE_SHARE: Final = sum(kind.share for kind in Kind if kind.routine)
TRANSCRIBED: Final = 0.06
"""Share of documents that copy a dose from a vaccination card: reportOrigin 01, primarySource false, an old date."""
NEW_TERMINOLOGY: Final = 0.30
"""Share of routine and RIA-C 2.0 documents with the code systems of terminologia.saude.gov.br."""
CONDITION: Final = 0.05
SHUFFLED_ENTRIES: Final = 0.04
SHUFFLED_EXTENSIONS: Final = 0.10
UTC_INSTANTS: Final = 0.08
"""Share of documents whose meta.lastUpdated is written in Z."""
VERSIONED: Final = 0.30
"""Share of documents with meta.versionId."""

_UF_OFFSETS: Final = {"AC": -5, "AM": -4, "MS": -4, "MT": -4, "RO": -4, "RR": -4}
"""Hours from UTC where the offset is not Brasília's."""
_ROUTINE: Final = codes.spread(codes.ROUTINE)
_CAMPAIGN: Final = codes.spread(codes.CAMPAIGN)
_LOT_LETTERS: Final = "ABCDEFGHJKLMNPRSTUVWXYZ"
_UNPACK: Final = struct.Struct("<16I").unpack

ODD_LOTS: Final = (
    " 24C0{n} ",
    "fx{n}a",
    'LOTE "{n}"',
    "A{n};B{n}",
    "L{n}\nL2",
    "=1+{n}",
    "+{n}",
    "@SUM({n})",
    "LOTE \U0001f489 {n}",
    "<b>{n}</b><script>alert(1)</script>",
    "\u202eTOL {n}\u202c",
    "{{{{ {n} }}}}",
    "  {n}\t",
    "-{n}",
    "Nº {n}/ção",
)
"""Lots as people type them and as an attacker would: blanks, case, quotes, separators, line breaks, formulas, HTML, RTL marks."""


@dataclass(frozen=True, slots=True)
class Dose:
    """One Immunization. Codes as text; empty = the element is not there."""

    uuid: str
    vaccine: str
    occurrence: str
    primary_source: str
    origin: str
    country: str
    maker: str
    written_maker: tuple[str, str]
    lot: str
    """JSON text, quotes included."""
    expiration: str
    site: str
    route: str
    group: str
    maternal: str
    leprosy: str
    strategy: str
    dose: str
    performer: str
    cbo: str


@dataclass(frozen=True, slots=True)
class Content:
    """What a document says, whatever its id, version and state."""

    kind: Kind
    systems: str
    """Prefix of the code systems: one of two URI families."""
    requester: str
    local_id: str
    establishment: int
    cnes: str
    person: Person
    patient_id: str
    registered: str
    doses: tuple[Dose, ...]
    condition: str
    """ICD-10 code of the Condition; empty = no Condition."""
    residence: str
    """IBGE code of the Patient entry; empty = no Patient."""
    organization: bool
    shuffled_entries: bool
    shuffled_extensions: bool
    slash: str
    """A leading slash in the performer's reference, or nothing."""
    utc: bool
    versioned: bool
    unknown_field: bool
    narrative: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Country:
    """Where documents come from: the establishments of a CNES snapshot, weighted by municipality."""

    establishments: tuple[Establishment, ...]
    municipios: tuple[str, ...]
    """Municipalities by rank, 6 digits."""
    members: tuple[tuple[int, ...], ...]
    """Positions in `establishments`, by rank of municipality."""
    limits: tuple[float, ...]
    """Cumulated weights rank ** -0.85, the last one 2 ** 32."""
    names: dict[str, str]
    ufs: dict[str, str]
    short: tuple[int, ...]
    """Establishments whose CNES starts with zero."""

    @classmethod
    def read(cls, snapshot: Path | None = None) -> Country:
        """Read a snapshot (default: the project's demonstration snapshot)."""
        establishments = tuple(read_snapshot(snapshot) if snapshot else read_snapshot())
        groups = by_municipio(establishments)
        table = read_municipios()
        weights = list(accumulate(rank**-TAIL for rank in range(1, len(groups) + 1)))
        return cls(
            establishments=establishments,
            municipios=tuple(code for code, _ in groups),
            members=tuple(tuple(members) for _, members in groups),
            limits=tuple(weight / weights[-1] * 2**32 for weight in weights),
            names={code: municipio.name for code, municipio in table.items()},
            ufs={code: municipio.uf for code, municipio in table.items()},
            short=tuple(i for i, one in enumerate(establishments) if one.cnes.startswith("0") and one.active),
        )

    def pick_municipio(self, draw: int) -> int:
        """Rank (from 0) of the municipality for 32 random bits."""
        return bisect_right(self.limits, draw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """What the mirror adds to the documents of the RNDS."""

    patient: float = 0.35
    organization: float = 0.10


def kind_of(bits: bytes) -> Kind:
    """Kind of the document with these random bytes."""
    return _KINDS[bisect_right(_KIND_LIMITS, bits[10] / 256 + bits[11] / 65536)]


def doses_of(bits: bytes, kind: Kind) -> int:
    """How many doses it carries: loads carry one to four."""
    return 1 + bits[0] % 4 if kind is Kind.LOAD else 1


def draw_content(country: Country, shares: Shares, ordinal: int, minute: int, bits: bytes) -> Content:
    """Draw an ordinary document that came at `minute` of the day. The same arguments give the same content."""
    numbers = _UNPACK(bits)
    text = bits.hex()
    kind = kind_of(bits)
    rank = country.pick_municipio(numbers[6])
    municipio = country.municipios[rank]
    members = country.members[rank]
    establishment = members[numbers[7] % len(members)]
    flags = numbers[8]
    lag, late_minutes = _lag(kind, numbers[9])
    applied = ordinal - lag
    transcribed = kind.routine and flags % 1000 < TRANSCRIBED / ROUTINE_SHARE * 1000
    pool = _CAMPAIGN if kind is Kind.CAMPAIGN_1 or kind is Kind.CAMPAIGN_2 else _ROUTINE
    vaccine = pool[numbers[10] % len(pool)]
    age = vaccine.ages[0] + (numbers[11] >> 8) % (vaccine.ages[1] - vaccine.ages[0])
    person = Person(birth=applied - age, serial=numbers[12] % SERIALS)
    terminology = not kind.historic and flags >> 8 & 0xFF < NEW_TERMINOLOGY * 256
    condition = ""
    if kind.routine and numbers[13] % 1000 < CONDITION / ROUTINE_SHARE * 1000:
        condition = codes.ICD10[numbers[13] // 1000 % len(codes.ICD10)]
    opened = max(0, minute - late_minutes)
    dose = _dose(
        kind, vaccine, numbers, text, applied, establishment, _UF_OFFSETS.get(country.ufs[municipio], 0), opened
    )
    if transcribed:
        dose = _transcribe(dose, numbers, person, applied, terminology)
    if condition:
        dose = replace(dose, strategy="2", cbo="225125")
    doses: tuple[Dose, ...] = (dose,)
    if kind is Kind.LOAD:
        doses = tuple(_repeat(dose, index, numbers) for index in range(doses_of(bits, kind)))
    registered_offset = offset_hours(ordinal)
    return Content(
        kind,
        TERMINOLOGY if terminology else LEGACY,
        codes.REQUESTERS[establishment % len(codes.REQUESTERS)],
        _local_id(numbers[14] % 3, text, applied),
        establishment,
        country.establishments[establishment].cnes,
        person,
        person.cpf if (person.serial >> 3) % 20 < 11 else person.cns,
        f"{date_text(ordinal)}T{opened // 60:02d}:{opened % 60:02d}:{numbers[14] % 60 if opened else 0:02d}-{-registered_offset:02d}:00",
        doses,
        condition,
        _residence(country, municipio, numbers[15]) if bits[5] < shares.patient * 256 else "",
        bits[6] < shares.organization * 256,
        bits[7] < SHUFFLED_ENTRIES * 256,
        bits[8] < SHUFFLED_EXTENSIONS * 256,
        "/" if kind is Kind.CAMPAIGN_1 or bits[1] < 13 else "",
        bits[3] < UTC_INSTANTS * 256,
        bits[4] < VERSIONED * 256,
        False,
        False,
    )


def _lag(kind: Kind, draw: int) -> tuple[int, int]:
    """Days between application and arrival (mean about 5, as the RNDS had nationally), minutes between typing and arrival."""
    minutes = 1 + (draw >> 16 & 31)
    if kind.historic:
        return 300 + (draw & 0x7FF), minutes
    part = draw & 0xFF
    if part < 140:
        return 0, minutes
    if part < 190:
        return 1, minutes
    if part < 235:
        return 2 + (draw >> 8 & 7), minutes
    return 10 + (draw >> 8 & 63), minutes


def _dose(
    kind: Kind,
    vaccine: Vaccine,
    numbers: Sequence[int],
    text: str,
    applied: int,
    establishment: int,
    offset: int,
    opened: int,
) -> Dose:
    draw = numbers[5]
    routine = kind.routine
    written = kind.historic
    grouped = kind is not Kind.ROUTINE_1 and kind is not Kind.LOAD
    lot = numbers[4]
    return Dose(
        f"{text[80:88]}-{text[88:92]}-4{text[92:95]}-a{text[95:98]}-{text[98:108]}00",
        vaccine.code,
        _occurrence(applied, draw, offset, opened),
        "true" if routine else "",
        "",
        "",
        "" if written else vaccine.makers[draw % len(vaccine.makers)],
        codes.WRITTEN_MAKERS[draw % len(codes.WRITTEN_MAKERS)] if written else ("", ""),
        f'"{lot % 30:02d}{_LOT_LETTERS[lot % 23]}{lot >> 12 & 0xFFF:04d}"',
        date_text(applied + 30 + (lot >> 3) % 700) if routine or kind is Kind.LOAD else "",
        vaccine.sites[(draw >> 4) % len(vaccine.sites)] if routine or kind is Kind.LOAD else "",
        vaccine.route if routine or kind is Kind.LOAD else "",
        vaccine.groups[(draw >> 7) % len(vaccine.groups)] if grouped else "",
        vaccine.maternal[(draw >> 10) % len(vaccine.maternal)] if grouped and kind is not Kind.CAMPAIGN_1 else "",
        ("false" if draw & 0x1F000 else "true") if vaccine.code == "15" and kind is Kind.ROUTINE_2 else "",
        vaccine.strategies[(draw >> 12) % len(vaccine.strategies)] if routine else "",
        vaccine.doses[(draw >> 15) % len(vaccine.doses)],
        practitioner_cns(establishment * 64 + (draw >> 18) % 20),
        codes.CBO[(draw >> 20) % len(codes.CBO)] if written else "",
    )


def _occurrence(applied: int, draw: int, offset: int, opened: int) -> str:
    """A date, a local date-time or one in UTC (which may read as the next day)."""
    form = draw >> 24
    if form < 140:
        return date_text(applied)
    brasilia = offset_hours(applied)
    hours = offset or brasilia
    minute = min(opened, 450 + (draw >> 8) % 900) - (brasilia - hours) * 60
    if minute <= 0:  # too early in the day to be before the arrival, in the offset of a western state as well
        return date_text(applied)
    second = draw % 60
    if form < 216:
        return f"{date_text(applied)}T{minute // 60:02d}:{minute % 60:02d}:{second:02d}-{-hours:02d}:00"
    days, minute = divmod(minute - hours * 60, 1440)
    return f"{date_text(applied + days)}T{minute // 60:02d}:{minute % 60:02d}:{second:02d}.{draw % 1000:03d}Z"


def _transcribe(dose: Dose, numbers: Sequence[int], person: Person, applied: int, terminology: bool) -> Dose:
    """A dose copied from a card: years old, site and route unknown, seven in ten without lot and manufacturer."""
    age = applied - person.birth
    day = applied - numbers[3] % max(1, min(age, 9000))
    documented = numbers[3] >> 20 & 0xF < 5
    return replace(
        dose,
        occurrence=date_text(day),
        primary_source="false",
        origin="1" if terminology else "01",
        country="10" if numbers[3] & 0x300 else "",
        maker=dose.maker if documented else "",
        lot=dose.lot if documented else "",
        expiration="",
        site="0",
        route="0",
    )


def _repeat(dose: Dose, index: int, numbers: Sequence[int]) -> Dose:
    """Dose `index` of a load: another vaccine of the same visit."""
    if index == 0:
        return dose
    vaccine = _ROUTINE[(numbers[10] + index * 17) % len(_ROUTINE)]
    return replace(
        dose, uuid=f"{dose.uuid[:-2]}{index:02x}", vaccine=vaccine.code, route=vaccine.route, site=vaccine.sites[0]
    )


def _local_id(form: int, text: str, applied: int) -> str:
    """Id that the source system gave: free text, unique for its requester."""
    if form == 0:
        return f"{text[64:72]}-{text[72:76]}-4{text[76:79]}-9{text[79:82]}-{text[82:94]}"
    if form == 1:
        day = date_text(applied)
        return f"{day[8:]}/{day[5:7]}/{day[:4]}-{text[64:80]}"
    return str(int(text[64:80], 16))


def _residence(country: Country, municipio: str, draw: int) -> str:
    """Nine in ten live where they are vaccinated."""
    return municipio if draw % 10 else country.municipios[country.pick_municipio(draw)]


def apply_trap(country: Country, content: Content, role: Role, ordinal: int, bits: bytes) -> Content:
    """Plant a trap in an ordinary document. Roles that concern state, version or identity change nothing here."""
    change = _CHANGES.get(role.trap)
    if change is None:
        return content
    variant = role.slot + bits[2]
    return change(_Change(country=country, content=content, ordinal=ordinal, variant=variant))


def correct(content: Content) -> Content:
    """The content as its sender corrects it: another lot, and the dose date stated as a plain date."""
    first = replace(content.doses[0], lot='"CORRIGIDO1"')
    return replace(content, doses=(first, *content.doses[1:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    country: Country
    content: Content
    ordinal: int
    variant: int

    def pick(self, options: Sequence[str]) -> str:
        return options[self.variant % len(options)]

    def dose(self, **changes: Any) -> Content:
        first = replace(self.content.doses[0], **changes)
        return replace(self.content, doses=(first, *self.content.doses[1:]))


def _cnes_unknown(change: _Change) -> Content:
    return replace(change.content, cnes=change.pick(("0123456", f"99{change.variant * 7919 % 100_000:05d}")))


def _cnes_absent(change: _Change) -> Content:
    return replace(change.content, cnes="")


def _cnes_malformed(change: _Change) -> Content:
    return replace(change.content, cnes=change.pick(("ABC1234", "12345678", "20-3491", "1.234E5")))


def _cnes_unpadded(change: _Change) -> Content:
    short = change.country.short[change.variant * 7919 % len(change.country.short)]
    cnes = change.country.establishments[short].cnes.lstrip("0")
    return replace(change.content, cnes=cnes, establishment=short, organization=False)


def _person_invalid(change: _Change) -> Content:
    person = change.content.person
    wrong = change.pick((spoil(person.cns), spoil(person.cpf), "012345678912345", "11111111111"))
    return replace(change.content, patient_id=wrong)


def _date_future(change: _Change) -> Content:
    return change.dose(occurrence=date_text(change.ordinal + 1 + change.variant % 400))


def _date_ancient(change: _Change) -> Content:
    return change.dose(occurrence=change.pick(("1899-12-31", "1753-01-01", "0202-03-14", "1899-12-30T00:00:00-03:00")))


def _date_before_birth(change: _Change) -> Content:
    content = change.content
    changed = change.dose(occurrence=date_text(content.person.birth - 1 - change.variant % 300))
    return changed if content.residence else replace(changed, residence=change.country.municipios[0])


def _date_unreadable(change: _Change) -> Content:
    return change.dose(
        occurrence=change.pick(("14/03/2026", "2026-02-30", "2026-13-01T10:00:00-03:00", "ontem", "2021"))
    )


def _vaccine_missing(change: _Change) -> Content:
    return change.dose(vaccine="")


def _vaccine_unknown(change: _Change) -> Content:
    return change.dose(vaccine=change.pick(("119", "999", "X15", "0")))


def _lot_odd(change: _Change) -> Content:
    text = change.pick(ODD_LOTS).format(n=1000 + change.variant)
    return change.dose(lot=json.dumps(text, ensure_ascii=change.variant % 2 == 0))


def _lot_expired(change: _Change) -> Content:
    day = change.content.doses[0].occurrence
    return change.dose(expiration=f"{int(day[:4]) - 1:04d}-{day[5:7]}-15")


def _maker_template(change: _Change) -> Content:
    content = replace(change.content, kind=Kind.CAMPAIGN_1, systems=LEGACY, condition="")
    first = replace(
        content.doses[0],
        maker="",
        written_maker=codes.TEMPLATE_MAKER,
        strategy="",
        maternal="",
        primary_source="",
        origin="",
        country="",
        expiration="",
        site="",
        route="",
        leprosy="",
        cbo="223505",
        group=content.doses[0].group or "000210",
    )
    return replace(content, doses=(first,))


def _country_abroad(change: _Change) -> Content:
    origin = "2" if change.content.systems is TERMINOLOGY else "02"
    return change.dose(country=change.pick(codes.ABROAD), origin=origin, primary_source="false")


def _group(code: str, change: _Change) -> Content:
    return change.dose(group=code)


def _code_inactive(change: _Change) -> Content:
    if change.variant % 2:
        return change.dose(group=codes.INACTIVE_GROUPS[change.variant // 2 % len(codes.INACTIVE_GROUPS)])
    return change.dose(vaccine=codes.INACTIVE_VACCINES[change.variant // 2 % len(codes.INACTIVE_VACCINES)])


_CHANGES: Final[dict[Trap, Callable[[_Change], Content]]] = {
    Trap.CNES_UNKNOWN: _cnes_unknown,
    Trap.CNES_ABSENT: _cnes_absent,
    Trap.CNES_MALFORMED: _cnes_malformed,
    Trap.CNES_UNPADDED: _cnes_unpadded,
    Trap.PERSON_INVALID: _person_invalid,
    Trap.DATE_FUTURE: _date_future,
    Trap.DATE_ANCIENT: _date_ancient,
    Trap.DATE_BEFORE_BIRTH: _date_before_birth,
    Trap.DATE_UNREADABLE: _date_unreadable,
    Trap.VACCINE_MISSING: _vaccine_missing,
    Trap.VACCINE_UNKNOWN: _vaccine_unknown,
    Trap.LOT_ODD: _lot_odd,
    Trap.LOT_EXPIRED: _lot_expired,
    Trap.MAKER_TEMPLATE: _maker_template,
    Trap.COUNTRY_ABROAD: _country_abroad,
    Trap.GROUP_UNKNOWN: lambda change: _group("004242", change),
    Trap.GROUP_OTHERS: lambda change: _group("999999", change),
    Trap.CODE_INACTIVE: _code_inactive,
    Trap.RESIDENCE_IGNORED: lambda change: replace(change.content, residence="999999"),
    Trap.UNKNOWN_FIELD: lambda change: replace(change.content, unknown_field=True),
    Trap.NARRATIVE: lambda change: replace(change.content, narrative=True),
}

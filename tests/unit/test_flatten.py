"""The whole of `run_flatten` over small landing files: rows, account and what must not leave."""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from imunizacao.errors import ContractViolation
from imunizacao.flatten import _keys_mark
from imunizacao.settings import PseudonymSettings
from tests.unit.fhir_documents import (
    BASE,
    CNES,
    HOST,
    KINDS,
    PSEUDONYM,
    Flattened,
    Json,
    Person,
    build_entry,
    changed,
    coded_extension,
    concept,
    flatten_lines,
    invent_person,
    line_of,
    patient_resource,
    reject_line,
    resources,
    write_references,
)

KNOWN_CNES = [cnes for cnes, (municipio, _) in CNES.items() if municipio]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reference tables as Parquet."""
    return write_references(tmp_path_factory.mktemp("references"))


@pytest.fixture
def flatten(tables: dict[str, Path], tmp_path: Path) -> Callable[..., Flattened]:
    """Run flatten over entries (dicts) or lines (bytes) of one part."""

    def run(entries: list[Any], **options: Any) -> Flattened:
        lines = [entry if isinstance(entry, bytes) else line_of(entry) for entry in entries]
        return flatten_lines(tmp_path, tables, [lines], **options)

    return run


def entry(identifier: str = "doc-a", **options: Any) -> Json:
    """A routine document, always the same one for the same options."""
    rng = random.Random(f"entry {identifier}")
    person = options.pop("person", None) or invent_person(rng)
    return build_entry(rng, identifier=identifier, person=person, **options)


def ids(rows: list[Json]) -> list[str]:
    """Document ids of rows, sorted."""
    return sorted(str(row["co_documento"]) for row in rows)


# --- (a) the fast path and the order-free path give the same rows -----------------------------------


def _random_documents(count: int, seed: int) -> tuple[list[Json], list[Person]]:
    rng = random.Random(seed)
    entries, people = [], []
    for number in range(count):
        person = invent_person(rng)
        people.append(person)
        made = build_entry(
            rng,
            identifier=f"00000000-0000-4000-8000-{number:012d}{rng.choice(['', '-i0b0', '-c0m1'])}",
            person=person,
            kind=KINDS[number % len(KINDS)],
            instant=f"2026-03-14T{rng.randrange(24):02d}:{rng.randrange(60):02d}:07.{rng.randrange(1000):03d}-03:00",
            cnes=rng.choice([*KNOWN_CNES, "123", "9999999", None]),
            replaces=rng.choice([None, None, f"Composition/{number:08d}-0000-4000-8000-000000000000"]),
            with_patient=rng.random() < 0.5,
        )
        if rng.random() < 0.2:
            del made["resource"]["id"]
        if rng.random() < 0.2:
            del resources(made)[0]["resource"]["subject"]
        if rng.random() < 0.1:
            dose = resources(made)[1]["resource"]
            dose["protocolApplied"][0] = {"doseNumberPositiveInt": 2} | {
                name: value for name, value in dose["protocolApplied"][0].items() if name == "extension"
            }
        entries.append(made)
    return entries, people


def _shuffled_entries(rng: random.Random) -> Callable[[Json], None]:
    return lambda made: rng.shuffle(resources(made))


def _unknown_entry(rng: random.Random) -> Callable[[Json], None]:
    def change(made: Json) -> None:
        unknown = {"fullUrl": "urn:uuid:unknown", "resource": {"resourceType": "Basic", "status": "x", "id": "unknown"}}
        resources(made).insert(rng.randrange(len(resources(made)) + 1), unknown)

    return change


def _shuffled_extensions(rng: random.Random) -> Callable[[Json], None]:
    def change(made: Json) -> None:
        for item in resources(made):
            if item["resource"]["resourceType"] == "Immunization":
                rng.shuffle(item["resource"]["extension"])
                rng.shuffle(item["resource"]["protocolApplied"][0].get("extension", []))

    return change


def _unknown_extensions(rng: random.Random) -> Callable[[Json], None]:
    def change(made: Json) -> None:
        for item in resources(made):
            if item["resource"]["resourceType"] == "Immunization":
                for place in (item["resource"], item["resource"]["protocolApplied"][0]):
                    found = place.setdefault("extension", [])
                    for number in range(2):
                        found.insert(
                            rng.randrange(len(found) + 1),
                            {"url": f"http://example.org/StructureDefinition/Nova{number}", "valueString": "?"},
                        )

    return change


def _new_terminology_addresses(rng: random.Random) -> Callable[[Json], None]:
    def change(made: Json) -> None:
        text = json.dumps(made).replace(f"{BASE}CodeSystem/", "https://terminologia.saude.gov.br/fhir/CodeSystem/")
        made.clear()
        made.update(json.loads(text))

    return change


@pytest.fixture(scope="module")
def canonical(tables: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Json], Flattened]:
    """300 random documents in the canonical shape and what flatten makes of them."""
    entries, _ = _random_documents(300, seed=20260314)
    return entries, flatten_lines(tmp_path_factory.mktemp("canonical"), tables, [[line_of(made) for made in entries]])


@pytest.mark.parametrize(
    ("variant", "some_any_shape"),
    [
        (_shuffled_entries, True),
        (_unknown_entry, True),
        (_unknown_extensions, True),
        (_shuffled_extensions, False),
        (_new_terminology_addresses, False),
    ],
)
def test_order_and_unknown_elements_change_no_row(
    canonical: tuple[list[Json], Flattened],
    tables: dict[str, Path],
    tmp_path: Path,
    variant: Callable[[random.Random], Callable[[Json], None]],
    some_any_shape: bool,
) -> None:
    entries, expected = canonical
    assert expected.counts["any_shape"] == 0, "the canonical documents must take the fast path"
    assert len(expected.dose) > 100, "most documents must reach the table, or the comparison says little"
    change = variant(random.Random(7))
    found = flatten_lines(tmp_path, tables, [[line_of(changed(made, change)) for made in entries]])
    assert (found.counts["any_shape"] > 150) is some_any_shape
    assert found.rows(with_place=True) == expected.rows(with_place=True)
    assert found.quarantine == expected.quarantine
    assert found.removed == expected.removed
    assert found.codes == expected.codes


def test_every_optional_column_is_filled_somewhere(canonical: tuple[list[Json], Flattened]) -> None:
    _, found = canonical
    empty_by_contract = {"ds_nacionalidade_paciente", "dt_deletado_rnds", "dt_entrada_datalake", "ds_sistema_origem"}
    empty = {name for name in found.dose[0] if all(row[name] is None for row in found.dose)}
    empty -= {"in_fabricante_divergente", "in_idade_no_grupo"}  # both paths: tests/unit/test_flatten_flags.py
    empty -= {"co_paciente_anterior"}  # filled while keys change, on the same path as co_paciente
    assert empty <= empty_by_contract, f"never filled, so never compared: {sorted(empty - empty_by_contract)}"


def test_the_composition_names_the_document_wherever_it_stands(flatten: Callable[..., Flattened]) -> None:
    def nameless(made: Json) -> None:
        made["fullUrl"] = "urn:uuid:transient-0"
        del made["resource"]["id"]
        resources(made)[0]["resource"]["id"] = "id-of-the-composition"
        resources(made).reverse()

    assert ids(flatten([changed(entry(), nameless)]).dose) == ["id-of-the-composition-i0b0"]


def test_an_extension_with_a_longer_name_is_another_extension_on_both_paths(flatten: Callable[..., Flattened]) -> None:
    def longer(made: Json) -> None:
        resources(made)[1]["resource"]["extension"] = [
            coded_extension("BRGrupoAtendimentoEspecial", "BRGrupoAtendimentoEspecial", "000101")
        ]

    fast = changed(entry("doc-a"), longer)
    slow = changed(entry("doc-b"), longer)
    resources(slow).reverse()
    found = flatten([fast, slow])
    assert [row["co_vacina_grupo_atendimento"] for row in found.dose] == [None, None]


# --- (b) several doses in one document ---------------------------------------------------------------


@pytest.mark.parametrize(
    "reference",
    ["urn:uuid:transient-{n}", "Immunization/{id}", HOST + "Immunization/{id}"],
    ids=["urn", "relative", "absolute"],
)
@pytest.mark.parametrize("suffix", ["", "-i0b0"])
def test_doses_of_a_load_document_are_numbered_as_its_sections_name_them(
    flatten: Callable[..., Flattened], reference: str, suffix: str
) -> None:
    made = entry(f"doc-load{suffix}", kind="load", doses=4)
    items = resources(made)
    for n in range(1, 5):
        items[n]["resource"]["lotNumber"] = f"LOTE-{n}"
    named = [3, 1, 4]
    items[0]["resource"]["section"] = [
        {"entry": [{"reference": reference.format(n=n, id=items[n]["resource"]["id"])} for n in named[:2]]},
        {"entry": [{"reference": reference.format(n=n, id=items[n]["resource"]["id"])} for n in named[2:]]},
    ]
    items[2], items[4] = items[4], items[2]
    found = flatten([made])
    # The dose that no section names comes last.
    assert {row["co_documento"]: row["co_lote_vacina"] for row in found.dose} == {
        "doc-load-i0b0": "LOTE-3",
        "doc-load-i1b0": "LOTE-1",
        "doc-load-i2b0": "LOTE-4",
        "doc-load-i3b0": "LOTE-2",
    }
    assert found.counts["doses"] == found.counts["candidates"] == 4
    assert {row["nu_linha"] for row in found.dose} == {1}


def test_one_unreadable_dose_does_not_cost_the_others(flatten: Callable[..., Flattened]) -> None:
    made = entry("doc-load", kind="load", doses=3)
    resources(made)[2]["resource"]["occurrenceDateTime"] = "2026-02"
    found = flatten([made])
    assert ids(found.dose) == ["doc-load-i0b0", "doc-load-i2b0"]
    assert [(row["co_documento"], row["ds_motivos"]) for row in found.quarantine] == [
        ("doc-load-i1b0", ["DATE_UNREADABLE"])
    ]


# --- (c) the account, against an oracle in plain Python ----------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """One landed line: what it says, as the one who planted it knows, and its bytes."""

    line: bytes
    key: str
    """Document id without the suffix of the dose; for a line without one, its bytes."""
    identifier: str | None = None
    instant: str | None = None
    """None = cannot be read. All instants have one offset, so they sort as text."""
    version: int = 0
    doses: int = 1
    status: str = "final"
    cnes: str | None = None
    replaces: str | None = None
    lineage: str | None = None
    faults: frozenset[str] = frozenset()
    bad_dates: frozenset[int] = frozenset()
    place: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the rules of the account say about a set of landed lines."""

    counts: dict[str, int]
    published: list[str]
    quarantined: list[tuple[str | None, tuple[str, ...]]]
    removed: list[tuple[str, str | None, str]]


_DOSE_SUFFIX = re.compile(r"-i[0-9]{1,3}b[0-9]{1,3}$")


def base_of(reference: str) -> str:
    """Document id that a reference names, without the suffix."""
    return _DOSE_SUFFIX.sub("", reference.rsplit("/", 1)[-1])


def dose_id(identifier: str, dose: int) -> str:
    """Row key: the id as served, with the suffix added where it is absent; other doses get their own."""
    if dose == 0 and _DOSE_SUFFIX.search(identifier):
        return identifier
    return f"{_DOSE_SUFFIX.sub('', identifier)}-i{dose}b0"


def account_of(landed: list[Landed], rejected: list[bytes]) -> Account:
    """Work out the account from the written rules: one pass per rule, no table, nothing shared with the SQL."""
    # fetched = unique + duplicates: of one document, the newest version counts.
    latest: dict[str, Landed] = {}
    for item in landed:
        rival = latest.get(item.key)
        if rival is None or _age(item) > _age(rival):
            latest[item.key] = item
    unique = list(latest.values())
    superseded = _superseded(unique)
    counts = dict.fromkeys(("doses", "candidates", "quarantined", "superseded", "removed"), 0)
    published: list[str] = []
    quarantined: list[tuple[str | None, tuple[str, ...]]] = []
    removed: dict[str, tuple[int, str, str, str | None, str]] = {}
    for item in unique:
        doses = max(1, item.doses)
        counts["doses"] += doses
        if item.identifier is not None and item.replaces and base_of(item.replaces) != item.key and item.instant:
            gone, by = dose_id(item.replaces.rsplit("/", 1)[-1], 0), dose_id(item.identifier, 0)
            removed[gone] = max(removed.get(gone, (0, "", "", None, "")), (2, item.instant, gone, by, "replaced"))
        if item.status == "entered-in-error" and item.faults <= {"DOSE_MISSING"}:
            counts["removed"] += doses
            gone = dose_id(str(item.identifier), 0)
            removed.setdefault(gone, (1, "", gone, None, "entered-in-error"))
        elif item.key in superseded:
            counts["superseded"] += doses
        else:
            for dose in range(doses):
                reasons = item.faults or _dose_faults(item, dose)
                name = dose_id(item.identifier, dose) if item.identifier else None
                if reasons:
                    counts["quarantined"] += 1
                    quarantined.append((name, tuple(sorted(reasons))))
                else:
                    counts["candidates"] += 1
                    published.append(str(name))
    different = len({hashlib.sha256(body).digest() for body in rejected})
    counts["doses"] += different
    counts["quarantined"] += different
    quarantined += [(None, ("DEPTH",))] * different
    counts["fetched"] = len(landed) + len(rejected)
    counts["unique"] = len(unique) + different
    counts["duplicates"] = counts["fetched"] - counts["unique"]
    counts["removals"] = len(removed)
    return Account(
        counts=counts,
        published=sorted(published),
        quarantined=sorted(quarantined, key=repr),
        removed=sorted(((gone, by, why) for _, _, gone, by, why in removed.values()), key=repr),
    )


def _age(item: Landed) -> tuple[bool, str, int, int]:
    return (item.instant is not None, item.instant or "", item.version, -item.place)


def _dose_faults(item: Landed, dose: int) -> frozenset[str]:
    faults = set()
    if item.cnes is None:
        faults.add("CNES_MISSING")
    elif not (item.cnes.isdigit() and len(item.cnes) <= 7):
        faults.add("CNES_MALFORMED")
    elif item.cnes.zfill(7) not in CNES:
        faults.add("CNES_UNKNOWN")
    elif CNES[item.cnes.zfill(7)][0] is None:
        faults.add("CNES_WITHOUT_MUNICIPIO")
    if dose in item.bad_dates:
        faults.add("DATE_UNREADABLE")
    return frozenset(faults)


def _superseded(unique: list[Landed]) -> set[str]:
    """Keys that another document of the day takes the place of; of a circle, the newest stays unless replaced from outside."""
    by_key = {item.key: item for item in unique}
    takes: dict[str, set[str]] = {key: set() for key in by_key}
    for item in unique:
        if item.replaces and base_of(item.replaces) in by_key and base_of(item.replaces) != item.key:
            takes[item.key].add(base_of(item.replaces))
    lines: dict[str, list[Landed]] = {}
    named = set().union(*takes.values())
    for item in unique:
        # Of the documents that nobody names and that are not cancelled, the newest of an identifier stays.
        if item.lineage and item.key not in named and item.status != "entered-in-error":
            lines.setdefault(item.lineage, []).append(item)
    pairs = []
    for line in lines.values():
        line.sort(key=lambda item: (item.instant is not None, item.instant or "", item.version, item.key))
        pairs += [(new.key, old.key) for old, new in pairwise(line)]
    for new, old in pairs:
        takes[new].add(old)

    def reaches(key: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(takes[key])
        while waiting:
            here = waiting.pop()
            if here not in seen:
                seen.add(here)
                waiting += takes[here]
        return seen

    reach = {key: reaches(key) for key in by_key}
    gone = set()
    for new, olds in takes.items():
        for old in olds:
            circle = {key for key in reach[old] if old in reach[key]}
            if new not in circle:
                gone.add(old)
            else:
                newest = max(circle, key=lambda key: (by_key[key].instant or "", by_key[key].version, key))
                gone |= circle - {newest}
    return gone


def _plant(rng: random.Random, count: int) -> tuple[list[Landed], list[bytes]]:
    """Random landed lines with every kind of trouble, and rejected bodies with repetitions."""
    names = [f"{rng.randrange(16**8):08x}-0000-4000-8000-{n:012d}" for n in range(count)]
    landed: list[Landed] = []
    for number, name in enumerate(names):
        landed.append(_planted_document(rng, names, number, name))
    for _ in range(count // 5):
        landed.append(rng.choice(landed))
    for _ in range(count // 5):
        older = rng.choice([item for item in landed if item.identifier and item.instant])
        landed.append(_newer_version(rng, older))
    for text in (b'{"fullUrl": "Bundle/cut", "resource": {"resou', b'{"a": "\\ud800"}', b"not json at all", b"{}}"):
        landed.append(Landed(line=text, key=repr(text), faults=frozenset({"JSON_INVALID"})))
    landed.append(landed[-1])
    for text in (b"{}", b"[]", b"null", b'"text"', b"12"):
        faults = {"NOT_A_DOCUMENT", "ID_MISSING", "LAST_UPDATED_INVALID", "COMPOSITION_INVALID", "DOSE_MISSING"}
        landed.append(Landed(line=text, key=repr(text), faults=frozenset(faults)))
    rng.shuffle(landed)
    bodies = [f"too deep {rng.randrange(3)}".encode() for _ in range(5)]
    placed = [
        Landed(**{name: getattr(item, name) for name in Landed.__slots__} | {"place": place})
        for place, item in enumerate(landed)
    ]
    return placed, bodies


def _planted_document(rng: random.Random, names: list[str], number: int, name: str) -> Landed:
    identifier = name + rng.choice(["", "-i0b0"])
    second = rng.randrange(86_400)
    instant = f"2026-03-14T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.000-03:00"
    kind = rng.choice(KINDS)
    doses = rng.choice([1, 1, 1, 2, 4]) if kind in {"load", "campaign-1"} else 1
    status = rng.choice(["final"] * 8 + ["entered-in-error", "amended"])
    cnes = rng.choice([*KNOWN_CNES * 3, "123", "7654321", "9999999", "X1", None])
    other = rng.choice(names)
    replaces = (
        rng.choice([f"Composition/{other}", f"Composition/{other}-i0b0", f"{HOST}Composition/{other}-i0b0", other])
        if rng.random() < 0.3
        else None
    )
    local = f"local-{rng.randrange(len(names) // 3)}" if rng.random() < 0.3 else f"own-{number}"
    made = build_entry(
        rng,
        identifier=identifier,
        person=invent_person(rng),
        kind=kind,
        doses=doses,
        instant=instant,
        version=str(rng.randrange(1, 4)),
        status=status,
        cnes=cnes,
        replaces=replaces,
        local_id=local,
    )
    faults: set[str] = set()
    bad_dates: set[int] = set()
    read_instant: str | None = instant
    if status == "amended":
        faults.add("STATUS_UNKNOWN")
    trouble = rng.choice(
        ["none"] * 6 + ["date", "outside", "no dose", "not a document", "two compositions", "deep", "nul"]
    )
    items = resources(made)
    if trouble == "date":
        items[1]["resource"]["occurrenceDateTime"] = "2026"
        bad_dates.add(0)
    elif trouble == "outside":
        read_instant = rng.choice(["2026-03-13T23:59:59.999-03:00", "2026-03-15T00:00:00.000-03:00"])
        made["resource"]["meta"]["lastUpdated"] = read_instant
        faults.add("LAST_UPDATED_OUTSIDE_DAY")
    elif trouble == "no dose":
        del items[1 : 1 + doses]
        doses = 0
        faults.add("DOSE_MISSING")
    elif trouble == "not a document":
        made["resource"]["type"] = "collection"
        faults.add("NOT_A_DOCUMENT")
    elif trouble == "two compositions":
        # A cancelled document with two Compositions keeps its own words in both.
        items.append(copy.deepcopy(items[0]))
        faults.add("COMPOSITION_INVALID")
        faults.discard("STATUS_UNKNOWN")
    elif trouble == "deep":
        nested: Any = "bottom"
        for _ in range(200):
            nested = {"extension": [nested]}
        made["resource"]["meta"]["extension"] = [nested]
    elif trouble == "nul":
        items[1]["resource"]["lotNumber"] = "L\u00001\u0000"
    return Landed(
        line=line_of(made),
        key=name,
        identifier=identifier,
        instant=read_instant,
        version=int(made["resource"]["meta"]["versionId"]),
        doses=doses,
        status=status,
        cnes=cnes,
        replaces=replaces,
        lineage=local,
        faults=frozenset(faults),
        bad_dates=frozenset(bad_dates),
    )


def _newer_version(rng: random.Random, older: Landed) -> Landed:
    """Another version of the same document: a later version number at the same instant, often with another status."""
    made = json.loads(older.line)
    version = older.version + rng.randrange(1, 9)
    made["resource"]["meta"]["versionId"] = str(version)
    values = {name: getattr(older, name) for name in Landed.__slots__} | {"version": version}
    return Landed(**values | {"line": line_of(made)})


@pytest.mark.parametrize("seed", range(12))
def test_every_document_and_every_dose_ends_in_one_place(tables: dict[str, Path], tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    landed, bodies = _plant(rng, 120)
    expected = account_of(landed, bodies)
    cut = sorted(rng.sample(range(len(landed)), 2))
    parts = [landed[: cut[0]], landed[cut[0] : cut[1]], [], landed[cut[1] :]]
    rejects = [
        [reject_line(body, reason="DEPTH", page=1, position=n) for n, body in enumerate(bodies[:2])],
        [reject_line(body, reason="DEPTH", page=1, position=n) for n, body in enumerate(bodies[2:])],
    ]
    landing = [[item.line for item in part] for part in parts]
    # Reject files are read with a buffer of 128 MiB each: see the test of the memory limit.
    found = flatten_lines(tmp_path, tables, landing, rejects=rejects, memory_limit="4GB")
    counts = {name: count for name, count in found.counts.items() if name != "any_shape"}
    assert counts == expected.counts
    assert ids(found.dose) == expected.published
    assert (
        sorted(((row["co_documento"], tuple(sorted(row["ds_motivos"]))) for row in found.quarantine), key=repr)
        == expected.quarantined
    )
    assert (
        sorted(((row["co_documento"], row["co_troca_documento"], row["co_motivo"]) for row in found.removed), key=repr)
        == expected.removed
    )
    for row in [*found.dose, *(row for row in found.quarantine if row["nu_parte"])]:
        item = parts[row["nu_parte"] - 1][row["nu_linha"] - 1]
        assert row["co_documento"] == (dose_id(item.identifier, row["nu_dose"]) if item.identifier else None)


def test_the_planted_lines_reach_every_place() -> None:
    totals: dict[str, int] = {}
    reasons: set[str] = set()
    for seed in range(12):
        account = account_of(*_plant(random.Random(seed), 120))
        for name, count in account.counts.items():
            totals[name] = totals.get(name, 0) + count
        reasons |= {reason for _, found in account.quarantined for reason in found}
    assert all(totals.values()), f"nothing planted for {[name for name, count in totals.items() if not count]}"
    assert {"JSON_INVALID", "DEPTH", "DOSE_MISSING", "DATE_UNREADABLE", "CNES_WITHOUT_MUNICIPIO"} <= reasons


def test_nothing_came(flatten: Callable[..., Flattened]) -> None:
    found = flatten([])
    assert set(found.counts.values()) == {0}
    assert found.dose == found.quarantine == found.removed == []


def test_no_part_at_all(tables: dict[str, Path], tmp_path: Path) -> None:
    found = flatten_lines(tmp_path, tables, [])
    assert set(found.counts.values()) == {0}


def test_missing_lines_stop_the_day(tables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.unit.fhir_documents as module

    def lose_the_last(path: Path, lines: list[bytes]) -> None:
        original(path, lines[:-1])

    original = module.write_part
    monkeypatch.setattr(module, "write_part", lose_the_last)
    with pytest.raises(ContractViolation, match="1 lines were read from 1 landed parts that should hold 2"):
        flatten_lines(tmp_path, tables, [[line_of(entry("doc-a")), line_of(entry("doc-b"))]])


# --- hostile shapes: one document goes to quarantine, the day goes on --------------------------------


def _set(path: str, value: object) -> Callable[[Json], None]:
    """Set one element of a landing entry; `path` is dotted, numbers are positions."""

    def change(made: Json) -> None:
        here: Any = made
        *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        for step in way:
            here = here[step]
        here[last] = value

    return change


_DOSE = "resource.entry.1.resource"


@pytest.mark.parametrize("reverse", [False, True], ids=["canonical", "any shape"])
@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{_DOSE}.vaccineCode.coding", [None, 1]),
        (f"{_DOSE}.extension", {"url": "x"}),
        (f"{_DOSE}.extension", "x"),
        (f"{_DOSE}.extension", [None, 7, []]),
        (f"{_DOSE}.protocolApplied", {}),
        (f"{_DOSE}.protocolApplied", None),
        (f"{_DOSE}.lotNumber", {"a": 1}),
        (f"{_DOSE}.lotNumber", 12),
        (f"{_DOSE}.primarySource", "maybe"),
        ("resource.entry.0.resource.section", {"entry": 1}),
        ("resource.entry.0.resource.section", "x"),
        ("resource.entry.0.resource.section", [{"entry": [{"reference": 5}, None]}]),
        ("resource.entry.2.resource.extension", {"url": "x"}),
        ("resource.entry.2.resource.extension", [{"url": "/BRRacaCorEtnia", "extension": {"url": "race"}}]),
        ("resource.entry.2.resource.extension", [{"url": "/BRRacaCorEtnia", "extension": "race"}]),
        ("resource.entry.2.resource.extension", [{"url": "/BRRacaCorEtnia", "extension": [3, None]}]),
        ("resource.entry.2.resource.birthDate", 19500101),
        ("resource.entry.2.resource.address", {}),
        ("resource.meta.versionId", {"a": []}),
        ("resource.meta.versionId", "99999999999999999999999999"),
        ("resource.identifier", [{"system": "x"}]),
    ],
)
def test_an_element_of_the_wrong_type_does_not_stop_the_day(
    flatten: Callable[..., Flattened], path: str, value: object, reverse: bool
) -> None:
    _require_that_the_day_goes_on(flatten, path, value, reverse=reverse)


@pytest.mark.parametrize(
    ("path", "value", "reverse"),
    [
        (f"{_DOSE}.vaccineCode.coding", {"code": "1"}, True),
        (f"{_DOSE}.vaccineCode.coding", "1", True),
        ("resource.entry.2.resource.extension", "BRRacaCorEtnia", False),
        ("resource.entry.2.resource.extension", "BRRacaCorEtnia", True),
    ],
)
def test_an_element_of_the_wrong_type_that_stops_the_day_today(
    flatten: Callable[..., Flattened], path: str, value: object, reverse: bool
) -> None:
    _require_that_the_day_goes_on(flatten, path, value, reverse=reverse)


def _require_that_the_day_goes_on(
    flatten: Callable[..., Flattened], path: str, value: object, *, reverse: bool
) -> None:
    hostile = entry("doc-hostile")
    del resources(hostile)[2:]
    resources(hostile).append({"resource": patient_resource(invent_person(random.Random(1)), random.Random(4))})
    hostile = changed(hostile, _set(path, value))
    if reverse:
        resources(hostile).reverse()
    found = flatten([entry("doc-good"), hostile])
    assert "doc-good-i0b0" in ids(found.dose)
    assert found.counts["unique"] == found.counts["candidates"] + found.counts["quarantined"] == 2


@pytest.mark.parametrize(
    "resource_entry", [None, {}, [], "x", {"a": 1}, [None], [[]], [1], [{"resource": None}], [{"resource": []}]]
)
def test_a_bundle_without_usable_entries_goes_to_quarantine(
    flatten: Callable[..., Flattened], resource_entry: object
) -> None:
    found = flatten([entry("doc-good"), changed(entry("doc-hostile"), _set("resource.entry", resource_entry))])
    assert ids(found.dose) == ["doc-good-i0b0"]
    (row,) = found.quarantine
    assert row["co_documento"] == "doc-hostile-i0b0"
    assert sorted(row["ds_motivos"]) == ["COMPOSITION_INVALID", "DOSE_MISSING"]


# --- rules that the whole run must keep --------------------------------------------------------------


def test_a_version_outside_the_day_does_not_hide_the_version_of_the_day(flatten: Callable[..., Flattened]) -> None:
    of_the_day = entry("doc-a", instant="2026-03-14T10:00:00.000-03:00", version="1")
    of_the_next = entry("doc-a", instant="2026-03-15T00:00:01.000-03:00", version="2")
    alone, both = flatten([of_the_day]), flatten([of_the_day, of_the_next])
    assert ids(alone.dose) == ["doc-a-i0b0"]
    assert both.rows() == alone.rows()


def test_the_head_of_a_named_chain_is_not_lost_to_its_cancelled_links(flatten: Callable[..., Flattened]) -> None:
    # R <- S <- T; the source marks R and S as cancelled a moment after T came in, so both are newer than T.
    chain = [
        entry("doc-r", local_id="x", instant="2026-03-14T12:00:00.100-03:00", status="entered-in-error"),
        entry(
            "doc-s",
            local_id="x",
            instant="2026-03-14T12:00:00.200-03:00",
            status="entered-in-error",
            replaces="Composition/doc-r-i0b0",
        ),
        entry("doc-t", local_id="x", instant="2026-03-14T12:00:00.000-03:00", replaces="Composition/doc-s-i0b0"),
    ]
    assert ids(flatten(chain).dose) == ["doc-t-i0b0"]


def test_a_cancelled_document_is_named_in_removed(flatten: Callable[..., Flattened]) -> None:
    found = flatten([entry("doc-a", status="entered-in-error")])
    assert found.counts["removed"] == 1
    assert found.dose == []
    assert [(row["co_documento"], row["co_motivo"]) for row in found.removed] == [("doc-a-i0b0", "entered-in-error")]


def deletion(identifier: str, instant: str) -> Json:
    """The line of a deleted document, as an export lands it."""
    return {
        "fullUrl": f"{HOST}Bundle/{identifier}",
        "request": {"method": "DELETE", "url": f"Bundle/{identifier}"},
        "response": {"lastModified": instant},
    }


def test_a_deleted_document_is_one_removed_dose_and_never_in_quarantine(flatten: Callable[..., Flattened]) -> None:
    found = flatten(
        [
            deletion("doc-a-i0b0", "2026-03-14T12:00:00Z"),
            deletion("doc-b", "2026-03-16T12:00:00Z"),
            entry("doc-c-i0b0"),
        ]
    )
    assert (found.counts["fetched"], found.counts["unique"], found.counts["doses"]) == (3, 3, 3)
    assert (found.counts["removed"], found.counts["candidates"], found.counts["quarantined"]) == (2, 1, 0)
    assert found.quarantine == []
    assert [(row["co_documento"], row["co_motivo"], row["dt_deletado_rnds"]) for row in found.removed] == [
        ("doc-a-i0b0", "deleted", "2026-03-14T09:00:00.000-03:00"),
        ("doc-b-i0b0", "deleted", None),
    ]


def test_the_list_of_deletions_is_the_same_whenever_it_is_asked_for(flatten: Callable[..., Flattened]) -> None:
    today = flatten([deletion("doc-a-i0b0", "2026-03-15T06:00:00Z")])
    later = flatten([deletion("doc-a-i0b0", "2027-01-01T00:00:00Z")])
    assert today.removed == later.removed
    assert today.removed[0]["dt_entrada_rnds"].startswith("2026-03-14T23:59:59.999")


@pytest.mark.parametrize(
    ("deleted", "kept"),
    [
        ("2026-03-14T08:00:00.000-03:00", True),
        ("2026-03-14T10:00:00.000-03:00", False),
        ("2026-03-14T11:00:00.000-03:00", False),
        ("2026-03-20T00:00:00.000-03:00", False),
    ],
    ids=["deleted, then written again", "the same instant", "written, then deleted", "deleted at some time"],
)
def test_a_document_that_is_there_and_deleted_counts_by_the_later_of_both(
    flatten: Callable[..., Flattened], deleted: str, kept: bool
) -> None:
    found = flatten([entry("doc-a-i0b0", instant="2026-03-14T10:00:00.000-03:00"), deletion("doc-a", deleted)])
    assert (found.counts["unique"], found.counts["duplicates"], found.counts["doses"]) == (1, 1, 1)
    assert ids(found.dose) == (["doc-a-i0b0"] if kept else [])
    assert [row["co_documento"] for row in found.removed] == ([] if kept else ["doc-a-i0b0"])


def test_a_document_cannot_call_itself_deleted(flatten: Callable[..., Flattened]) -> None:
    found = flatten([entry("doc-a-i0b0", status="deleted"), {**entry("doc-b-i0b0"), "request": {"method": "DELETE"}}])
    assert found.removed == []
    assert [row["ds_motivos"] for row in found.quarantine] == [["STATUS_UNKNOWN"]]
    assert ids(found.dose) == ["doc-b-i0b0"]


def test_a_replaced_document_of_an_earlier_day_is_removed_outside_of_the_account(
    flatten: Callable[..., Flattened],
) -> None:
    found = flatten([entry("doc-b", replaces="Composition/doc-of-january")])
    assert found.counts["candidates"] == found.counts["doses"] == found.counts["removals"] == 1
    assert found.dose[0]["co_troca_documento"] == "doc-of-january-i0b0"
    assert [(row["co_documento"], row["co_troca_documento"]) for row in found.removed] == [
        ("doc-of-january-i0b0", "doc-b-i0b0")
    ]


@pytest.mark.parametrize(
    ("written", "municipio"), [("5300108", "530010"), ("530020", "530010"), ("3550308", "355030"), ("999999", None)]
)
def test_residence_comes_from_the_ibge_table_only(
    flatten: Callable[..., Flattened], written: str, municipio: str | None
) -> None:
    made = entry("doc-a", with_patient=True)
    for item in resources(made):
        if item["resource"]["resourceType"] == "Patient":
            item["resource"]["address"][0]["_city"]["extension"][0]["valueString"] = written
    assert flatten([made]).dose[0]["co_municipio_paciente"] == municipio


def test_the_codings_own_system_names_the_vaccine(flatten: Callable[..., Flattened]) -> None:
    def two_codings(made: Json) -> None:
        resources(made)[1]["resource"]["vaccineCode"] = {
            "coding": [
                {"system": "http://snomed.info/sct", "code": "871822003"},
                *concept("BRImunobiologico", "2")["coding"],
            ]
        }

    row = flatten([changed(entry(), two_codings)]).dose[0]
    assert (row["co_vacina"], row["sg_vacina"]) == ("2", "SAT")


# --- (d) privacy -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(
    ("element", "table", "column"),
    [
        ("vaccineCode", "BRImunobiologico", "co_vacina"),
        ("site", "BRLocalAplicacao", "co_local_aplicacao"),
        ("route", "BRViaAdministracao", "co_via_administracao"),
        ("reportOrigin", "BRRegistroOrigem", "co_origem_registro"),
    ],
)
def test_a_code_of_another_system_is_none_of_ours(
    flatten: Callable[..., Flattened], element: str, table: str, column: str, shuffled: bool
) -> None:
    foreign = {"system": "http://terminology.example.org/sid/other", "code": "33"}
    alone = changed(entry("a"), _set(f"{_DOSE}.{element}", {"coding": [foreign]}))
    national = {"system": f"{BASE}CodeSystem/{table}", "code": "02"}
    beside = changed(entry("b"), _set(f"{_DOSE}.{element}", {"coding": [foreign, national]}))
    if shuffled:
        for made in (alone, beside):
            made["resource"]["entry"].reverse()
    rows = {row["co_documento"]: row[column] for row in flatten([alone, beside]).dose}
    assert rows == {"a-i0b0": None, "b-i0b0": "02"}


def _of_another_type(identifier: str, status: str = "final", code: str = "REL") -> Json:
    made = entry(identifier)
    composition, dose = resources(made)[:2]
    composition["resource"]["type"] = {"coding": [{"system": f"{BASE}CodeSystem/BRTipoDocumento", "code": code}]}
    composition["resource"]["status"] = status
    dose["resource"] = {"resourceType": "Observation", "status": "final"}
    return made


def test_a_document_of_another_type_is_counted_and_nothing_else(flatten: Callable[..., Flattened]) -> None:
    others = [_of_another_type("r1"), _of_another_type("r2", "entered-in-error"), _of_another_type("s1", code="SA")]
    done = flatten([entry("a"), *others, _of_another_type("r1")])
    assert ids(done.dose) == ["a-i0b0"]
    assert (done.quarantine, done.removed) == ([], [])
    assert (done.counts["fetched"], done.counts["unique"], done.counts["duplicates"], done.counts["doses"]) == (
        5,
        4,
        1,
        1,
    )
    assert {name: count for name, count in done.codes.items() if "outro tipo" in name} == {
        "documento de outro tipo REL": 2,
        "documento de outro tipo SA": 1,
    }
    assert not [name for name in done.codes if name.startswith("perfil desconhecido")]


@pytest.mark.parametrize("type_", [["RIA"], ["11369-6", "RIA"], ["ria"], []])
def test_a_vaccination_without_its_dose_is_no_document_of_another_type(
    flatten: Callable[..., Flattened], type_: list[str]
) -> None:
    said = _set("resource.entry.0.resource.type", {"coding": [{"system": "x", "code": code} for code in type_]})
    open_, cancelled = _of_another_type("a"), _of_another_type("b", "entered-in-error")
    done = flatten([changed(open_, said), changed(cancelled, said)])
    assert [row["ds_motivos"] for row in done.quarantine] == [["DOSE_MISSING"]]
    assert [row["co_documento"] for row in done.removed] == ["b-i0b0"]


def test_types_are_shown_by_their_letters_alone(flatten: Callable[..., Flattened]) -> None:
    done = flatten([_of_another_type("a", code="N52998224725"), _of_another_type("b", code="11369-6")])
    assert [name for name in done.codes if "outro tipo" in name] == ["documento de outro tipo (ilegível)"]


def test_nothing_that_names_a_person_leaves_flatten(tables: dict[str, Path], tmp_path: Path) -> None:
    entries, people = _random_documents(200, seed=99)
    rng = random.Random(5)
    for made in entries[:60]:
        resources(made)[0]["resource"]["status"] = rng.choice(["entered-in-error", "amended"])
    for made in entries[60:120]:
        rng.shuffle(resources(made))
    found = flatten_lines(tmp_path, tables, [[line_of(made) for made in entries]])
    assert found.dose
    assert found.quarantine
    assert found.removed
    cells = {
        str(value) for rows in (found.dose, found.quarantine, found.removed) for row in rows for value in row.values()
    }
    text = "\n".join(cells)
    landed = "\n".join(line_of(made).decode() for made in entries)
    for number, person in enumerate(people):
        assert person.name in landed or person.local_id in landed, "a canary that went in nowhere proves nothing"
        leaked = [place for place, secret in enumerate(person.secrets) if secret in text]
        assert not leaked, f"person {number}: secret number(s) {leaked} of Person.secrets are in an output"


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("700000000000005", "cns:700000000000005"),
        ("111.444.777-35", "cpf:11144477735"),
        ("11144477735", "cpf:11144477735"),
        ("123", None),
        ("", None),
    ],
)
def test_a_person_becomes_a_keyed_hash_of_the_digits(
    flatten: Callable[..., Flattened], identifier: str, message: str | None
) -> None:
    person = Person(identifier=identifier, name="n", birth="1980-01-01", cep="01001000", professional="7", local_id="l")
    row = flatten([entry(person=person)]).dose[0]
    expected = message and hmac.new(PSEUDONYM.key, message.encode(), hashlib.sha256).hexdigest()
    assert row["co_paciente"] == expected
    assert row["in_id_paciente_valido"] is (message is not None)


def test_another_key_gives_other_pseudonyms_and_nothing_else(flatten: Callable[..., Flattened]) -> None:
    long_key = PseudonymSettings(key=b"another key, longer than one block of the hash function" * 3, key_id="t2")
    first, second = flatten([entry()]).dose[0], flatten([entry()], pseudonym=long_key).dose[0]
    assert {name for name in first if first[name] != second[name]} == {"co_paciente", "co_identificador_sistema"}


def test_while_keys_change_a_row_has_the_pseudonym_of_both_eras(flatten: Callable[..., Flattened]) -> None:
    people = [
        entry("doc-a"),
        entry("doc-b"),
        entry(
            "doc-c",
            person=Person(
                identifier="123", name="n", birth="1980-01-01", cep="01001000", professional="7", local_id="l"
            ),
        ),
    ]
    new = PseudonymSettings(
        key=b"the new key" * 4, key_id="t2", previous_key=PSEUDONYM.key, previous_key_id=PSEUDONYM.key_id
    )
    before, during = flatten(people).dose, flatten(people, pseudonym=new).dose
    assert [row["co_paciente_anterior"] for row in before] == [None, None, None]
    assert [row["co_paciente_anterior"] for row in during] == [row["co_paciente"] for row in before]
    assert len({row["co_paciente"] for row in [*before, *during]} - {None}) == 4
    # The local id has no column of its own for the era before: documents link by their RNDS ids, which no key changes.
    local = {row["co_identificador_sistema"] for row in before} & {row["co_identificador_sistema"] for row in during}
    assert local == set()


def test_the_work_of_one_set_of_keys_is_not_taken_for_that_of_another() -> None:
    present, before = b"p" * 32, b"b" * 32
    marks = {
        _keys_mark(keys)
        for keys in (
            PseudonymSettings(key=present, key_id="k2"),
            PseudonymSettings(key=before, key_id="k2"),
            PseudonymSettings(key=present, key_id="k3"),
            PseudonymSettings(key=present, key_id="k2", previous_key=before, previous_key_id="k1"),
            PseudonymSettings(key=present, key_id="k2", previous_key=b"o" * 32, previous_key_id="k1"),
            PseudonymSettings(key=present, key_id="k2", previous_key=before, previous_key_id="k0"),
        )
    }
    assert len(marks) == 6
    assert not [mark for mark in marks if "pppp" in mark or present.hex() in mark]


@pytest.mark.parametrize(
    ("cep", "published"), [("01310-100", "01310"), ("01310100", "01310"), ("00000000", None), ("1310", None)]
)
def test_five_digits_of_the_cep_are_published(
    flatten: Callable[..., Flattened], cep: str, published: str | None
) -> None:
    made = entry(with_patient=True)
    for item in resources(made):
        if item["resource"]["resourceType"] == "Patient":
            item["resource"]["address"][0]["postalCode"] = cep
    assert flatten([made]).dose[0]["nu_cep_paciente"] == published


@pytest.mark.parametrize(
    ("birth", "vaccine", "age"),
    [
        ("1980-03-14", "2026-03-13", 45),
        ("1980-03-14", "2026-03-14", 46),
        ("2024-02-29", "2026-02-27", 1),
        ("2024-02-29", "2026-03-01", 2),
        ("2026-03-14", "2026-03-14", 0),
        ("2026-03-14", "2026-03-13", None),
        ("1980", "2026-03-13", None),
    ],
)
def test_age_is_in_whole_years_on_the_day_of_the_dose(
    flatten: Callable[..., Flattened], birth: str, vaccine: str, age: int | None
) -> None:
    made = entry(with_patient=True)
    for item in resources(made):
        if item["resource"]["resourceType"] == "Patient":
            item["resource"]["birthDate"] = birth
        if item["resource"]["resourceType"] == "Immunization":
            item["resource"]["occurrenceDateTime"] = vaccine
    assert flatten([made]).dose[0]["nu_idade_paciente"] == age


# --- (e) the machine does not change the rows --------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tables: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[bytes]], Flattened]:
    """Planted lines in four parts, and what flatten makes of them with one thread."""
    landed, _ = _plant(random.Random(77), 400)
    lines = [item.line for item in landed]
    parts = [lines[:50], lines[50:51], lines[51:300], lines[300:]]
    return parts, flatten_lines(tmp_path_factory.mktemp("planted"), tables, parts, threads=1, memory_limit="4GB")


@pytest.mark.parametrize(("threads", "memory_limit"), [(1, "512MB"), (2, "1GB"), (3, "2GB"), (4, "4GB")])
def test_threads_and_memory_do_not_change_a_row(
    planted: tuple[list[list[bytes]], Flattened],
    tables: dict[str, Path],
    tmp_path: Path,
    threads: int,
    memory_limit: str,
) -> None:
    parts, expected = planted
    found = flatten_lines(tmp_path, tables, parts, threads=threads, memory_limit=memory_limit)
    assert found.rows(with_place=True) == expected.rows(with_place=True)
    assert found.quarantine == expected.quarantine
    assert found.removed == expected.removed
    assert found.counts == expected.counts


def test_two_parts_fit_into_512_mb(tables: dict[str, Path], tmp_path: Path) -> None:
    lines = [line_of(entry(f"doc-{number}")) for number in range(4000)]
    found = flatten_lines(tmp_path, tables, [lines[:2000], lines[2000:]], threads=2, memory_limit="512MB")
    assert found.counts["candidates"] == 4000


def test_two_files_of_rejected_entries_fit_into_512_mb(tables: dict[str, Path], tmp_path: Path) -> None:
    rejects = [[reject_line(b"x", reason="DEPTH", page=1, position=n)] for n in range(2)]
    found = flatten_lines(tmp_path, tables, [[]], rejects=rejects, threads=2, memory_limit="512MB")
    assert found.counts["fetched"] == 2


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_parts_and_lines_does_not_change_a_row(
    planted: tuple[list[list[bytes]], Flattened], tables: dict[str, Path], tmp_path: Path, seed: int
) -> None:
    parts, expected = planted
    rng = random.Random(seed)
    lines = [line for part in parts for line in part]
    if seed:
        rng.shuffle(lines)
        mixed = [lines[:7], [], lines[7:200], lines[200:]]
    else:
        mixed = list(reversed(parts))
    found = flatten_lines(tmp_path, tables, mixed)
    assert found.rows() == expected.rows()
    assert found.removed == expected.removed
    assert found.counts == expected.counts
    assert sorted((str(row["co_documento"]), row["ds_motivos"]) for row in found.quarantine) == sorted(
        (str(row["co_documento"]), row["ds_motivos"]) for row in expected.quarantine
    )

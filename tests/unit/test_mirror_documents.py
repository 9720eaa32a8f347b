"""Documents of the simulator: deterministic, shaped like the RNDS's, with the traps that the plan promises."""

from __future__ import annotations

import csv
import json
import re
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from tests.mirror import cnes, codes, documents, identifiers, persons
from tests.mirror.calendar import SAO_PAULO, DayClock, in_batch, parse_ms
from tests.mirror.content import Country, Shares
from tests.mirror.documents import Archive, Expected, Settings
from tests.mirror.landing import write_landing
from tests.mirror.traps import COPY_SHARE, SHARES, Outcome, Trap

DAY = date(2026, 3, 14)
DOCS = 20_000
PNI = cnes.REFERENCE / "pni"


@pytest.fixture(scope="module")
def country() -> Country:
    return Country.read()


@pytest.fixture(scope="module")
def archive(country: Country) -> Archive:
    return Archive(country, Settings(seed=7, docs_per_day=DOCS))


@pytest.fixture(scope="module")
def texts(archive: Archive) -> list[str]:
    day = archive.day(DAY)
    return [day.document(k) for k in range(DOCS)]


@pytest.fixture(scope="module")
def bundles(texts: list[str]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in texts]


@pytest.fixture(scope="module")
def plan() -> list[Expected]:
    return list(documents.expected(7, DAY, DOCS))


def _resources(bundle: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


def _dose(bundle: dict[str, Any]) -> dict[str, Any]:
    first = _resources(bundle, "Composition")[0]["section"][0]["entry"][0]["reference"]
    return next(one for one in _resources(bundle, "Immunization") if first.endswith(one["id"]))


def _paths(value: Any, kind: str = "", path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        own = value.get("resourceType", kind)
        if own != kind:
            kind, path = own, ""
        for name, inner in value.items():
            yield from _paths(inner, kind, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _paths(inner, kind, path)
    else:
        yield f"{kind}{path}"


def test_the_same_arguments_give_the_same_bytes(country: Country, texts: list[str]) -> None:
    assert documents.document(7, DAY, 4321, DOCS) == texts[4321].encode()
    backwards = Archive(country, Settings(seed=7, docs_per_day=DOCS)).day(DAY)
    for k in (19_999, 12_345, 1_000, 999, 33, 0):
        assert backwards.document(k) == texts[k]
    other_seed = Archive(country, Settings(seed=8, docs_per_day=DOCS)).day(DAY)
    assert all(other_seed.document(k) != texts[k] for k in range(50))


def test_every_document_is_a_compact_document_bundle(texts: list[str], bundles: list[dict[str, Any]]) -> None:
    for text, bundle in zip(texts, bundles, strict=True):
        assert bundle["type"] == "document"
        assert bundle["entry"][0]["resource"]["resourceType"] == "Composition"
        assert bundle["id"] == bundle["entry"][0]["resource"]["id"] + "-i0b0"
        assert "\n" not in text
    sizes = [len(text.encode()) for text in texts]
    assert 3000 <= sum(sizes) / DOCS <= 4400


def test_elements_are_those_of_the_official_examples(bundles: list[dict[str, Any]]) -> None:
    lines = (Path(cnes.__file__).parent / "known_elements.txt").read_text(encoding="utf-8").splitlines()
    known = {line for line in lines if not line.startswith("#")}
    found = {path for bundle in bundles for path in _paths(bundle)}
    planted = {
        "Bundle.meta.versionId",
        # Carga 1.0 (profiles of 2020-12-14)
        "Composition.category.coding.system",
        "Composition.category.coding.code",
        "Composition.extension.url",
        "Composition.extension.valueReference.identifier.system",
        "Composition.extension.valueReference.identifier.value",
        # traps: unknown field, narrative
        "Composition.campoNovo.versao",
        "Immunization.extension.valueString",
        "Immunization.text.status",
        "Immunization.text.div",
        # race and ethnicity of an enriched Patient
        "Patient.extension.url",
        "Patient.extension.extension.url",
        "Patient.extension.extension.valueCodeableConcept.coding.system",
        "Patient.extension.extension.valueCodeableConcept.coding.code",
    }
    unused = {
        "Condition.category.coding.display",
        "Immunization.protocolApplied.extension.extension.url",  # clinical trials
        "Immunization.protocolApplied.extension.extension.valueString",
        "Organization.alias",
        "Organization.extension.url",
        "Organization.extension.valueBoolean",
        "Organization.meta.versionId",
        "Organization.type.coding.display",
    }
    assert found == known - unused | planted


def test_the_shapes_of_all_generations_occur(bundles: list[dict[str, Any]]) -> None:
    profiles: Counter[tuple[str, str]] = Counter()
    for bundle in bundles:
        composition = _resources(bundle, "Composition")[0]
        for dose in _resources(bundle, "Immunization"):
            profiles[composition["meta"]["profile"][0].rsplit("/")[-1], dose["meta"]["profile"][0].rsplit("/")[-1]] += 1
    base = "BRRegistroImunobiologicoAdministrado"
    assert set(profiles) == {
        (f"{base}Rotina-2.0", "BRImunobiologicoAdministrado-3.0"),
        (f"{base}Rotina-1.0", "BRImunobiologicoAdministrado-2.0"),
        (f"{base}Campanha-2.0", "BRImunobiologicoAdministradoCampanha-2.0"),
        (f"{base}Campanha-1.0", "BRImunobiologicoAdministradoCampanha-1.0"),
        (f"{base}Carga-1.0", "BRImunobiologicoAdministradoCarga-1.0"),
    }
    assert {len(_resources(bundle, "Immunization")) for bundle in bundles} == {1, 2, 3, 4}


def test_both_families_of_code_systems_occur_and_origins_follow_them(bundles: list[dict[str, Any]]) -> None:
    origins: Counter[tuple[str, str]] = Counter()
    for bundle in bundles:
        dose = _dose(bundle)
        for coding in dose.get("reportOrigin", {}).get("coding", []):
            origins[coding["system"], coding["code"]] += 1
    legacy = "http://www.saude.gov.br/fhir/r4/CodeSystem/BRRegistroOrigem"
    new = "https://terminologia.saude.gov.br/fhir/CodeSystem/BRRegistroOrigem"
    assert set(origins) == {(legacy, "01"), (legacy, "02"), (new, "1"), (new, "2")}
    assert origins[new, "1"] > 200


def test_codes_of_ordinary_documents_are_in_the_reference_tables() -> None:
    def column(table: str, name: str) -> set[str]:
        with (PNI / f"{table}.csv").open(encoding="utf-8", newline="") as file:
            return {row[name] for row in csv.DictReader(file)}

    vaccines = codes.ROUTINE + codes.CAMPAIGN
    checks = {
        ("pni_imunobiologico", "co_vacina"): {v.code for v in vaccines} | set(codes.INACTIVE_VACCINES),
        ("pni_dose", "co_dose_vacina"): {d for v in vaccines for d in v.doses},
        ("pni_fabricante", "co_vacina_fabricante"): {m for v in vaccines for m in v.makers},
        ("pni_via_administracao", "co_via_administracao"): {v.route for v in vaccines} | {"0"},
        ("pni_local_aplicacao", "co_local_aplicacao"): {s for v in vaccines for s in v.sites} | {"0"},
        ("pni_estrategia_vacinacao", "co_estrategia_vacinacao"): {s for v in vaccines for s in v.strategies},
        ("pni_grupo_atendimento", "co_vacina_grupo_atendimento"): {g for v in vaccines for g in v.groups}
        | {"999999", *codes.INACTIVE_GROUPS},
        ("pni_condicao_maternal", "co_condicao_maternal"): {m for v in vaccines for m in v.maternal},
        ("pni_pais", "co_pais"): {*codes.ABROAD, "10"},
    }
    for (table, name), used in checks.items():
        assert used <= column(table, name), f"codes that {table} does not have: {used - column(table, name)}"


def _cns_is_valid(digits: str) -> bool:
    total = sum(int(digit) * (15 - place) for place, digit in enumerate(digits))
    shape = r"[12]\d{10}00[01]\d" if digits[0] in "12" else r"[789]\d{14}"
    return re.fullmatch(shape, digits) is not None and total % 11 == 0


def _cpf_is_valid(digits: str) -> bool:
    def check(part: str) -> int:
        return sum(int(digit) * (len(part) + 1 - place) for place, digit in enumerate(part)) * 10 % 11 % 10

    return len(digits) == 11 and len(set(digits)) > 1 and digits[9:] == f"{check(digits[:9])}{check(digits[:10])}"


def test_identifiers_pass_the_check_digits_and_spoiled_ones_do_not() -> None:
    firsts = set()
    for serial in range(3000):
        person = persons.Person(birth=date(1990, 1, 1).toordinal() + serial % 400, serial=serial)
        assert _cns_is_valid(person.cns), person.cns
        assert _cpf_is_valid(person.cpf), person.cpf
        assert not _cns_is_valid(persons.spoil(person.cns))
        assert not _cpf_is_valid(persons.spoil(person.cpf))
        assert _cns_is_valid(persons.practitioner_cns(serial))
        firsts.add(person.cns[0])
    assert firsts == set("12789")
    assert persons.cpf(0) == "00000000191"


def test_the_patients_of_all_but_the_planted_documents_are_valid(
    bundles: list[dict[str, Any]], plan: list[Expected]
) -> None:
    wrong = [one.k for one, bundle in zip(plan, bundles, strict=True) if not _person_is_valid(bundle)]
    assert wrong == [one.k for one in plan if Trap.PERSON_INVALID in one.traps]


def _person_is_valid(bundle: dict[str, Any]) -> bool:
    value = _resources(bundle, "Composition")[0]["subject"]["identifier"]["value"]
    return _cpf_is_valid(value) if len(value) == 11 else _cns_is_valid(value)


def test_trap_shares_are_those_of_the_table(plan: list[Expected]) -> None:
    counts = Counter(trap for one in plan for trap in one.traps)
    for trap, share in SHARES.items():
        assert abs(counts[trap] - share * DOCS) <= 1, f"{trap}: {counts[trap]} of {share * DOCS}"
    assert abs(counts[Trap.COPY] - COPY_SHARE * DOCS) <= 1
    assert counts[Trap.VERSION_OLD] == counts[Trap.VERSION_NEW]
    assert counts[Trap.TARGET_TODAY] == counts[Trap.REPLACES_TODAY]
    assert counts[Trap.TARGET_EARLIER] == counts[Trap.REPLACES_EARLIER] / 2
    assert set(counts) == {trap.value for trap in Trap}


def test_the_oracle_agrees_with_the_documents(bundles: list[dict[str, Any]], plan: list[Expected]) -> None:
    known = {one.cnes for one in cnes.read_snapshot()}
    seen: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for one, bundle in zip(plan, bundles, strict=True):
        composition = _resources(bundle, "Composition")[0]
        assert one.id == bundle["id"]
        assert one.doses == len(_resources(bundle, "Immunization"))
        assert (composition["status"] == "entered-in-error") == (one.outcome is Outcome.REMOVED), one
        relates = composition.get("relatesTo", [])
        assert bool(relates) == (one.traps[:1] in {("replaces-today",), ("replaces-earlier",)}), one
        number = composition["author"][0]["identifier"].get("value", "")
        unplaced = number.rjust(7, "0") not in known or not number
        planted = {"cnes-unknown", "cnes-absent", "cnes-malformed"}.intersection(one.traps)
        assert unplaced == bool(planted), (one, number)
        assert ("vaccineCode" not in _dose(bundle)) == (one.traps == ("vaccine-missing",)), one
        seen[one.id].append((parse_ms(bundle["meta"]["lastUpdated"]), one.k))
    losers = sum(len(places) - 1 for places in seen.values())
    assert losers == sum(one.outcome is Outcome.DUPLICATE for one in plan)
    for places in seen.values():
        newest = max(places)[0]
        for instant, k in places:
            if instant < newest:
                assert plan[k].traps == ("version-old",)


def test_a_replacement_keeps_the_identifier_of_its_target(
    archive: Archive, bundles: list[dict[str, Any]], plan: list[Expected]
) -> None:
    today = {bundle["id"]: bundle for bundle in bundles}
    earlier_days: Counter[tuple[int, bool]] = Counter()
    for one, bundle in zip(plan, bundles, strict=True):
        if not one.traps or not one.traps[0].startswith("replaces"):
            continue
        target = _resources(bundle, "Composition")[0]["relatesTo"][0]["targetReference"]["reference"].split("/")[1]
        assert target != bundle["id"]
        found = archive.locate(target)
        assert found is not None
        day, k = found
        original = json.loads(day.document(k))
        assert original["id"] == target
        assert original["identifier"] == bundle["identifier"]
        if one.traps == ("replaces-today",):
            assert _resources(today[target], "Composition")[0]["status"] == "entered-in-error"
        else:
            assert day.day < DAY
            assert next(day.expected(k, k + 1)).traps == ("replaced-later",)
            assert _resources(original, "Composition")[0]["status"] == "final"
            earlier_days[(DAY - day.day).days, target in today] += 1
    assert {days for days, _ in earlier_days} == {1, 2, 5, 11}
    assert {served for _, served in earlier_days} == {True, False}


def test_local_ids_are_unique_but_for_versions_and_replacements(bundles: list[dict[str, Any]]) -> None:
    owners = defaultdict(set)
    for bundle in bundles:
        owners[bundle["identifier"]["system"], bundle["identifier"]["value"]].add(bundle["id"])
    shared = [ids for ids in owners.values() if len(ids) > 1]
    assert 0 < len(shared) <= 0.009 * DOCS


def test_instants_grow_with_the_position_and_stay_in_the_day(bundles: list[dict[str, Any]], archive: Archive) -> None:
    clock = archive.day(DAY).clock
    instants = [parse_ms(bundle["meta"]["lastUpdated"]) for bundle in bundles]
    assert instants == sorted(instants)
    assert instants[0] == clock.start == parse_ms("2026-03-14T00:00:00-03:00")
    assert instants[-1] == clock.end - 1 == parse_ms("2026-03-14T23:59:59.999-03:00")
    written = Counter(bundle["meta"]["lastUpdated"][-6:].lstrip("0123456789:.") for bundle in bundles)
    assert set(written) == {"-03:00", "Z"}
    assert 0.04 < written["Z"] / DOCS < 0.12
    night = sum(1 for instant in instants if datetime.fromtimestamp(instant / 1000, SAO_PAULO).hour < 6)
    assert night / DOCS < 0.03


def test_copies_have_the_same_bytes_and_may_lie_apart(texts: list[str], plan: list[Expected]) -> None:
    first: dict[str, int] = {}
    distances = []
    for k, text in enumerate(texts):
        if text in first:
            assert plan[k].traps == ("copy",)
            assert in_batch(k)
            distances.append(k - first[text])
        first.setdefault(text, k)
    assert len(distances) == round(COPY_SHARE * DOCS)
    assert max(distances) > 10


def test_geography_is_tailed_and_reaches_nearly_every_state(bundles: list[dict[str, Any]]) -> None:
    places = {one.cnes: one.municipio for one in cnes.read_snapshot()}
    counts = Counter(
        places.get(_resources(b, "Composition")[0]["author"][0]["identifier"].get("value", ""), "") for b in bundles
    )
    del counts[""]
    assert len({code[:2] for code in counts}) == 27
    assert counts.most_common(1)[0][0] == "355030"
    assert len(counts) > 3000


def test_shares_of_what_a_mirror_adds(bundles: list[dict[str, Any]], country: Country) -> None:
    patients = sum(bool(_resources(bundle, "Patient")) for bundle in bundles) / DOCS
    organizations = sum(bool(_resources(bundle, "Organization")) for bundle in bundles) / DOCS
    conditions = sum(bool(_resources(bundle, "Condition")) for bundle in bundles) / DOCS
    transcribed = sum(_dose(b).get("primarySource") is False and "reportOrigin" in _dose(b) for b in bundles) / DOCS
    assert abs(patients - 0.35) < 0.015
    assert abs(organizations - 0.10) < 0.01
    assert abs(conditions - 0.05) < 0.01
    assert abs(transcribed - 0.06) < 0.01
    bare = Archive(country, Settings(seed=7, docs_per_day=200, shares=Shares(patient=0, organization=0))).day(DAY)
    forced = {"date-before-birth", "residence-ignored"}
    for one in bare.expected():
        if not forced.intersection(one.traps):
            assert '"resourceType":"Patient"' not in bare.document(one.k)


def test_ordinary_dates_are_readable_and_not_in_the_future(bundles: list[dict[str, Any]], plan: list[Expected]) -> None:
    late = []
    for one, bundle in zip(plan, bundles, strict=True):
        if one.traps and one.traps[0].startswith("date"):
            continue
        text = _dose(bundle)["occurrenceDateTime"]
        if len(text) == 10:
            applied = date.fromisoformat(text)
        else:
            moment = datetime.fromisoformat(text)
            assert moment <= datetime.fromisoformat(bundle["meta"]["lastUpdated"]), (one, text)
            applied = moment.astimezone(SAO_PAULO).date()
        assert date(1900, 1, 1) < applied <= DAY, (one, text)
        registered = datetime.fromisoformat(_resources(bundle, "Composition")[0]["date"])
        assert registered <= datetime.fromisoformat(bundle["meta"]["lastUpdated"]), one
        for patient in _resources(bundle, "Patient"):
            assert patient["birthDate"] <= applied.isoformat(), one
        late.append((DAY - applied).days)
    assert sum(1 for days in late if days == 0) > 0.4 * DOCS


@pytest.mark.parametrize(
    ("day", "hours", "offsets"),
    [
        (date(2018, 11, 3), 24, {"-03:00"}),
        (date(2018, 11, 4), 23, {"-02:00"}),
        (date(2019, 2, 16), 25, {"-02:00", "-03:00"}),
        (date(2024, 2, 29), 24, {"-03:00"}),
    ],
)
def test_days_of_the_old_daylight_saving_time(country: Country, day: date, hours: int, offsets: set[str]) -> None:
    source = Archive(country, Settings(seed=7, docs_per_day=500)).day(day)
    assert source.clock.end - source.clock.start == hours * 3_600_000
    found = set()
    for k in range(500):
        instant = source.clock.instant(k)
        text = source.clock.text(instant)
        assert parse_ms(text) == instant
        assert text.startswith(day.isoformat())
        found.add(text[-6:])
    assert found == offsets
    assert DayClock.of(day + timedelta(days=1), 1).start == source.clock.end


@pytest.mark.parametrize("size", [1, 2, 31, 100, 1_000, 3_000_000])
def test_a_time_slice_is_a_range_found_by_bisection(size: int) -> None:
    clock = DayClock.of(DAY, size)
    edges = [clock.start + step * (clock.end - clock.start) // 96 for step in range(97)]
    positions = [clock.first_at_or_after(edge) for edge in edges]
    assert positions[0] == 0
    assert positions[-1] == size
    assert positions == sorted(positions)
    for edge, position in zip(edges[1:-1], positions[1:-1], strict=True):
        assert position == size or clock.instant(position) >= edge
        assert position == 0 or clock.instant(position - 1) < edge


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_documents(country: Country) -> None:
    def peak(size: int) -> int:
        source = Archive(country, Settings(seed=7, docs_per_day=size)).day(DAY)
        source.entry(0)
        tracemalloc.start()
        for k in range(0, size, max(1, size // 200)):
            source.clock.first_at_or_after(source.clock.instant(k))
            source.entry(k)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    assert peak(3_000_000) < peak(100_000) + 500_000
    assert peak(3_000_000) < 5_000_000


def test_ids_tell_their_document_and_strange_ids_tell_nothing(archive: Archive) -> None:
    day = archive.day(DAY)
    for k in (0, 17, 19_999, 2_000_000):
        assert archive.locate(day.uuid(k) + identifiers.SUFFIX) == (day, k)
    assert archive.locate("00000000-0000-4000-8000-000000000060-i0b0") is None
    assert archive.locate("../../etc/passwd") is None
    changed = day.uuid(17)[:-1] + ("0" if day.uuid(17)[-1] != "0" else "1")
    assert archive.locate(changed) is None


def test_small_days_keep_the_plan_consistent(country: Country) -> None:
    for size in (1, 2, 7, 40, 100, 1_001):
        source = Archive(country, Settings(seed=3, docs_per_day=size)).day(DAY)
        for one in source.expected():
            bundle = json.loads(source.document(one.k))
            assert bundle["id"] == one.id
            assert len(_resources(bundle, "Immunization")) == one.doses


def test_landing_parts_hold_the_entries_whatever_the_processes(tmp_path: Path, country: Country) -> None:
    settings = Settings(seed=7, docs_per_day=700)
    parts = write_landing(settings=settings, day=DAY, folder=tmp_path / "one", per_part=300)
    again = write_landing(settings=settings, day=DAY, folder=tmp_path / "two", per_part=300, processes=2)
    assert [part.path.name for part in parts] == [
        "part-0001.ndjson.zst",
        "part-0002.ndjson.zst",
        "part-0003.ndjson.zst",
    ]
    assert [p.path.read_bytes() for p in parts] == [p.path.read_bytes() for p in again]
    lines = []
    for part in parts:
        with pyarrow.input_stream(str(part.path), compression="zstd") as stream:
            lines += stream.read().decode().splitlines()
    source = Archive(country, settings).day(DAY)
    assert lines == [source.entry(k) for k in range(700)]
    first = json.loads(lines[0])
    assert set(first) == {"fullUrl", "resource", "search"}
    assert first["fullUrl"].endswith(f"/Bundle/{first['resource']['id']}")

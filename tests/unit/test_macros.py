"""The SQL macros of flatten against independent implementations in Python."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imunizacao.flatten import _hmac_pads
from imunizacao.paths import SQL
from imunizacao.settings import EngineSettings
from imunizacao.sql import Engine, open_engine

BRASILIA = ZoneInfo("America/Sao_Paulo")
DIGITS = "0123456789"


@pytest.fixture(scope="module")
def duck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with the macros, set up as in production (time zone included)."""
    folder: Path = tmp_path_factory.mktemp("macros")
    with open_engine(EngineSettings(threads=1, memory_limit="256MB"), folder) as engine:
        for macro in sorted((SQL / "flatten").glob("[0-9][0-9]_macro_*.sql")):
            engine.run(f"flatten/{macro.stem}")
        yield engine


def apply(duck: Engine, expression: str, values: Sequence[Any], **others: Any) -> list[Any]:
    """Evaluate `expression` for every `$v` of `values`, in one query per value (a parameter is never folded into text)."""
    return [
        duck.connection.execute(f"select {expression}", {"v": value, **others}).fetchall()[0][0] for value in values
    ]


def one(duck: Engine, expression: str, value: Any, **others: Any) -> Any:
    """Evaluate `expression` for one `$v`."""
    return apply(duck, expression, [value], **others)[0]


# --- texto -------------------------------------------------------------------------------------------

_SPACES = "".join(map(chr, [0x20, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000]))
"""Unicode category Zs."""

_CONTROL = st.sampled_from([*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u2028", "\u2029", *_SPACES])


def expected_text(value: str) -> str | None:
    """Runs of control characters and line separators become one space; spaces of any kind at the ends go; nothing left is null."""
    kept, in_run = [], False
    for character in value:
        control = ord(character) < 0x20 or 0x7F <= ord(character) <= 0x9F or character in "\u2028\u2029"
        if not control:
            kept.append(character)
        elif not in_run:
            kept.append(" ")
        in_run = control
    return "".join(kept).strip(_SPACES) or None


@given(st.lists(st.text(st.one_of(_CONTROL, st.characters(exclude_categories=["Cs"]))), max_size=20))
@example(["", " ", "\x00", "\n\n", "a\r\nb", " lote ", "\x85", "a\u2028\u2029b", "💉\x00🧬", "a\x00\x00 \x00b"])
def test_texto_has_no_line_break_and_no_control_character(duck: Engine, values: list[str]) -> None:
    found = apply(duck, "texto($v)", values)
    assert found == [expected_text(value) for value in values]
    assert not any(text and re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", text) for text in found)
    assert not any(text is not None and len(text.splitlines()) != 1 for text in found), "a reader would see two lines"


def test_texto_of_null_is_null(duck: Engine) -> None:
    assert one(duck, "texto($v::varchar)", None) is None


# --- instante, data_hora -----------------------------------------------------------------------------

_wall = datetime.fromisoformat
"""A local time without a zone: the offset is another strategy."""

_OFFSETS = st.integers(-14 * 60, 14 * 60)
_MOMENTS = st.datetimes(_wall("1900-01-01T00:00:00"), _wall("2100-01-01T00:00:00"))


def fhir_instant(moment: datetime, minutes: int | None, digits: int) -> str:
    """FHIR text of a local time with an offset in minutes (None = Z) and a number of fractional digits."""
    fraction = f".{moment.microsecond:06d}000"[: digits + 1] if digits else ""
    if minutes is None:
        offset = "Z"
    else:
        offset = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + fraction + offset


@given(moment=_MOMENTS, minutes=st.one_of(st.none(), _OFFSETS), digits=st.integers(0, 9))
@example(moment=_wall("2026-03-14T23:59:59.999999"), minutes=-180, digits=3)
@example(moment=_wall("2018-11-04T00:30:00"), minutes=None, digits=0)
@example(moment=_wall("2024-02-29T12:00:00"), minutes=-180, digits=0)
def test_instante_reads_every_fhir_instant(duck: Engine, moment: datetime, minutes: int | None, digits: int) -> None:
    kept = moment.replace(microsecond=int(f"{moment.microsecond:06d}"[: min(digits, 6)].ljust(6, "0")) if digits else 0)
    expected = kept.replace(tzinfo=timezone(timedelta(minutes=minutes or 0)))
    found = one(duck, "epoch_us(instante($v))", fhir_instant(moment, minutes, digits))
    assert found == (expected - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "2026",
        "2026-03",
        "2026-03-14",
        "2026-03-14 10:00:00-03:00",
        "2026-02-29T10:00:00-03:00",
        "2026-13-01T10:00:00-03:00",
        "2026-03-14T25:00:00-03:00",
        "2026-03-14T10:61:00-03:00",
        "ontem de manhã, às 10",
        "14/03/2026T10:00:00-03:00",
    ],
)
def test_instante_of_anything_else_is_null(duck: Engine, text: str | None) -> None:
    assert one(duck, "instante($v::varchar) is null", text) is True


@pytest.mark.parametrize("text", ["2026-03-14T10:00:00", "2026-03-14T10:00:00.000", "2026-03-14T10:00:00 Asia/Tokyo"])
def test_instante_without_an_offset_is_null(duck: Engine, text: str) -> None:
    assert one(duck, "instante($v) is null", text) is True


@given(moment=_MOMENTS, minutes=_OFFSETS)
@example(moment=_wall("2018-12-31T23:30:00"), minutes=-180)
@example(moment=_wall("2026-03-14T02:10:00.999999"), minutes=0)
def test_data_hora_is_always_at_minus_three_hours_with_milliseconds(
    duck: Engine, moment: datetime, minutes: int
) -> None:
    instant = moment.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    local = instant.astimezone(timezone(timedelta(hours=-3)))
    expected = local.strftime("%Y-%m-%dT%H:%M:%S") + f".{local.microsecond // 1000:03d}-03:00"
    assert one(duck, "data_hora($v::timestamptz)", instant) == expected


def test_data_hora_sorts_as_the_instants_do_across_daylight_saving(duck: Engine) -> None:
    start = datetime(2018, 2, 17, 20, tzinfo=UTC)
    texts = apply(duck, "data_hora($v::timestamptz)", [start + timedelta(minutes=20 * n) for n in range(40)])
    assert texts == sorted(texts)
    assert len(set(texts)) == 40


# --- data_civil --------------------------------------------------------------------------------------


@given(moment=_MOMENTS, minutes=_OFFSETS.filter(lambda minutes: minutes != 0))
@example(moment=_wall("2026-03-14T23:30:00"), minutes=-180)
@example(moment=_wall("2026-03-14T00:10:00"), minutes=-300)
def test_data_civil_with_an_offset_is_the_day_where_it_was_written(
    duck: Engine, moment: datetime, minutes: int
) -> None:
    assert one(duck, "data_civil($v)", fhir_instant(moment, minutes, 3)) == moment.date()


@given(moment=_MOMENTS, zero=st.booleans())
@example(moment=_wall("2021-05-21T01:04:28"), zero=False)
@example(moment=_wall("2026-03-14T02:59:59"), zero=True)
@example(moment=_wall("2026-03-14T03:00:00"), zero=False)
@example(moment=_wall("2018-11-04T02:59:59"), zero=False)
@example(moment=_wall("2018-11-04T03:00:00"), zero=False)
@example(moment=_wall("2019-01-15T01:59:59"), zero=True)
@example(moment=_wall("2019-01-15T02:00:00"), zero=True)
def test_data_civil_in_utc_is_the_day_in_brasilia(duck: Engine, moment: datetime, zero: bool) -> None:
    text = fhir_instant(moment, 0 if zero else None, 0)
    assert one(duck, "data_civil($v)", text) == moment.replace(tzinfo=UTC).astimezone(BRASILIA).date()


@given(st.dates(date(1, 1, 1), date(9999, 12, 31)))
@example(date(2024, 2, 29))
@example(date(2000, 2, 29))
def test_data_civil_of_a_date_is_that_date(duck: Engine, day: date) -> None:
    assert one(duck, "data_civil($v)", day.isoformat()) == day


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "2021",
        "2021-05",
        "2023-02-29",
        "1900-02-29",
        "2021-04-31",
        "2021-13-01",
        "2021-00-10",
        "20210520",
        "20/05/2021",
        "2021-5-20",
        "2021-05-20T",
        "2021-05-20T10",
        "2021-02-29T10:00:00-03:00",
        "2021-05-20T99:00:00Z",
        "2021-05-2０",
    ],
)
def test_data_civil_of_a_partial_or_impossible_date_is_null(duck: Engine, text: str | None) -> None:
    assert one(duck, "data_civil($v::varchar) is null", text) is True


@pytest.mark.parametrize("text", ["12345-01-1", "-026-03-14", "0000-01-01", "2026 03 14", "2026/03/14"])
def test_data_civil_of_ten_characters_that_are_no_fhir_date_is_null(duck: Engine, text: str) -> None:
    assert one(duck, "data_civil($v) is null", text) is True


# --- CNS, CPF ----------------------------------------------------------------------------------------


def cns_from_pis(pis: str) -> str:
    """The one definitive CNS of an 11-digit PIS base, step by step as DATASUS publishes the routine."""
    total = sum(int(digit) * weight for digit, weight in zip(pis, range(15, 4, -1), strict=True))
    check = 11 - total % 11
    if check == 11:
        check = 0
    if check == 10:
        total += 2
        return f"{pis}001{11 - total % 11}"
    return f"{pis}000{check}"


def cns_is_valid(text: str) -> bool:
    """Definitive numbers are rebuilt from their base; provisional ones keep the weighted sum."""
    if len(text) != 15 or any(character not in DIGITS for character in text):
        return False
    if text[0] in "12":
        return cns_from_pis(text[:11]) == text
    if text[0] in "789":
        return sum(int(digit) * (15 - place) for place, digit in enumerate(text)) % 11 == 0
    return False


def provisional_cns(base: str) -> str | None:
    """Complete 14 digits that start with 7, 8 or 9; about one base in eleven has no check digit."""
    total = sum(int(digit) * (15 - place) for place, digit in enumerate(base))
    check = -total % 11
    return f"{base}{check}" if check < 10 else None


_BASE_11 = st.builds(str.__add__, st.sampled_from("12"), st.text(DIGITS, min_size=10, max_size=10))
_BASE_14 = st.builds(str.__add__, st.sampled_from("789"), st.text(DIGITS, min_size=13, max_size=13))


@given(st.lists(_BASE_11, min_size=1, max_size=30))
def test_every_definitive_cns_is_valid(duck: Engine, bases: list[str]) -> None:
    assert all(apply(duck, "cns_valido($v)", [cns_from_pis(base) for base in bases]))


@given(st.lists(_BASE_14, min_size=1, max_size=30))
def test_every_provisional_cns_is_valid(duck: Engine, bases: list[str]) -> None:
    numbers = [number for base in bases if (number := provisional_cns(base)) is not None]
    assert all(apply(duck, "cns_valido($v)", numbers))


@given(base=_BASE_11, place=st.integers(0, 14), digit=st.sampled_from(DIGITS))
def test_a_cns_with_one_digit_changed_is_invalid(duck: Engine, base: str, place: int, digit: str) -> None:
    number = cns_from_pis(base)
    changed = number[:place] + digit + number[place + 1 :]
    # The fifth digit has weight 11: the check digit of a CNS does not see it.
    assert one(duck, "cns_valido($v)", changed) is (changed == number or place == 4)


@given(
    st.lists(st.one_of(st.text(DIGITS, min_size=13, max_size=17), _BASE_14.map(lambda base: base + "0")), max_size=30)
)
@example(["012345678912345", "", "000000000000000", "111111111111111", "700000000000005", "70000000000000５"])
def test_cns_valido_agrees_on_any_digits(duck: Engine, values: list[str]) -> None:
    assert apply(duck, "cns_valido($v)", values) == [cns_is_valid(value) for value in values]


def test_a_base_has_one_definitive_cns(duck: Engine) -> None:
    # 1×15 + 1×7 = 22: the check digit is 0 and the number ends in 0000; 0019 also keeps the weighted sum (22 + 2 + 9 = 33).
    base = "10000000100"
    assert cns_from_pis(base) == f"{base}0000"
    valid = apply(duck, "cns_valido($v)", [f"{base}00{a}{b}" for a in "01" for b in DIGITS])
    assert sum(valid) == 1


def cpf_digits(base: str) -> str:
    """Complete 9 digits with the two check digits of Receita Federal's remainder table."""
    number = base
    for first_weight in (10, 11):
        remainder = sum(int(digit) * (first_weight - place) for place, digit in enumerate(number)) % 11
        number += "0" if remainder < 2 else str(11 - remainder)
    return number


def cpf_is_valid(text: str) -> bool:
    """Eleven ASCII digits, not all the same, with the check digits of their base."""
    return (
        len(text) == 11
        and all(character in DIGITS for character in text)
        and len(set(text)) > 1
        and cpf_digits(text[:9]) == text
    )


@given(
    st.lists(st.text(DIGITS, min_size=9, max_size=9).filter(lambda base: len(set(base)) > 1), min_size=1, max_size=30)
)
@example(["111444777", "000000001", "100000000"])
def test_every_cpf_is_valid(duck: Engine, bases: list[str]) -> None:
    assert all(apply(duck, "cpf_valido($v)", [cpf_digits(base) for base in bases]))


@given(
    st.lists(
        st.one_of(
            st.text(DIGITS, min_size=10, max_size=12),
            st.builds(
                lambda base, check: base + check,
                st.text(DIGITS, min_size=9, max_size=9),
                st.text(DIGITS, min_size=2, max_size=2),
            ),
        ),
        max_size=30,
    )
)
@example([digit * 11 for digit in DIGITS])
@example(["", "1114447773", "111444777350", "1114447773５", "111.444.777"])
def test_cpf_valido_agrees_on_any_digits(duck: Engine, values: list[str]) -> None:
    assert apply(duck, "cpf_valido($v)", values) == [cpf_is_valid(value) for value in values]


@pytest.mark.parametrize("macro", ["cns_valido", "cpf_valido"])
def test_no_identifier_is_no_valid_identifier(duck: Engine, macro: str) -> None:
    assert one(duck, f"{macro}($v::varchar)", None) is False


# --- pseudonimo --------------------------------------------------------------------------------------


@given(key=st.binary(min_size=0, max_size=160), message=st.text(max_size=80))
@example(key=b"k" * 63, message="cns:700000000000005")
@example(key=b"k" * 64, message="cns:700000000000005")
@example(key=b"k" * 65, message="cns:700000000000005")
@example(key=bytes(range(256)), message="")
@example(key=b"\x00" * 32, message="local:ação|💉\x00")
@settings(max_examples=200)
def test_pseudonimo_is_hmac_sha256(duck: Engine, key: bytes, message: str) -> None:
    inner, outer = _hmac_pads(key)
    found = one(duck, "pseudonimo($v, $inner, $outer)", message, inner=inner, outer=outer)
    assert found == hmac.new(key, message.encode(), hashlib.sha256).hexdigest()


def test_pseudonimo_of_rfc_4231(duck: Engine) -> None:
    # RFC 4231, test case 2 (short key) and test case 6 (key longer than the block).
    cases = [
        (b"Jefe", "what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (
            b"\xaa" * 131,
            "Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ]
    for key, message, digest in cases:
        inner, outer = _hmac_pads(key)
        assert one(duck, "pseudonimo($v, $inner, $outer)", message, inner=inner, outer=outer) == digest


def test_pseudonimo_of_nobody_is_null(duck: Engine) -> None:
    inner, outer = _hmac_pads(b"k" * 32)
    assert one(duck, "pseudonimo($v::varchar, $inner, $outer)", None, inner=inner, outer=outer) is None


# --- document ids ------------------------------------------------------------------------------------

_UUID = st.uuids().map(str)
_SUFFIX = st.one_of(st.just(""), st.builds("-i{}b{}".format, st.integers(0, 999), st.integers(0, 999)))
_BEFORE = st.sampled_from(["", "Composition/", "Bundle/", "/", "https://mirror.example.org/fhir/r4/Composition/"])
_AFTER = st.sampled_from(["", "/_history/1", "/_history/27"])


@given(uuid=_UUID, suffix=_SUFFIX, before=_BEFORE, after=_AFTER)
def test_all_references_to_a_document_have_one_base(
    duck: Engine, uuid: str, suffix: str, before: str, after: str
) -> None:
    assert one(duck, "base_documento($v)", f"{before}{uuid}{suffix}{after}") == uuid


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # Other classes of RNDS documents carry other tags: they are part of the id.
        ("00000000-0000-4000-8000-000000000001-c0m1", "00000000-0000-4000-8000-000000000001-c0m1"),
        ("00000000-0000-4000-8000-000000000001-r3x7", "00000000-0000-4000-8000-000000000001-r3x7"),
        ("a-i0b0-i1b0", "a-i0b0"),
        ("i0b0", "i0b0"),
        ("Composition/", ""),
        (None, None),
    ],
)
def test_base_documento_takes_off_nothing_else(duck: Engine, value: str | None, expected: str | None) -> None:
    assert one(duck, "base_documento($v::varchar)", value) == expected


@given(uuid=_UUID, dose=st.integers(1, 999))
def test_id_dose_names_every_dose_once(duck: Engine, uuid: str, dose: int) -> None:
    assert one(duck, "id_dose($v, 0)", uuid) == f"{uuid}-i0b0"
    assert one(duck, "id_dose($v, 0)", f"{uuid}-i0b0") == f"{uuid}-i0b0"
    assert one(duck, "id_dose($v, $n)", uuid, n=dose) == f"{uuid}-i{dose}b0"
    assert one(duck, "id_dose($v, $n)", f"{uuid}-i0b0", n=dose) == f"{uuid}-i{dose}b0"


@pytest.mark.parametrize(
    ("value", "dose", "expected"),
    [
        ("doc-i3b1", 0, "doc-i3b1"),
        ("doc-i3b1", 2, "doc-i2b0"),
        ("doc-c0m1", 0, "doc-c0m1-i0b0"),
        (None, 0, None),
        (None, 1, None),
    ],
)
def test_id_dose_keeps_the_id_as_served(duck: Engine, value: str | None, dose: int, expected: str | None) -> None:
    assert one(duck, "id_dose($v::varchar, $n)", value, n=dose) == expected


# --- extensao ----------------------------------------------------------------------------------------

_OLD = "http://www.saude.gov.br/fhir/r4/StructureDefinition/"
_NEW = "https://terminologia.saude.gov.br/fhir/StructureDefinition/"


def extension(duck: Engine, urls: Sequence[object], name: str = "BREstrategiaVacinacao") -> Any:
    """Value of the extension `name` in a resource whose extensions have these addresses and count as values."""
    resource = {"extension": [{"url": url, "valueString": str(n)} for n, url in enumerate(urls)]}
    return one(
        duck,
        "json_extract_string(extensao(json_extract($v::json, '$.extension'), $name), '$.valueString')",
        json.dumps(resource),
        name=name,
    )


def test_extensao_finds_by_the_last_segment_with_or_without_a_version(duck: Engine) -> None:
    for address in (
        _OLD + "BREstrategiaVacinacao",
        _OLD + "BREstrategiaVacinacao-1.0",
        _NEW + "BREstrategiaVacinacao-12.3.4",
    ):
        assert extension(duck, ["http://example.org/other", address]) == "1"


def test_extensao_takes_the_first_of_two(duck: Engine) -> None:
    assert extension(duck, [_OLD + "BREstrategiaVacinacao-1.0", _NEW + "BREstrategiaVacinacao"]) == "0"


@pytest.mark.parametrize(
    "address",
    [
        _OLD + "BREstrategiaVacinacaoPesquisa-1.0",
        _OLD + "XBREstrategiaVacinacao",
        _OLD + "BREstrategiaVacinacao-rascunho",
        _OLD + "BREstrategiaVacinacao/1.0",
        "BREstrategiaVacinacao",
        None,
        7,
    ],
)
def test_extensao_does_not_take_another_address(duck: Engine, address: object) -> None:
    assert extension(duck, [address]) is None


@pytest.mark.parametrize(
    "resource", ["{}", '{"extension": null}', '{"extension": []}', '{"extension": {"url": 1}}', "[]"]
)
def test_extensao_of_a_resource_without_extensions_is_null(duck: Engine, resource: str) -> None:
    assert (
        one(
            duck,
            "extensao(json_extract($v::json, '$.extension'), 'BREstrategiaVacinacao')",
            resource,
        )
        is None
    )


# --- identifiers in texts and ids ----------------------------------------------------------------------

_UUID = "00000000-0000-4000-8000-{}"


def _numbers(text: str) -> list[str]:
    return [run for run in re.findall("[0-9]+", text) if cns_is_valid(run) or cpf_is_valid(run)]


@settings(deadline=None, max_examples=40)
@given(
    base=_BASE_11, before=st.sampled_from(["", "L", "lote ", "=", "CPF:"]), after=st.sampled_from(["", "X", " B", ";"])
)
def test_a_text_with_a_cns_or_cpf_in_it_is_found_however_it_is_grouped(
    duck: Engine, base: str, before: str, after: str
) -> None:
    cpf = cpf_digits(base[:9])
    cns = cns_from_pis(base)
    found = [
        cpf,
        f"{cpf[:3]}.{cpf[3:6]}.{cpf[6:9]}-{cpf[9:]}",
        f"{cpf[:3]} {cpf[3:6]} {cpf[6:9]} {cpf[9:]}",
        cns,
        f"{cns[:3]} {cns[3:7]} {cns[7:11]} {cns[11:]}",
        f"{cns[:3]}.{cns[3:7]}.{cns[7:11]}.{cns[11:]}",
    ]
    valid = [cpf_is_valid(cpf)] * 3 + [cns_is_valid(cns)] * 3
    texts = [before + text + after for text in found]
    assert apply(duck, "contem_identificador($v)", texts) == valid
    ids = [cpf + "-i0b0", f"doc-{cns}", f"Composition/{cns}/_history/2", f"{cns}{'0' * 9}", _UUID.format("0" + cpf)]
    wanted = [cpf_is_valid(cpf), cns_is_valid(cns), cns_is_valid(cns), False, False]
    assert apply(duck, "id_com_identificador($v)", ids) == wanted


def _readings(lot: str) -> tuple[str, ...]:
    """The four of `in_lote_identificador` in docs/dados/regras.md: as it is; without . / -; without these and spaces; digits alone."""
    return lot, re.sub("[./-]", "", lot), re.sub("[./ -]", "", lot), re.sub("[^0-9]", "", lot)


def test_a_text_is_suspected_by_the_four_readings_of_the_rule_page_and_by_no_other(duck: Engine) -> None:
    rng = random.Random(20260314)
    texts, alone = ["1.2.3.4.5.6.7.8.9.0.9", "12345678909", "12.345x678909"], [0, 0, 0, 0]
    for _ in range(600):
        number = rng.choice([cpf_digits(f"{rng.randrange(10**9):09d}"), cns_from_pis(f"1{rng.randrange(10**10):010d}")])
        marks = rng.choice(["", "./-", "./- ", "./- xL,é", "\n\u0660"])
        text = "".join(digit + (rng.choice(marks) if marks and rng.random() < 0.3 else "") for digit in number)
        before, after = rng.choice(["", "L", "7", "7/", "7 ", "7x"]), rng.choice(["", ".", "7", "/7", " 7", "x7"])
        texts.append(before + text[: rng.choice([99, 99, 99, 10])] + after)
    expected = []
    for text in texts:
        found = [bool(_numbers(reading)) for reading in _readings(text)]
        expected.append(any(found))
        if sum(found) == 1:
            alone[found.index(True)] += 1
    assert apply(duck, "contem_identificador($v)", texts) == expected
    assert min(alone) > 3, f"each reading decides some texts by itself: {alone}"
    assert 100 < sum(expected) < 500


@pytest.mark.parametrize("text", [None, "", "4120Z005", "FA1234567890", "12345678900", "7898930490123", "PFIZER"])
def test_what_a_lot_looks_like_is_no_identifier(duck: Engine, text: str | None) -> None:
    assert one(duck, "contem_identificador($v)", text) is False
    assert one(duck, "id_com_identificador($v)", text) is False


@pytest.mark.parametrize(
    "shape",
    [
        "{}", "ria-{}", "{}-v2", "ria.{}.1", "Composition/{}/_history/2", "2024-{}", "{}-i0b0",
        "20260314123-{}-i0b0", "123.456.789-01-{}",
        "x-00000000-0000-4000-8000-000000000000.{}",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "number",
    ["52998224725", "529.982.247-25", "529982247-25", "529-982-247-25", "700000000000005", "700-0000-0000-0005"],
)
def test_an_id_with_a_number_in_it_as_people_write_numbers_says_who_somebody_is(
    duck: Engine, shape: str, number: str
) -> None:
    assert one(duck, "id_com_identificador($v)", shape.format(number)) is True


def test_an_id_is_no_uuid_because_it_begins_like_one(duck: Engine) -> None:
    begun = "00000000-0000-4000-8000-"
    assert apply(duck, "id_com_identificador($v)", [begun + "700000000000005", begun + "52998224725-i0b0"]) == [
        True,
        True,
    ]
    assert apply(duck, "id_com_identificador($v)", [_UUID.format("052998224725"), "2026-03-14-00000052998"]) == [
        False,
        False,
    ]


@settings(deadline=None, max_examples=100)
@given(st.integers(min_value=-(10**17), max_value=10**17) | st.none())
@example(0)
@example(11111111111)
def test_a_number_is_judged_as_its_digits_are(duck: Engine, number: int | None) -> None:
    digits = "" if number is None or number < 0 else str(number)
    assert one(duck, "cns_numero_valido(cast($v as bigint))", number) is cns_is_valid(digits)
    if number is not None and 0 <= number < 10**11:
        assert one(duck, "cpf_numero_valido(cast($v as bigint))", number) is cpf_is_valid(f"{number:011d}")


_AS_A_COLUMN = "from (select cast($v as varchar) as v)"
"""A parameter has no type of its own, and a struct made of it none either."""


@pytest.mark.parametrize(
    ("codings", "code"),
    [
        ([("http://www.saude.gov.br/fhir/r4/CodeSystem/BRLocalAplicacao", "1")], "1"),
        ([("http://snomed.info/sct", "368208006"), ("https://rnds.saude.gov.br/x/BRLocalAplicacao-1.0", "2")], "2"),
        ([("http://snomed.info/sct", "368208006")], None),
        ([(None, "3")], "3"),
        ([("", "4"), ("http://snomed.info/sct", "5")], "4"),
        ([("http://www.saude.sp.gov.br/locais", "6")], "6"),
        ([], None),
    ],
)
def test_a_code_is_that_of_the_national_table(
    duck: Engine, codings: list[tuple[str | None, str]], code: str | None
) -> None:
    listed = json.dumps([{"system": system, "code": value} for system, value in codings])
    assert one(duck, f"codigo_nacional(codificacoes(v), 'BRLocalAplicacao') {_AS_A_COLUMN}", listed) == code


@pytest.mark.parametrize("listed", [None, "{}", '"text"', "not json", "[1]", '[{"code": {}}]'])
def test_what_is_no_list_of_codings_has_no_code(duck: Engine, listed: str | None) -> None:
    assert one(duck, f"codigo_nacional(codificacoes(v), 'BRLocalAplicacao') {_AS_A_COLUMN}", listed) in (None, "{}")
    assert one(duck, f"codigo_de_extensao(extensoes(v), 'BRGrupoAtendimento') {_AS_A_COLUMN}", listed) is None

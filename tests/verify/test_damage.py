"""Every kind of damage, one by one, is found and named: also when whoever did it made the manifests above agree with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from imunizacao.verify import Report, Selection, render_text, verify_bucket
from tests.support.tree import LEVELS, Json, Tree, head, sha256
from tests.support.withdrawals import purge, withdraw_day, withdraw_ufs
from tests.verify.conftest import DAY, EMPTY, PENDING, PLAIN

pytestmark = pytest.mark.servers
MONTH = "v1/months/2026-03/index.json"
BULK = "v1/months/2026-03/bulk-publish.json"
CATALOG, DCAT = "v1/catalog.json", "v1/catalog.jsonld"
SP = f"uf=35/imunizacao-total-sp_{DAY}.csv"
CAPITAL = f"uf=35/mun=355030/imunizacao-355030_{DAY}.csv"
HOMES = f"uf=53/imunizacao-residentes-df_{DAY}.csv"


def found(report: Report) -> set[tuple[str, str]]:
    """Kind and path of every finding."""
    everything = [*report.findings.items, *(item for day in report.days for item in day.findings.items)]
    return {(item.kind, item.path) for item in everything}


def kinds(report: Report) -> set[str]:
    return {kind for kind, _ in found(report)}


def check(tree: Tree) -> Report:
    """Most damage is in one day."""
    return verify_bucket(tree, selection=Selection(day=DAY))


def require_found(tree: Tree, kind: str, path: str, *, whole: bool = False) -> Report:
    """The damage is named by kind and path; the report says what to do and ends with code 6."""
    report = verify_bucket(tree) if whole else check(tree)
    assert (kind, path) in found(report), render_text(report)
    assert report.exit_code == 6
    assert f"[{kind}] {path}" in render_text(report)
    return report


# --- files ---------------------------------------------------------------------------------------


def rows(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    """Change the rows of a CSV, header first."""
    return lambda body: b"\n".join(change(body.removesuffix(b"\n").split(b"\n"))) + b"\n"


def flip_a_byte(body: bytes) -> bytes:
    place = body.index(b"-i0b0")
    return body[:place] + b"X" + body[place + 1 :]


def cell(name: str, value: str, row: int = 1) -> Callable[[bytes], bytes]:
    """Put a value into a column, quotes and all as given."""

    def change(lines: list[bytes]) -> list[bytes]:
        at = lines[0].decode().split(";").index(f'"{name}"')
        fields = lines[row].decode().replace('Posto ""A""; sala 1', "Posto").split(";")
        fields[at] = value
        lines[row] = ";".join(fields).encode()
        return lines

    return rows(change)


def latin(body: bytes) -> bytes:
    """A name in another encoding."""
    return body.replace(b'"BRASILIA"', b'"BRAS\xcdLIA"', 1)


@dataclass(frozen=True)
class Damage:
    """What happens to a file, and the kind of finding that it must give when everything above agrees with it."""

    change: Callable[[bytes], bytes]
    kind: str


FILE_DAMAGE = {
    "a byte flipped": Damage(flip_a_byte, "cell"),
    "a row lost": Damage(rows(lambda lines: [lines[0], *lines[2:]]), "sums"),
    "two rows swapped": Damage(rows(lambda lines: [lines[0], lines[2], lines[1], *lines[3:]]), "order"),
    "a row twice": Damage(rows(lambda lines: [*lines, lines[-1]]), "duplicate-key"),
    "a row of another UF": Damage(cell("co_municipio_estabelecimento", '"530010"', row=3), "place"),
    "a column more": Damage(rows(lambda lines: [line + b';"x"' for line in lines]), "header"),
    "a field more": Damage(rows(lambda lines: [*lines[:-1], lines[-1] + b";"]), "fields"),
    "a field less": Damage(rows(lambda lines: [*lines[:-1], lines[-1].rpartition(b";")[0]]), "fields"),
    "columns renamed": Damage(lambda body: body.replace(b'"dt_vacina"', b'"dt_aplicacao"', 1), "header"),
    "no header": Damage(rows(lambda lines: lines[1:]), "header"),
    "empty": Damage(lambda body: b"\n", "header"),
    "a BOM": Damage(lambda body: b"\xef\xbb\xbf" + body, "bom"),
    "CR LF": Damage(lambda body: body.replace(b"\n", b"\r\n"), "line-end"),
    "no last line break": Damage(lambda body: body[:-1], "line-end"),
    "a line break in a value": Damage(cell("no_razao_social_estabelecimento", '"a\nb"'), "dialect"),
    "a carriage return in a value": Damage(cell("no_razao_social_estabelecimento", '"a\rb"'), "line-end"),
    "an empty line": Damage(rows(lambda lines: [*lines, b""]), "fields"),
    "a value without quotes": Damage(cell("co_vacina", "33"), "dialect"),
    "an empty value in quotes": Damage(cell("co_lote_vacina", '""'), "dialect"),
    "an open quote": Damage(cell("co_vacina", '"33'), "dialect"),
    "commas": Damage(lambda body: body.replace(b'";"', b'","'), "header"),
    "Latin-1": Damage(latin, "encoding"),
    "a missing required value": Damage(cell("co_vacina", ""), "cell"),
    "a value outside its pattern": Damage(cell("co_cnes_estabelecimento", '"19"'), "cell"),
    "a number of a spreadsheet": Damage(cell("co_municipio_paciente", '"350010.0"'), "cell"),
    "a code outside its list": Damage(cell("st_documento", '"amended"'), "cell"),
    "a date of another form": Damage(cell("dt_vacina", '"14/03/2026"'), "cell"),
    "a date that is none": Damage(cell("dt_vacina", '"2026-02-30"'), "cell"),
    "a date before the minimum": Damage(cell("dt_vacina", '"1899-12-31"'), "cell"),
    "an instant in another zone": Damage(cell("dt_entrada_rnds", f'"{DAY}T08:15:30.123Z"'), "cell"),
    "an instant of another day": Damage(cell("dt_entrada_rnds", '"2026-03-13T08:15:30.123-03:00"'), "cell"),
    "a text too long": Damage(cell("no_razao_social_estabelecimento", f'"{"x" * 201}"'), "cell"),
    "a live formula": Damage(cell("co_lote_vacina", '"=1+1"'), "formula"),
    "initials of another UF": Damage(cell("sg_uf_estabelecimento", '"RJ"'), "place"),
    "a residence that contradicts itself": Damage(cell("st_residente_uf", '"N"'), "residents"),
}


@pytest.mark.parametrize("name", FILE_DAMAGE)
def test_damage_of_the_file_of_a_uf_is_found_as_it_is_and_when_all_manifests_agree_with_it(
    tree: Tree, name: str
) -> None:
    damage = FILE_DAMAGE[name]
    key = tree.folder(DAY) + SP
    tree.change(key, damage.change)
    plain = check(tree)
    assert ("sha256", key) in found(plain), render_text(plain)
    tree.seal(DAY, "id")
    report = check(tree)
    assert damage.kind in kinds(report), render_text(report)
    assert not {"sha256", "content-id"} & kinds(report)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("file", [SP, CAPITAL, HOMES, "removed.csv"])
def test_a_lost_row_is_found_whatever_was_made_to_agree_with_it(tree: Tree, file: str, level: str) -> None:
    folder = tree.folder(DAY)
    tree.change(folder + file, rows(lambda lines: [lines[0], *lines[2:]]))
    tree.seal(DAY, level)
    report = check(tree)
    expected = {
        "nothing": ("sha256", folder + file),
        "descriptor": ("sha256", folder + file.partition("/")[0] + "/datapackage.json"),
        "root": ("sha256", folder + "day.json"),
        "head": ("content-id", folder + "day.json"),
    }
    if file == "removed.csv":
        # No other file has these rows: only their number and hash say it, and in the end the signature.
        expected |= {"descriptor": expected["nothing"]}
    if level in expected:
        assert expected[level] in found(report), render_text(report)
        return
    if file == "removed.csv" and level == "counts":
        assert ("rows", tree.folder(DAY) + file) in found(report)
        return
    wanted = {SP: "municipalities", CAPITAL: "municipalities", HOMES: "residents", "removed.csv": "rows"}[file]
    assert wanted in kinds(report), render_text(report)


def test_damage_of_a_municipality_of_residents_of_removals_and_of_a_difference_is_taken_apart(tree: Tree) -> None:
    folder = tree.folder(DAY)
    diff = tree.json(head(DAY))["history"][-1]["diff"]["path"]
    for key in (folder + CAPITAL, folder + HOMES, folder + "removed.csv", f"{diff}/changed.csv"):
        copy = Tree(tree.files)
        copy.change(key, lambda body: b"\xef\xbb\xbf" + body)
        report = require_found(copy, "bom", key)
        assert {("sha256", key), ("bytes", key)} <= found(report)


def test_two_files_swapped(tree: Tree) -> None:
    one, other = tree.folder(DAY) + CAPITAL, tree.folder(DAY) + f"uf=35/mun=350010/imunizacao-350010_{DAY}.csv"
    tree.files[one], tree.files[other] = tree.files[other], tree.files[one]
    require_found(tree, "sha256", one)
    tree.seal(DAY, "id")
    report = require_found(tree, "place", tree.folder(DAY) + CAPITAL)
    assert ("municipalities", tree.folder(DAY) + CAPITAL) in found(report)


@pytest.mark.parametrize(
    "name",
    [SP, CAPITAL, HOMES, "removed.csv", "outcome.json", "uf=35/datapackage.json", "uf=35/tableschema.json", "day.json"],
)
def test_a_file_that_is_not_there(tree: Tree, name: str) -> None:
    del tree.files[tree.folder(DAY) + name]
    require_found(tree, "missing", f"v1/days/{DAY}/c-{tree.json(head(DAY))['current']['contentId']}/{name}")


def test_the_same_dose_in_two_ufs(tree: Tree) -> None:
    folder = tree.folder(DAY)
    for name in (
        f"uf=53/imunizacao-total-df_{DAY}.csv",
        f"uf=53/mun=530010/imunizacao-530010_{DAY}.csv",
        f"uf=35/imunizacao-residentes-sp_{DAY}.csv",
    ):
        tree.change(folder + name, lambda body: body.replace(b'"a2-i0b0"', b'"b2-i0b0"'))
    tree.seal(DAY, "id")
    require_found(tree, "duplicate-key", tree.folder(DAY))


def test_no_value_of_a_row_is_in_a_report(tree: Tree) -> None:
    secret = "k" * 12
    for name, damage in FILE_DAMAGE.items():
        copy = Tree(tree.files)
        body = damage.change(tree.files[tree.folder(DAY) + SP])
        copy.files[tree.folder(DAY) + SP] = body.replace(b"b1-i0b0", secret.encode() + b"-i0b0")
        report = check(copy)
        text = render_text(report) + json.dumps(report.to_json())
        for value in (secret, "9f86d081884c7d659a2feaa0c55ad015", "14/03/2026", "350010.0", "1899", "=1+1", "amended"):
            assert value not in text, (name, value)


# --- manifests -----------------------------------------------------------------------------------


def edit_package(tree: Tree, change: Callable[[Json], object]) -> str:
    """Change the descriptor of UF 35 and seal all above it; gives its key."""
    tree.edit(tree.folder(DAY) + "uf=35/datapackage.json", change)
    tree.seal_above(DAY)
    return tree.folder(DAY) + "uf=35/datapackage.json"


@pytest.mark.parametrize(
    "path",
    [
        "../uf=53/imunizacao-total-df_2026-03-14.csv",
        "/etc/passwd",
        "..",
        ".hidden.csv",
        "mun=1/x.csv",
        "https://elsewhere.example/x.csv",
        f"imunizacao-total-rj_{DAY}.csv",
    ],
)
def test_a_path_that_leads_elsewhere_is_named_and_not_followed(tree: Tree, path: str) -> None:
    key = edit_package(tree, lambda package: package["resources"][1].update(path=path))
    report = require_found(tree, "path", key)
    assert not [
        read for read in tree.read if ".." in read or "passwd" in read or "hidden" in read or "elsewhere" in read
    ]
    assert report.exit_code == 6


PACKAGE_DAMAGE: dict[str, tuple[Callable[[Json], object], str]] = {
    "a wrong count of rows": (lambda package: package["resources"][0].update({"rnds:rows": 9}), "sums"),
    "a wrong count of a municipality": (lambda package: package["resources"][1].update({"rnds:rows": 9}), "rows"),
    "a wrong count of residents": (lambda package: package["resources"][-1].update({"rnds:rows": 9}), "residents"),
    "a wrong size": (lambda package: package["resources"][0].update(bytes=9), "bytes"),
    "a municipality left out": (lambda package: package["resources"].pop(1), "municipalities"),
    "municipalities out of order": (
        lambda package: package["resources"].insert(1, package["resources"].pop(2)),
        "form",
    ),
    "no file of the UF": (lambda package: package["resources"].pop(0), "form"),
    "no residents": (lambda package: package["resources"].pop(), "residents"),
    "no schema": (lambda package: package["rnds:parts"].pop(0), "form"),
    "no resources": (lambda package: package.pop("resources"), "form"),
    "a hash of another kind": (lambda package: package["resources"][0].update(hash="md5:0"), "form"),
    "two resources of one name": (
        lambda package: package["resources"][1].update(name=package["resources"][2]["name"]),
        "form",
    ),
    "another encoding": (lambda package: package["resources"][0].update(encoding="latin1"), "form"),
}


@pytest.mark.parametrize("name", PACKAGE_DAMAGE)
def test_damage_of_a_descriptor(tree: Tree, name: str) -> None:
    change, kind = PACKAGE_DAMAGE[name]
    edit_package(tree, change)
    report = check(tree)
    assert kind in kinds(report), render_text(report)
    assert "sha256" not in kinds(report)


PARTS_DAMAGE: dict[str, tuple[str, Callable[[Json], object], str]] = {
    "another separator": ("dialect.json", lambda node: node.update(delimiter=","), "dialect"),
    "another column": ("tableschema.json", lambda node: node["fields"].pop(), "header"),
    "an unknown type": ("tableschema.json", lambda node: node["fields"][0].update(type="geopoint"), "form"),
    "an unknown constraint": (
        "tableschema.json",
        lambda node: node["fields"][0]["constraints"].update(jsonSchema={}),
        "form",
    ),
    "another key": ("tableschema.json", lambda node: node.update(primaryKey=["co_paciente"]), "form"),
}


@pytest.mark.parametrize("name", PARTS_DAMAGE)
def test_damage_of_schema_and_dialect(tree: Tree, name: str) -> None:
    file, change, kind = PARTS_DAMAGE[name]
    key = tree.folder(DAY) + "uf=35/" + file
    tree.edit(key, change)
    require_found(tree, "sha256", key)
    tree.seal(DAY, "head")
    report = check(tree)
    assert kind in kinds(report), render_text(report)


def _uf(document: Json, code: str) -> Json:
    return next(uf for uf in document["files"]["ufs"] if uf["uf"] == code)  # type: ignore[no-any-return]


ROOT_DAMAGE: dict[str, tuple[Callable[[Json], object], str]] = {
    "another sum": (lambda day: day.update(rows=7), "sums"),
    "another sum of a UF": (lambda day: _uf(day, "35").update(rows=7), "sums"),
    "another sum of municipalities": (lambda day: day.update(municipalities=9), "sums"),
    "another number of residents": (lambda day: _uf(day, "53").update(residents=9), "residents"),
    "residence that does not close": (lambda day: day["residence"].update(unknown=9), "residents"),
    "another residence that closes": (lambda day: day["residence"].update(known=3, unknown=3), "residents"),
    "another completeness": (lambda day: day["completeness"].update(co_vacina=1), "sums"),
    "a UF left out": (lambda day: day["files"]["ufs"].pop(), "form"),
    "a UF by another name": (lambda day: day["files"]["ufs"][0].update(sg_uf="XX"), "form"),
    "another day": (lambda day: day.update(day=PLAIN), "form"),
    "another form": (lambda day: day.update(schema="imunizacao.day/2"), "form"),
    "a foreign descriptor": (lambda day: _uf(day, "35").update(path="../../x"), "path"),
    "another number of removals": (lambda day: day["files"]["removed"].update(rows=7), "rows"),
    "no files": (lambda day: day.pop("files"), "form"),
    "rows as text": (lambda day: day.update(rows="6"), "form"),
}


@pytest.mark.parametrize("name", ROOT_DAMAGE)
def test_damage_of_the_root(tree: Tree, name: str) -> None:
    change, kind = ROOT_DAMAGE[name]
    key = tree.folder(DAY) + "day.json"
    tree.edit(key, change)
    require_found(tree, "sha256", key)
    body = tree.files[key]
    tree.edit(
        head(DAY),
        lambda node: [
            part.update(bytes=len(body), sha256=sha256(body)) for part in (node["current"], node["history"][-1])
        ],
    )
    report = check(tree)
    assert kind in kinds(report), render_text(report)
    assert "sha256" not in kinds(report)


def test_damage_of_the_outcome(tree: Tree) -> None:
    for change, kind in (
        (lambda node: node["account"].update(quarantined=1), "account"),
        (lambda node: node["account"].update(published=5, quarantined=1), "account"),
        (lambda node: node.update(day=PLAIN), "form"),
        (lambda node: node["account"].pop("doses"), "form"),
    ):
        copy = Tree(tree.files)
        copy.edit(copy.folder(DAY) + "outcome.json", change)
        copy.seal(DAY, "head")
        require_found(copy, kind, copy.folder(DAY) + "outcome.json")


HEAD_DAMAGE: dict[str, tuple[Callable[[Json], object], str]] = {
    "points to what is not there": (lambda node: [part.update(contentId="0" * 64, path=f"v1/days/{DAY}/c-{'0' * 64}/day.json") for part in (node["current"], node["history"][-1])], "missing"),
    "points out of the day": (lambda node: [part.update(path=f"v1/days/{PLAIN}/c-{part['contentId']}/day.json") for part in (node["current"], node["history"][-1])], "path"),
    "current is not the last entry": (lambda node: node["current"].update(contentId="0" * 64), "head"),
    "another hash in current": (lambda node: node["current"].update(sha256="0" * 64), "head"),
    "another count": (lambda node: node["current"].update(rows=5), "head"),
    "another revision": (lambda node: node.update(revision=2), "head"),
    "another state": (lambda node: node.update(state="empty"), "head"),
    "another day": (lambda node: node.update(day=PLAIN), "head"),
    "no current": (lambda node: node.update(current=None), "form"),
    "a revision left out": (lambda node: node["history"].pop(1), "history"),
    "a revision twice": (lambda node: node["history"].insert(1, node["history"][0]), "history"),
    "supersedes another one": (lambda node: node["history"][2].update(supersedes=1), "history"),
    "a reason that is none": (lambda node: node["history"][0].update(reason="because"), "history"),
    "an old root of another hash": (lambda node: node["history"][0].update(sha256="0" * 64), "sha256"),
    "an account that does not close": (lambda node: node["history"][0]["account"].update(removed=1), "account"),
    "documents that do not close": (lambda node: node["history"][0]["source"].update(duplicates=1), "account"),
    "a time without zone": (lambda node: node["current"].update(publishedAt="2026-03-16T01:30:00"), "form"),
    "a verdict that takes it back": (lambda node: node["history"][-1].update(reconciliation={"verdict": "gap", "checkedAt": "x"}), "head"),
    "no history": (lambda node: node.update(history=[]), "form"),
    "purged while it is read": (lambda node: node["history"][-1].update(purgedAt="2026-03-20T00:00:00Z"), "withdrawal"),
    "a withdrawal that nobody wrote": (lambda node: node.update(withdrawnUfs={"53": {"revision": 3, "reason": "x", "at": "2026-03-20T00:00:00Z"}}), "withdrawal"),
    "a withdrawal of no UF": (lambda node: node.update(withdrawnUfs={"99": {"revision": 3, "reason": "x", "at": "2026-03-20T00:00:00Z"}}), "form"),
    "another count of a difference": (lambda node: node["history"][1]["diff"].update(added=9), "diff"),
    "another count of a difference by UF": (lambda node: node["history"][1]["diff"]["ufs"]["35"].update(added=0, changed=2), "diff"),
    "a dose that moved nowhere": (lambda node: node["history"][2]["diff"]["ufs"]["12"].pop("movedOut"), "diff"),
    "a difference elsewhere": (lambda node: node["history"][1]["diff"].update(path="v1/x"), "path"),
    "a difference of another hash": (lambda node: node["history"][1]["diff"]["files"]["added"].update(sha256="0" * 64), "path"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEAD_DAMAGE)
def test_damage_of_a_head(tree: Tree, name: str) -> None:
    change, kind = HEAD_DAMAGE[name]
    tree.edit(head(DAY), change)
    report = check(tree)
    assert kind in kinds(report), render_text(report)


def test_a_head_that_is_not_json_or_not_an_object(tree: Tree) -> None:
    for body in (b"", b"<html>", b"[]", b"[" * 100_000):
        tree.files[head(DAY)] = body
        report = require_found(tree, "form", head(DAY), whole=True)
        assert report.days[0].state == "unreadable"
        assert report.days[1].state == "empty"


def test_damage_of_a_difference(tree: Tree) -> None:
    path = tree.json(head(DAY))["history"][1]["diff"]["path"]
    copy = Tree(tree.files)
    copy.change(f"{path}/added.csv", flip_a_byte)
    require_found(copy, "sha256", f"{path}/added.csv")
    copy = Tree(tree.files)
    del copy.files[f"{path}/removed.csv"]
    require_found(copy, "missing", f"{path}/removed.csv")


def change_diff(tree: Tree, revision: int, name: str, change: Callable[[bytes], bytes]) -> str:
    """Change a file of a difference and make the history agree with it; the new folder of the difference."""
    diff = tree.json(head(DAY))["history"][revision - 1]["diff"]
    tree.change(f"{diff['path']}/{name}.csv", change)
    bodies = {file: tree.files.pop(f"{diff['path']}/{file}.csv") for file in ("added", "changed", "removed")}
    mark = sha256("".join(f"{file}.csv\0{sha256(body)}\n" for file, body in bodies.items()).encode())
    path = f"v1/days/{DAY}/diff/{revision - 1}-{revision}-{mark}"
    tree.files |= {f"{path}/{file}.csv": body for file, body in bodies.items()}
    named = diff["files"] | {name: {"sha256": sha256(bodies[name]), "bytes": len(bodies[name])}}
    tree.edit(head(DAY), lambda node: node["history"][revision - 1]["diff"].update(path=path, files=named))
    return path


@pytest.mark.parametrize(
    ("revision", "name", "change"),
    [
        (2, "added", cell("co_lote_vacina", '"L9"')),
        (2, "changed", cell("co_lote_vacina", '"L9"')),
        (3, "changed", cell("co_lote_vacina", '"L9"')),
        (3, "removed", lambda body: body.replace(b"a1-", b"a0-")),
    ],
)
def test_a_difference_that_does_not_lead_to_the_revision_is_found_when_it_is_applied(
    tree: Tree, revision: int, name: str, change: Callable[[bytes], bytes]
) -> None:
    path = change_diff(tree, revision, name, change)
    assert verify_bucket(tree).findings_count == 0, "counts, form and hashes agree"
    report = verify_bucket(tree, thorough=True)
    assert found(report) == {("diff", path)}, render_text(report)


def test_a_file_of_an_earlier_revision_that_is_damaged_or_gone_is_found_when_differences_are_applied(
    tree: Tree,
) -> None:
    key = tree.json(head(DAY))["history"][1]["path"].rpartition("/")[0] + "/" + SP
    copy = Tree(tree.files)
    del copy.files[key]
    assert verify_bucket(copy).findings_count == 0
    assert found(verify_bucket(copy, thorough=True)) == {("missing", key)}
    tree.change(key, flip_a_byte)
    assert found(verify_bucket(tree, thorough=True)) == {("sha256", key)}


def test_content_that_is_gone_without_a_word(tree: Tree) -> None:
    old = tree.json(head(DAY))["history"][0]["path"]
    del tree.files[old]
    require_found(tree, "missing", old)


def test_a_withdrawn_day_needs_its_reason_and_keeps_its_content_until_it_says_so(tree: Tree) -> None:
    withdraw_day(tree, DAY)
    copy = Tree(tree.files)
    copy.edit(head(DAY), lambda node: node["history"][-1].pop("note"))
    require_found(copy, "withdrawal", head(DAY))
    copy = Tree(tree.files)
    old = copy.json(head(DAY))["history"][2]["path"]
    del copy.files[old]
    require_found(copy, "missing", old)
    copy = Tree(tree.files)
    copy.edit(head(DAY), lambda node: node.update(current={"rows": 1}))
    require_found(copy, "form", head(DAY))


def test_other_ufs_may_not_be_gone_when_one_was_withdrawn_and_purged(tree: Tree) -> None:
    withdraw_ufs(tree, DAY, ["53"])
    purge(tree, DAY, ["53"])
    del tree.files[tree.folder(DAY) + SP]
    require_found(tree, "missing", tree.folder(DAY) + SP)


# --- what is derived -----------------------------------------------------------------------------

INDEX_DAMAGE: dict[str, Callable[[Json], object]] = {
    "stale": lambda node: node["days"][0].update(revision=2),
    "another state": lambda node: node["days"][1].update(state="published"),
    "another count": lambda node: node["days"][0].update(rows=99),
    "another count by UF": lambda node: node["days"][0]["ufs"].update({"53": 9}),
    "another count of residents": lambda node: node["days"][0]["residents"].update({"53": 9}),
    "another root": lambda node: node["days"][0]["root"].update(sha256="0" * 64),
    "another head": lambda node: node["days"][0].update(path=head(PLAIN)),
    "a day left out": lambda node: node["days"].pop(1),
    "a withdrawal that is none": lambda node: node["days"][0].update(withdrawnUfs=["53"]),
    "days out of order": lambda node: node["days"].reverse(),
    "another month": lambda node: node.update(month="2026-04"),
}


@pytest.mark.parametrize("name", INDEX_DAMAGE)
def test_damage_of_a_month_index(tree: Tree, name: str) -> None:
    tree.edit(MONTH, INDEX_DAMAGE[name])
    require_found(tree, "month-index", MONTH, whole=True)


def test_an_index_that_names_a_day_without_a_head_or_is_not_there(tree: Tree) -> None:
    copy = Tree(tree.files)
    del copy.files[head(EMPTY)]
    require_found(copy, "missing", head(EMPTY), whole=True)
    del tree.files[MONTH]
    require_found(tree, "missing", MONTH)


CATALOG_DAMAGE: dict[str, tuple[Callable[[Json], object], str]] = {
    "another total": (lambda node: node["totals"].update(rows=99), "catalog"),
    "another month's count": (
        lambda node: [node["months"][0].update(rows=99), node["totals"].update(rows=99)],
        "catalog",
    ),
    "another month's days": (
        lambda node: [node["months"][0].update(days=99), node["totals"].update(days=99)],
        "catalog",
    ),
    "an index elsewhere": (lambda node: node["months"][0].update(path="v1/x.json"), "path"),
    "an operation left out": (lambda node: node["operations"].pop(), "catalog"),
    "another hash of the dictionary": (lambda node: node["dictionary"].update(sha256="0" * 64), "sha256"),
    "a dictionary elsewhere": (lambda node: node["dictionary"].update(path="v1/x.html"), "path"),
    "no totals": (lambda node: node.pop("totals"), "catalog"),
}


@pytest.mark.parametrize("name", CATALOG_DAMAGE)
def test_damage_of_the_catalog(tree: Tree, name: str) -> None:
    change, kind = CATALOG_DAMAGE[name]
    tree.edit(CATALOG, change)
    report = verify_bucket(tree)
    assert kind in kinds(report), render_text(report)


BULK_DAMAGE: dict[str, Callable[[Json], object]] = {
    "a file left out": lambda node: node["output"].pop(),
    "a file too many": lambda node: node["output"].append(
        node["output"][-1] | {"url": node["output"][-1]["url"].replace("uf=35", "uf=33")}
    ),
    "a file twice": lambda node: node["output"].append(node["output"][-1]),
    "another count": lambda node: node["output"][0].update(count=999),
    "another size": lambda node: node["output"][0].update(fileSize=999),
    "another hash": lambda node: node["output"][0]["extension"].update({"rnds:sha256": "0" * 64}),
    "another operation": lambda node: node["output"][0]["extension"].update({"rnds:operation": "imunizacao-total-rj"}),
    "an address elsewhere": lambda node: node["output"][0].update(url="https://elsewhere.example/x.csv"),
    "a file of a day that is not there": lambda node: node["output"][0]["extension"].update({"rnds:day": PENDING}),
    "no removals": lambda node: node["deleted"].pop(),
    "another count of removals": lambda node: node["deleted"][0].update(count=9),
    "a day left out": lambda node: node["extension"]["rnds:days"].pop(EMPTY),
    "a day without a head": lambda node: node["extension"]["rnds:days"].update(
        {PENDING: {"revision": 1, "dataThrough": node["transactionTime"]}}
    ),
    "another revision": lambda node: node["extension"]["rnds:days"][DAY].update(revision=7),
    "another content": lambda node: node["extension"]["rnds:days"][DAY].update(contentId="0" * 64),
    "another dataThrough": lambda node: node["extension"]["rnds:days"][DAY].update(
        dataThrough="2026-03-15T00:00:00+00:00"
    ),
    "another transaction time": lambda node: node.update(transactionTime="2026-01-01T00:00:00+00:00"),
    "another form": lambda node: node.update(outputFormat="application/fhir+ndjson"),
    "another month": lambda node: node["extension"].update({"rnds:month": "2026-04"}),
    "no days": lambda node: node["extension"].pop("rnds:days"),
    "days out of order": lambda node: node["output"].reverse(),
}


@pytest.mark.parametrize("name", BULK_DAMAGE)
def test_damage_of_the_bulk_manifest(tree: Tree, name: str) -> None:
    tree.edit(BULK, BULK_DAMAGE[name])
    report = require_found(tree, "bulk-publish", BULK, whole=True)
    assert kinds(report) == {"bulk-publish"}, render_text(report)


def test_a_bulk_manifest_that_is_not_there_or_names_what_is_withdrawn(tree: Tree) -> None:
    before = tree.files[BULK]
    copy = Tree(tree.files)
    withdraw_ufs(copy, DAY, ["35"])
    copy.files[BULK] = before
    assert "should not have" in render_text(require_found(copy, "bulk-publish", BULK))
    copy = Tree(tree.files)
    withdraw_day(copy, DAY)
    copy.files[BULK] = before
    require_found(copy, "bulk-publish", BULK)
    del tree.files[BULK]
    assert found(require_found(tree, "missing", BULK)) == {("missing", BULK), ("catalog", CATALOG)}


DCAT_DAMAGE: dict[str, Callable[[Json], object]] = {
    "nothing in it": Json.clear,
    "another vocabulary": lambda node: node["@context"].update(dcat="http://elsewhere.example/"),
    "no title": lambda node: node.pop("dct:title"),
    "nobody responsible": lambda node: node["dct:publisher"].pop("foaf:name"),
    "a dataset left out": lambda node: node["dcat:dataset"].pop(),
    "a dataset twice": lambda node: node["dcat:dataset"].append(node["dcat:dataset"][0]),
    "another title": lambda node: node["dcat:dataset"][0]["dct:title"].update({"@value": "x"}),
    "no category": lambda node: node["dcat:dataset"][0]["dcat:theme"].clear(),
    "another UF": lambda node: node["dcat:dataset"][0]["dct:spatial"].update({"dct:identifier": "99"}),
    "another version": lambda node: node["dcat:dataset"][0].update({"dcat:version": "0.0.1"}),
    "another first day": lambda node: node["dcat:dataset"][0]["dct:temporal"]["dcat:startDate"].update({"@value": "x"}),
    "a link to nothing": lambda node: node["dcat:dataset"][0]["dcat:distribution"]["dcat:accessURL"].update(
        {"@id": "catalogo.json"}
    ),
    "a dictionary that is not there": lambda node: node["dcat:dataset"][0]["foaf:page"].update({"@id": "dados/x.html"}),
    "no distribution": lambda node: node["dcat:dataset"][0].pop("dcat:distribution"),
}


@pytest.mark.parametrize("name", DCAT_DAMAGE)
def test_damage_of_the_description_in_dcat(tree: Tree, name: str) -> None:
    tree.edit(DCAT, DCAT_DAMAGE[name])
    report = require_found(tree, "dcat", DCAT)
    assert kinds(report) == {"dcat"}, render_text(report)


def test_a_description_in_dcat_that_is_not_there(tree: Tree) -> None:
    del tree.files[DCAT]
    require_found(tree, "missing", DCAT)


def test_without_a_catalog_a_day_is_still_found_by_its_address(tree: Tree) -> None:
    del tree.files[CATALOG]
    report = verify_bucket(tree, selection=Selection(day=DAY))
    assert found(report) == {("missing", CATALOG)}
    assert report.days[0].rows == 6

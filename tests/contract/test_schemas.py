"""The JSON Schemas of the published JSON files take what we publish and refuse what we must not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from imunizacao.contract import load_contract, load_schema
from imunizacao.paths import CONTRACT

Json = dict[str, Any]
DAY = "2026-03-14"
A, B, C = "a" * 64, "b" * 64, "c" * 64
NAMES = ("head", "day", "outcome", "month-index", "catalog", "keys", "publication", "bulk-publish")
UFS = [
    "11:RO",
    "12:AC",
    "13:AM",
    "14:RR",
    "15:PA",
    "16:AP",
    "17:TO",
    "21:MA",
    "22:PI",
    "23:CE",
    "24:RN",
    "25:PB",
    "26:PE",
    "27:AL",
    "28:SE",
    "29:BA",
    "31:MG",
    "32:ES",
    "33:RJ",
    "35:SP",
    "41:PR",
    "42:SC",
    "43:RS",
    "50:MS",
    "51:MT",
    "52:GO",
    "53:DF",
]
ACCOUNT = {"doses": 1000, "published": 980, "quarantined": 12, "superseded": 5, "removed": 3}
REFERENCES = {
    "cnes": {"competencia": "202602", "sha256": A},
    "ibge": {"version": "DTB 2025", "sha256": B},
    "pni": {"sha256": C},
}
RULES = {"suite": "dose", "sha256": A}
KEY = "0123456789abcdef"
SIGNATURE = {"path": f"v1/days/{DAY}/c-{B}/day.{KEY}.dsse.json", "sha256": C, "bytes": 700, "keyId": KEY}


def head() -> Json:
    entry: Json = {
        "revision": 1,
        "state": "published",
        "contentId": A,
        "path": f"v1/days/{DAY}/c-{A}/day.json",
        "sha256": B,
        "bytes": 9000,
        "publishedAt": "2026-03-15T02:10:00Z",
        "dataThrough": "2026-03-15T00:00:00.000-03:00",
        "reason": "initial",
        "supersedes": None,
        "commitToken": "0a0b0c0d-0001",
        "runId": "scheduled__2026-03-15T03-00-00-00-00",
        "codeVersion": "0123456789ab",
        "source": {"announced": 1003, "fetched": 1003, "duplicates": 3, "unique": 1000},
        "account": dict(ACCOUNT),
        "quarantinedByReason": {"CNES_UNKNOWN": "*", "IMU-004": 8},
        "references": copy.deepcopy(REFERENCES),
        "rules": dict(RULES),
    }
    later = copy.deepcopy(entry) | {
        "revision": 2,
        "contentId": B,
        "path": f"v1/days/{DAY}/c-{B}/day.json",
        "reason": "late-arrivals",
        "note": "Doze documentos chegaram depois da primeira publicação.",
        "supersedes": 1,
        "decision": {"choice": "publish", "reason": "Conferido com a secretaria.", "rules": ["IMU-190"]},
        "diff": {
            "path": f"v1/days/{DAY}/diff/1-2-{C}",
            "added": 12,
            "changed": 1,
            "removed": 0,
            "files": {name: {"bytes": 900, "sha256": C} for name in ("added", "changed", "removed")},
            "ufs": {
                "35": {"added": 12, "changed": 1, "removed": 0, "movedIn": 1},
                "53": {"added": 0, "changed": 0, "removed": 0, "movedOut": 1},
            },
        },
        "reconciliation": {"verdict": "ok", "checkedAt": "2026-03-15T02:11:00Z"},
        "signature": dict(SIGNATURE),
    }
    return {
        "schema": "imunizacao.head/1",
        "day": DAY,
        "revision": 2,
        "state": "published",
        "current": {
            "contentId": B,
            "path": f"v1/days/{DAY}/c-{B}/day.json",
            "sha256": B,
            "bytes": 9000,
            "rows": 980,
            "publishedAt": "2026-03-15T02:10:00Z",
            "dataThrough": "2026-03-15T00:00:00.000-03:00",
            "signature": dict(SIGNATURE),
        },
        "history": [entry, later],
    }


def withdrawn_head() -> Json:
    node = head()
    gone = {
        key: node["history"][1][key] for key in ("publishedAt", "dataThrough", "commitToken", "runId", "codeVersion")
    }
    node["history"][1]["purgedAt"] = "2026-04-15T00:00:00Z"
    node["history"].append(
        {
            **gone,
            "revision": 3,
            "state": "withdrawn",
            "contentId": None,
            "path": None,
            "sha256": None,
            "bytes": None,
            "reason": "withdrawal",
            "note": "Retirado a pedido do órgão responsável.",
            "supersedes": 2,
        }
    )
    return node | {"revision": 3, "state": "withdrawn", "current": None}


def head_without_a_uf() -> Json:
    """A UF withdrawn, and its files removed since."""
    node = head()
    entry = copy.deepcopy(node["history"][1]) | {
        "revision": 3,
        "reason": "withdrawal",
        "ufs": ["53"],
        "note": "Retirado a pedido do órgão responsável.",
        "supersedes": 2,
    }
    del entry["diff"], entry["decision"]
    node["history"].append(entry)
    for one in node["history"]:
        one["purgedUfs"] = ["53"]
    node["history"][1]["diff"]["purgedAt"] = "2026-04-15T00:00:00Z"
    withdrawn = {"revision": 3, "reason": entry["note"], "at": entry["publishedAt"], "purgedAt": "2026-04-15T00:00:00Z"}
    return node | {"revision": 3, "withdrawnUfs": {"53": withdrawn}}


def empty_head() -> Json:
    node = head()
    node["history"] = node["history"][:1]
    node["history"][0]["state"] = "empty"
    node["history"][0]["account"] = dict.fromkeys(ACCOUNT, 0)
    node["history"][0]["quarantinedByReason"] = {}
    node["current"]["rows"] = 0
    return node | {"revision": 1, "state": "empty"}


def day() -> Json:
    return {
        "schema": "imunizacao.day/1",
        "day": DAY,
        "timezone": "America/Sao_Paulo",
        "partitionBy": "establishment",
        "contract": {"name": "dose", "version": load_contract().version},
        "rows": 980,
        "municipalities": 310,
        "residence": {"known": 540, "unknown": 440},
        "files": {
            "ufs": [
                {
                    "uf": uf,
                    "sg_uf": sigla,
                    "path": f"uf={uf}/datapackage.json",
                    "sha256": A,
                    "bytes": 2000,
                    "rows": 40,
                    "municipalities": 12,
                    "residents": 20,
                }
                for uf, sigla in (item.split(":") for item in UFS)
            ],
            "removed": {"path": "removed.csv", "sha256": B, "bytes": 120, "rows": 0},
            "outcome": {"path": "outcome.json", "sha256": C, "bytes": 300},
        },
        "references": copy.deepcopy(REFERENCES),
        "rules": dict(RULES),
        "pseudonym": {"method": "HMAC-SHA256", "keyId": "k2", "previousKeyId": "k1"},
        "neutralised": {"co_lote_vacina": 2},
        "blanked": {"co_vacina_fabricante": 1},
        "completeness": {"co_documento": 980, "dt_deletado_rnds": 0},
    }


def outcome() -> Json:
    return {
        "schema": "imunizacao.outcome/1",
        "day": DAY,
        "account": {"unique": 1000, **ACCOUNT},
        "quarantinedByReason": {"CNES_UNKNOWN": "*", "IMU-004": 8},
        "quarantinedByUf": {"53": {"IMU-004": 8}, "00": {"CNES_UNKNOWN": "*"}},
        "warnings": [
            {"rule": "IMU-021", "count": 8},
            {"rule": "IMU-022", "count": "*"},
            {"rule": "IMU-103", "count": 1, "scope": "day"},
        ],
    }


def month_index() -> Json:
    return {
        "schema": "imunizacao.month/1",
        "month": "2026-03",
        "days": [
            {
                "day": DAY,
                "state": "published",
                "revision": 2,
                "rows": 980,
                "path": f"v1/days/{DAY}/head.json",
                "root": {"path": f"v1/days/{DAY}/c-{B}/day.json", "sha256": B},
                "ufs": {"53": 40, "35": 940},
                "residents": {"53": 20, "35": 520},
            },
            {
                "day": "2026-03-15",
                "state": "withdrawn",
                "revision": 3,
                "rows": 0,
                "path": "v1/days/2026-03-15/head.json",
                "root": None,
                "ufs": {},
                "residents": {},
            },
        ],
    }


def month_index_without_a_uf() -> Json:
    """Every dose of the day is of the UF that was withdrawn."""
    node = month_index()
    node["days"][0] |= {"rows": 0, "ufs": {"35": 0}, "residents": {"35": 0}, "withdrawnUfs": ["53"]}
    return node


def catalog() -> Json:
    return {
        "schema": "imunizacao.catalog/1",
        "operations": [
            {"slug": "imunizacao-total-df", "title": "imunização-total-df", "uf": "53", "sg_uf": "DF"},
            {
                "slug": "imunizacao-total-sp",
                "title": "imunização-total-sp",
                "uf": "35",
                "sg_uf": "SP",
                "description": "Doses aplicadas em São Paulo.",
            },
            {"slug": "imunizacao-residentes-df", "title": "imunização-residentes-df", "uf": "53", "sg_uf": "DF"},
        ],
        "contract": {"name": "dose", "version": "1.0.0"},
        "dictionary": {"path": "v1/dados/dicionario-1.0.0-0123456789ab.html", "sha256": A, "bytes": 90000},
        "months": [
            {
                "month": "2026-03",
                "path": "v1/months/2026-03/index.json",
                "days": 2,
                "rows": 980,
                "residents": 540,
                "bulkPublish": "v1/months/2026-03/bulk-publish.json",
                "revisions": 3,
            }
        ],
        "totals": {"days": 2, "rows": 980, "residents": 540},
    }


def signed_catalog() -> Json:
    return catalog() | {"keys": "v1/keys/index.json"}


def keys() -> Json:
    entry = {"keyId": KEY, "algorithm": "Ed25519", "path": f"v1/keys/{KEY}.pub", "sha256": A}
    since = "2026-03-15T02:10:00+00:00"
    return {
        "schema": "imunizacao.keys/1",
        "keys": [
            entry | {"state": "revoked", "since": since, "until": "2026-04-01T12:00:00+00:00"},
            entry | {"keyId": KEY[::-1], "path": f"v1/keys/{KEY[::-1]}.pub", "state": "active", "since": since},
        ],
    }


def publication() -> Json:
    return {"day": DAY, "contentId": B, "rows": 980}


def bulk_publish() -> Json:
    folder = f"../../days/{DAY}/c-{B}"
    return {
        "manifestType": "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/BulkPublishManifest",
        "transactionTime": "2026-03-16T00:00:00-03:00",
        "updateCadence": "P1D",
        "requiresAccessToken": False,
        "outputFormat": "text/csv",
        "output": [
            {
                "type": "Immunization",
                "url": f"{folder}/uf=53/imunizacao-total-df_{DAY}.csv",
                "count": 40,
                "fileSize": 9000,
                "extension": {"rnds:sha256": A, "rnds:day": DAY, "rnds:operation": "imunizacao-total-df"},
            }
        ],
        "deleted": [
            {
                "url": f"{folder}/removed.csv",
                "count": 2,
                "fileSize": 300,
                "extension": {"rnds:sha256": C, "rnds:day": DAY},
            }
        ],
        "extension": {
            "rnds:schema": "imunizacao.bulk-publish/1",
            "rnds:month": "2026-03",
            "rnds:days": {
                DAY: {"revision": 2, "contentId": B, "dataThrough": "2026-03-15T00:00:00-03:00"},
                "2026-03-15": {"revision": 3, "dataThrough": "2026-03-16T00:00:00-03:00"},
            },
        },
    }


EXAMPLES: dict[str, list[Callable[[], Json]]] = {
    "head": [head, empty_head, withdrawn_head, head_without_a_uf],
    "day": [day],
    "outcome": [outcome],
    "month-index": [month_index, month_index_without_a_uf],
    "catalog": [catalog, signed_catalog],
    "keys": [keys],
    "publication": [publication],
    "bulk-publish": [bulk_publish],
}


def faults(name: str, node: object) -> list[str]:
    validator = Draft202012Validator(load_schema(name), format_checker=Draft202012Validator.FORMAT_CHECKER)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(node)]


def change(node: Json, path: str, value: object) -> Json:
    """Set `a/0/b` to a value; the value `...` deletes the key."""
    *parents, last = path.split("/")
    target: Any = node
    for part in parents:
        target = target[int(part)] if isinstance(target, list) else target[part]
    if value is ...:
        del target[last]
    elif isinstance(target, list):
        target[int(last)] = value
    else:
        target[last] = value
    return node


def test_there_is_a_schema_for_every_published_file() -> None:
    files = {path.name for path in (CONTRACT / "schemas").iterdir()}
    assert files == {f"{name}.schema.json" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_schema_is_a_valid_2020_12_schema(name: str) -> None:
    schema = load_schema(name)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)


def objects_of(node: Any, place: str = "#") -> list[tuple[str, Json]]:
    found = [(place, node)] if isinstance(node, dict) and node.get("type") == "object" and "properties" in node else []
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        # A condition only narrows what the main schema already closed.
        if key not in ("if", "then", "else"):
            found += objects_of(child, f"{place}/{key}")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_no_object_takes_an_unknown_key(name: str) -> None:
    objects = objects_of(load_schema(name))
    assert objects
    for place, node in objects:
        assert node.get("additionalProperties") is False, f"{name} {place} is open"


def test_definitions_of_the_same_name_are_the_same_in_every_schema() -> None:
    seen: dict[str, str] = {}
    for name in NAMES:
        for key, node in load_schema(name)["$defs"].items():
            text = json.dumps(node, sort_keys=True)
            assert seen.setdefault(key, text) == text, f"{key} of {name} differs from another schema"


@pytest.mark.parametrize(("name", "make"), [(name, make) for name, makes in EXAMPLES.items() for make in makes])
def test_a_valid_example_passes(name: str, make: Callable[[], Json]) -> None:
    assert faults(name, make()) == []


@pytest.mark.parametrize(("name", "make"), [(name, makes[0]) for name, makes in EXAMPLES.items()])
def test_every_top_level_key_is_required(name: str, make: Callable[[], Json]) -> None:
    for key in make():
        node = make()
        del node[key]
        assert any(f"'{key}' is a required property" in fault for fault in faults(name, node)), key


@pytest.mark.parametrize(
    ("make", "path", "value"),
    [
        (head, "schema", "imunizacao.head/2"),
        (head, "day", "2026-3-14"),
        (head, "day", "2026-02-30"),
        (head, "revision", 0),
        (head, "state", "pending"),
        (head, "current", None),
        (head, "current/rows", 0),
        (head, "current/path", f"c-{B}/day.json"),
        (head, "current/path", f"v1/days/{DAY}/c-{B}/../day.json"),
        (head, "current/sha256", B.upper()),
        (head, "current/publishedAt", "2026-03-15T02:10:00"),
        (head, "current/etag", '"x"'),
        (head, "history", []),
        (head, "history/0/reason", "because"),
        (head, "history/0/reason", "withdrawal"),
        (head, "history/0/supersedes", 1),
        (head, "history/1/supersedes", None),
        (head, "history/1/contentId", None),
        (head, "history/0/account", ...),
        (head, "history/0/account/published", 0),
        (head, "history/0/source/unique", -1),
        (head, "history/0/source/unique", 1.5),
        (head, "history/0/quarantinedByReason", {"cpf 12345678909": 1}),
        (head, "history/0/commitToken", ""),
        (head, "history/1/decision/choice", "hold"),
        (head, "history/1/decision/reason", "short"),
        (head, "history/1/decision/reason", "paciente 12345678909 conferido"),
        (head, "history/1/decision/rules", []),
        (head, "history/1/decision/decidedBy", "ana"),
        (head, "history/1/diff/path", "../diff/1-2"),
        (head, "history/1/diff/path", f"v1/days/{DAY}/diff/1-2"),
        (head, "history/1/diff/added", ...),
        (head, "history/1/diff/files/removed", ...),
        (head, "history/1/diff/files/changed/sha256", "c"),
        (head, "history/1/diff/ufs", {"99": {"added": 1, "changed": 0, "removed": 0}}),
        (head, "history/1/diff/ufs/35/removed", ...),
        (head, "history/1/diff/ufs/35/moved", 1),
        (head, "history/1/reconciliation/verdict", "maybe"),
        (head, "history/0/references/cnes/competencia", "2026-02"),
        (head, "history/0/rules/sha256", ...),
        (head, "history/0/pacientes", []),
        (empty_head, "current/rows", 1),
        (empty_head, "history/0/account/published", 1),
        (head, "current/signature", {}),
        (head, "current/signature/path", f"v1/days/{DAY}/c-{B}/day.json"),
        (head, "current/signature/keyId", KEY.upper()),
        (head, "history/1/signature/sig", "AAAA"),
        (withdrawn_head, "current", head()["current"]),
        (withdrawn_head, "history/2/reason", "late-arrivals"),
        (withdrawn_head, "history/2/ufs", ["53"]),
        (head_without_a_uf, "history/2/ufs", ...),
        (head_without_a_uf, "history/2/ufs", []),
        (head_without_a_uf, "history/2/reason", "correction"),
        (head_without_a_uf, "history/2/purgedUfs", ["99"]),
        (head_without_a_uf, "withdrawnUfs", {}),
        (head_without_a_uf, "withdrawnUfs/53/reason", ...),
    ],
)
def test_a_bad_head_is_refused(make: Callable[[], Json], path: str, value: object) -> None:
    assert faults("head", change(make(), path, value)), f"{path}={value!r} passed"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "imunizacao.head/1"),
        ("timezone", "UTC"),
        ("partitionBy", "residence"),
        ("contract/name", "removed"),
        ("contract/version", "1"),
        ("rows", -1),
        ("runId", "x"),
        ("created", "2026-03-15T02:10:00Z"),
        ("files/ufs", []),
        ("files/ufs/0", None),
        ("files/ufs/0/uf", "12"),
        ("files/ufs/0/sg_uf", "AC"),
        ("files/ufs/0/path", "uf=12/datapackage.json"),
        ("files/ufs/0/path", f"v1/days/{DAY}/uf=11/datapackage.json"),
        ("files/ufs/26/bytes", 0),
        ("files/ufs/26/residents", ...),
        ("files/ufs/26/residents", -1),
        ("residence/known", ...),
        ("residence", {"known": 540, "unknown": 440, "foreign": 0}),
        ("files/ufs/26/sha256", f"sha256:{A}"),
        ("files/removed/path", "diff/removed.csv"),
        ("files/removed/rows", ...),
        ("files/outcome", ...),
        ("references/pni", ...),
        ("references/ibge/url", "x"),
        ("neutralised", {"Lote": 1}),
        ("completeness", {"co_documento": "980"}),
    ],
)
def test_a_bad_day_is_refused(path: str, value: object) -> None:
    assert faults("day", change(day(), path, value)), f"{path}={value!r} passed"


def test_a_day_with_26_or_28_ufs_is_refused() -> None:
    for ufs in (day()["files"]["ufs"][:-1], day()["files"]["ufs"] + day()["files"]["ufs"][-1:]):
        assert faults("day", change(day(), "files/ufs", ufs))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("day", None),
        ("account/unique", ...),
        ("account/fetched", 1003),
        ("quarantinedByReason", {"imu-004": 8}),
        ("quarantinedByReason", {"IMU-004": "8"}),
        ("quarantinedByReason", {"IMU-004": 7}),
        ("quarantinedByUf", {"53": {"IMU-004": 1}}),
        ("warnings", [{"rule": "IMU-021", "count": 7}]),
        ("quarantinedByUf", {"DF": {"IMU-004": 8}}),
        ("quarantinedByUf", {"99": {"IMU-004": 8}}),
        ("quarantinedByUf", {"53": 8}),
        ("warnings", [{"rule": "IMU-21", "count": 8}]),
        ("warnings", [{"rule": "IMU-103", "count": 1, "scope": "week"}]),
        ("warnings", [{"rule": "IMU-021"}]),
        ("warnings", [{"rule": "IMU-021", "count": 8, "values": ["x"]}]),
    ],
)
def test_a_bad_outcome_is_refused(path: str, value: object) -> None:
    assert faults("outcome", change(outcome(), path, value)), f"{path}={value!r} passed"


@pytest.mark.parametrize(
    ("make", "path", "value"),
    [
        (keys, "keys", []),
        (keys, "keys/0/state", "lost"),
        (keys, "keys/0/until", ...),
        (keys, "keys/1/until", "2026-04-01T12:00:00+00:00"),
        (keys, "keys/1/path", "../key.pub"),
        (keys, "keys/1/algorithm", "RS256"),
        (keys, "keys/1/private", "x"),
        (publication, "rows", -1),
        (publication, "runId", "x"),
        (bulk_publish, "output/0/url", f"https://example.org/{DAY}.csv"),
        (bulk_publish, "output/0/count", 0),
        (bulk_publish, "output/0/extension/rnds:sha256", ...),
        (bulk_publish, "deleted/0/type", "Immunization"),
        (bulk_publish, "requiresAccessToken", True),
        (bulk_publish, "request", "x"),
        (bulk_publish, "extension/rnds:days", {}),
    ],
)
def test_bad_keys_predicates_and_bulk_manifests_are_refused(make: Callable[[], Json], path: str, value: object) -> None:
    name = make.__name__.replace("_", "-")
    assert faults(name, change(make(), path, value)), f"{path}={value!r} passed"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("month", "2026-13"),
        ("days/0/state", "pending"),
        ("days/0/rows", 0),
        ("days/0/root", None),
        ("days/0/root/sha256", ...),
        ("days/0/path", f"days/{DAY}/head.json"),
        ("days/0/ufs", {"DF": 40}),
        ("days/0/ufs", {"53": -1}),
        ("days/1/root", {"path": f"v1/days/{DAY}/c-{B}/day.json", "sha256": B}),
        ("days/1/rows", 5),
        ("days/0/residents", ...),
        ("days/0/residents", {"DF": 20}),
        ("days/1/residents", {"53": 20}),
        ("days/1", month_index()["days"][0]),
    ],
)
def test_a_bad_month_index_is_refused(path: str, value: object) -> None:
    assert faults("month-index", change(month_index(), path, value)), f"{path}={value!r} passed"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("operations", []),
        ("operations/0/slug", "imunização-total-df"),
        ("operations/0/slug", "imunizacao-total-xx"),
        ("operations/0/title", "imunizacao-total-df"),
        ("operations/2/slug", "imunizacao-residencia-df"),
        ("operations/0/uf", "99"),
        ("operations/0/url", "http://example.org"),
        ("months/0/revisions", 0),
        ("operations/1", catalog()["operations"][0]),
        ("contract", {"name": "dose"}),
        ("dictionary/path", "v1/dados/dicionario-1.0.0.html"),
        ("dictionary/sha256", ...),
        ("months/0/path", "months/2026-03/index.json"),
        ("months/0/days", 32),
        ("totals/rows", ...),
    ],
)
def test_a_bad_catalog_is_refused(path: str, value: object) -> None:
    assert faults("catalog", change(catalog(), path, value)), f"{path}={value!r} passed"

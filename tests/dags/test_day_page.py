"""The page of a day tells what its documents had that the project's tables do not know."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from imunizacao.storage import ObjectMissing

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.servers,
    # Airflow, alembic and starlette warn about one another; warnings that our own modules cause stay errors.
    pytest.mark.filterwarnings("ignore", "error:::imunizacao"),
]
DAY = "2026-03-14"
HEAD = {
    "state": "published",
    "revision": 1,
    "current": None,
    "history": [
        {"revision": 1, "state": "published", "reason": "initial", "publishedAt": "2026-03-15T03:00:00Z", "runId": "r1"}
    ],
}
RECEIPTS = f"v1/day={DAY}/run=r1"


class Store:
    """Objects in memory."""

    def __init__(self, objects: dict[str, Any]) -> None:
        self._objects = objects

    def info(self, key: str) -> object:
        return self._objects.get(key)

    def get(self, key: str) -> SimpleNamespace:
        if key not in self._objects:
            raise ObjectMissing(key)
        return SimpleNamespace(body=json.dumps(self._objects[key]).encode())


def page(monkeypatch: pytest.MonkeyPatch, work: dict[str, Any]) -> str:
    from imunizacao_airflow import web

    stores = {"public": Store({f"v1/days/{DAY}/head.json": HEAD}), "work": Store(work)}
    monkeypatch.setattr(web, "_store", stores.__getitem__)
    return bytes(web._day_page(DAY).body).decode()


def test_the_page_lists_generations_unknown_profiles_new_fields_and_unknown_codes(
    airflow_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page(
        monkeypatch,
        {
            f"{RECEIPTS}/flatten/receipt.json": {
                "code_counts": {
                    "co_vacina desconhecido": 3,
                    "geração RIA-R 2.0": 1200,
                    "geração desconhecida": 7,
                    "perfil desconhecido Rotina-<3.0>": 7,
                }
            },
            f"{RECEIPTS}/extract/receipt.json": {"unknown_elements": {"A.rare": 1, "B.often": 1500}},
        },
    )
    for part in (
        "<h2>Documentos por geração</h2>",
        "<td>RIA-R 2.0</td><td>1.200</td>",
        "<td>Rotina-&lt;3.0&gt;</td><td>7</td>",
        "<td>co_vacina desconhecido</td><td>3</td>",
    ):
        assert part in text
    assert text.index("<td>B.often</td><td>1.500</td>") < text.index("<td>A.rare</td><td>1</td>")


def test_a_content_that_a_person_restored_is_still_that_of_the_run_that_read_it(
    airflow_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    restored = {**HEAD["history"][-1], "runId": "restore-1", "reason": "restore"}
    monkeypatch.setitem(HEAD, "history", [*HEAD["history"], restored])
    counts = {"code_counts": {"documento de outro tipo REL": 3}}
    text = page(monkeypatch, {f"{RECEIPTS}/flatten/receipt.json": counts})
    assert "<h2>Documentos de outros tipos (sem doses)</h2>" in text
    assert "<td>REL</td><td>3</td>" in text


def test_a_page_without_receipts_says_nothing_of_documents(
    airflow_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page(monkeypatch, {})
    assert "Histórico" in text
    assert "<a href='../verdicts'>" in text
    assert "Data Docs" not in text
    assert "Campos novos" not in text


def test_the_page_says_what_a_person_decided_and_why(
    airflow_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decision = {"choice": "publish", "reason": "carga <conferida> com o estado", "rules": ["IMU-190"]}
    monkeypatch.setitem(HEAD["history"][0], "decision", decision)  # type: ignore[index]
    text = page(monkeypatch, {f"v1/docs/day={DAY}/index.html": {}})
    assert "initial · decisão (IMU-190): carga &lt;conferida&gt; com o estado" in text
    assert f"<a href='../objects/work/v1/docs/day={DAY}/index.html'>Data Docs</a>" in text


def test_a_masked_count_stays_masked_on_the_page(airflow_env: dict[str, str]) -> None:
    from imunizacao_airflow.web import _number

    assert [_number(value) for value in ("*", 1234, 0, None)] == ["*", "1.234", "0", "—"]


@pytest.mark.parametrize("signed", [True, False])
def test_the_page_leads_to_the_signature_or_says_that_there_is_none(
    airflow_env: dict[str, str], monkeypatch: pytest.MonkeyPatch, signed: bool
) -> None:
    from imunizacao_airflow import web

    root, key_id = f"v1/days/{DAY}/c-{'a' * 64}/day.json", "0123456789abcdef"
    path = root.replace("day.json", f"day.{key_id}.dsse.json")
    current = {"path": root} | ({"signature": {"path": path, "keyId": key_id}} if signed else {})
    monkeypatch.setitem(HEAD, "current", current)
    text = page(monkeypatch, {})
    assert (f"<a href='../objects/public/{path}'>assinatura {key_id}</a>" in text) is signed
    assert ("sem assinatura" in text) is not signed
    allowed = web._ALLOWED["public"].fullmatch
    for key in (
        path,
        "v1/keys/index.json",
        f"v1/keys/{key_id}.pub",
        "v1/catalog.jsonld",
        "v1/months/2026-03/bulk-publish.json",
    ):
        assert allowed(key), key
    for key in ("v1/keys/key.pem", "v1/keys/../x.pub", "v1/probe/x", "v1/catalog.jsonx"):
        assert not allowed(key), key

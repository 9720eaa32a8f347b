"""Row 25 of the fault matrix: HTML and Jinja in texts that come from outside. Figure: 0 executions, in a real browser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from imunizacao.contract import Column, KnownCode, known_codes
from imunizacao.decision import Decision
from imunizacao.dictionary import dictionary_html
from imunizacao.docs_index import INDEX_KEY, note_verdict
from imunizacao.models import DoseAccount
from imunizacao.pipeline import run_note
from tests.support.browser import chromium
from tests.support.memory_store import MemoryStore
from tests.unit.test_docs_index import receipt, rule

pytestmark = [
    pytest.mark.airflow,
    # Airflow, alembic and starlette warn about one another; warnings that our own modules cause stay errors.
    pytest.mark.filterwarnings("ignore", "error:::imunizacao"),
]
DAY = "2026-03-14"
MARK = "(window.hostile=window.hostile||[]).push('ran')"
HOSTILE = (
    f"<script>{MARK}</script>",
    f'"><img src=x onerror="{MARK}">',
    f"'><svg onload={MARK}>",
    f"</script><script>{MARK}</script>",
    f"<details open ontoggle={MARK}>",
    f"javascript:{MARK}",
    f"<a href=\"javascript:{MARK}\" onmouseover='{MARK}'>x</a>",
    f'--></style></title></textarea><iframe srcdoc="<script>parent.{MARK}</script>">',
    "{{ 7 * 7 }}{% for x in (1,) %}49{% endfor %}${7*7}<%= 7*7 %>",
    "http://example.org/evil.js",
)
ALL = " ".join(HOSTILE)


def _day_page(monkeypatch: pytest.MonkeyPatch) -> str:
    """The page *Publicação* of a day whose documents, and whose history, hold hostile text everywhere that text can be."""
    from imunizacao_airflow import web

    entry = {
        "revision": 1,
        "state": ALL,
        "reason": ALL,
        "note": ALL,
        "publishedAt": ALL,
        "runId": "r1",
        "decision": {"choice": "publish", "reason": ALL, "rules": [ALL]},
        "reconciliation": {"verdict": ALL},
        "quarantinedByReason": dict.fromkeys(HOSTILE, 9),
    }
    head = {"state": ALL, "revision": 1, "current": {"path": ALL}, "history": [entry]}
    receipts = f"v1/day={DAY}/run=r1"
    objects: dict[str, dict[str, Any]] = {
        "public": {f"v1/days/{DAY}/head.json": head},
        "work": {
            f"{receipts}/flatten/receipt.json": {
                "code_counts": {
                    f"{start}{text}": 3 for text in HOSTILE for start in ("geração ", "perfil desconhecido ", "")
                }
            },
            f"{receipts}/extract/receipt.json": {"unknown_elements": dict.fromkeys(HOSTILE, 2)},
        },
    }
    monkeypatch.setattr(web, "_store", lambda bucket: _Store(objects[bucket]))
    return bytes(web._day_page(DAY).body).decode()


def _months_page(monkeypatch: pytest.MonkeyPatch) -> str:
    from imunizacao_airflow import web

    days = [{"day": f"2026-03-{n:02d}", "state": text, "revision": 1, "rows": 1} for n, text in enumerate(HOSTILE, 1)]
    objects = {
        "v1/catalog.json": {
            "months": [{"month": ALL, "path": "index", "rows": 1}],
            "totals": {"days": 1, "rows": 1},
            "dictionary": {"path": ALL},
            "operations": [{"title": text, "description": text} for text in HOSTILE],
        },
        "index": {"days": days},
    }
    monkeypatch.setattr(web, "_store", lambda bucket: _Store(objects))
    return bytes(web._months_page().body).decode()


class _Store:
    """Objects in memory."""

    def __init__(self, objects: dict[str, Any]) -> None:
        self._objects = objects

    def info(self, key: str) -> object:
        return self._objects.get(key)

    def get(self, key: str) -> SimpleNamespace:
        from imunizacao.storage import ObjectMissing

        if key not in self._objects:
            raise ObjectMissing(key)
        return SimpleNamespace(body=json.dumps(self._objects[key]).encode())


def _decision() -> Decision:
    return Decision(
        choice="hold", reason=ALL, rules=["IMU-190"], verdict="f", decided_by=ALL, decided_at="2026-03-15T00:00:00Z"
    )


def _verdicts_page() -> str:
    """The index of the Data Docs, with the reason that a person gave and the notes of rules."""
    work, public = MemoryStore(), MemoryStore()
    asking = rule("IMU-190", on_fail="ask", note=ALL)
    note_verdict(work, public, receipt(DAY, asking, rule("IMU-103", severity="warning", note=ALL)), _decision())
    return work.get(INDEX_KEY).body.decode()


def _dictionary_page() -> str:
    """The data dictionary, with names of codes as a reference table could bring them."""

    def hostile(column: Column) -> tuple[KnownCode, ...]:
        return tuple(replace(code, label=ALL) for code in known_codes(column)[:1])

    with (
        mock.patch("imunizacao.dictionary.known_codes", hostile),
        mock.patch("imunizacao.contract.known_codes", hostile),
    ):
        return dictionary_html().decode()


def test_nothing_that_comes_from_outside_runs_in_a_browser(
    airflow_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {
        "day": _day_page(monkeypatch),
        "months": _months_page(monkeypatch),
        "verdicts": _verdicts_page(),
        "dictionary": _dictionary_page(),
    }
    with chromium() as browser:
        alarm = browser.open(f"<body>{ALL}</body>")
        assert alarm.ran, "the texts are hostile, and this browser would tell"
        for name, page in pages.items():
            seen = browser.open(page)
            assert seen.ran == [], f"the page {name} runs what is in its texts"
            assert "{{ 7 * 7 }}{% for x in (1,) %}49{% endfor %}" in seen.text, f"{name}: the text is shown as it is"


def test_the_note_of_a_run_is_text_and_no_template() -> None:
    """It is sent to Airflow as a value; nothing of ours renders it."""
    published = mock.Mock(
        revision=1, state="published", doses=DoseAccount(doses=1, published=1, quarantined=0, superseded=0, removed=0)
    )
    published.configure_mock(
        diff={}, cnes="202602", outcome="published", decision=_decision(), news={}, signed_by="", withdrawn_ufs=[]
    )
    note = run_note(published, replace(receipt(DAY), warnings=[]))
    assert f"publicado por decisão de {ALL}: {ALL}" in note


def test_no_field_that_airflow_renders_holds_what_a_person_typed(dag_bag: Any) -> None:
    """Jinja is used for the names of mapped tasks alone, and those are days and windows."""
    rendered = set()
    for dag in dag_bag.dags.values():
        for task in dag.tasks:
            texts = [getattr(task, name, "") or "" for name in task.template_fields]
            rendered |= {text for text in map(str, texts) if "{{" in text or "{%" in text}
            rendered.add(task.map_index_template or "")
    assert rendered <= {
        "",
        "{{ task.op_kwargs['day'] }}",
        "{{ task.op_kwargs['affected']['day'] }}",
        "{{ task.op_kwargs['part']['name'] }}",
        # What `decide` shows: the receipt of `validate`. Airflow renders once, so text in it stays text.
        "{{ task_instance.xcom_pull(task_ids='validate', dag_id='imunizacao_daily', key='return_value') }}",
    }


@pytest.mark.slow
def test_the_data_docs_run_nothing_of_the_texts_of_the_rules(tmp_path: Path) -> None:
    """Rules are files of the operator; Great Expectations writes their notes into its own templates."""
    from imunizacao import paths
    from imunizacao.settings import EngineSettings
    from imunizacao.validate import validate_day
    from tests.expectations.tables import good_row
    from tests.unit.test_validate_stage import FEW, SUITE_FILES, flatten_receipt, run_context

    suites = tmp_path / "suites"
    suites.mkdir()
    for name in SUITE_FILES:
        document = json.loads((paths.EXPECTATIONS / name).read_text(encoding="utf-8"))
        document["expectations"] = [one for one in document["expectations"] if one["meta"]["rule"] in FEW]
        for one in document["expectations"]:
            one["meta"]["note"] = f"{one['meta']['note']} {ALL}"
        (suites / name).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    work = MemoryStore()
    made = flatten_receipt(work, tmp_path, [good_row(n) for n in range(50)])
    validate_day(
        run_context(), flatten=made, work=work, engine=EngineSettings(scratch_dir=tmp_path), expectations=suites
    )
    pages = {key: body.decode() for key, body in work.objects.items() if key.endswith(".html")}
    assert any("{{ 7 * 7 }}" in page for page in pages.values())
    with chromium() as browser:
        for key, page in pages.items():
            ran = [one for one in browser.open(page).ran if "/static/" not in one]
            assert ran == [], key

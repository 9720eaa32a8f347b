"""The index of the Data Docs: derived, safe when days meet, and made anew from what is in the buckets."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from imunizacao.decision import Decision
from imunizacao.docs_index import INDEX_KEY, note_verdict, rebuild_index, update_index
from imunizacao.docs_index.page import rows_of
from imunizacao.errors import ContractViolation
from imunizacao.manifests import Current, Head, encode, head_key
from imunizacao.models import ObjectRef, RuleResult, ValidateReceipt
from imunizacao.storage import ObjectStore
from imunizacao.validate.pages import foreign_loads

pytestmark = pytest.mark.servers
NOTHING = ObjectRef(key="k", sha256="0", bytes=0)


def rule(name: str, **facts: Any) -> RuleResult:
    usual = {"severity": "critical", "scope": "day", "on_fail": "gate", "success": False, "evaluated": True}
    return RuleResult(
        **{"rule": name, "checked": 1, "failed": 1, "note": f"nota {name}", "observed": 4.5} | usual | facts
    )


def receipt(day: str, *rules: RuleResult, **facts: Any) -> ValidateReceipt:
    """What `validate` says of a day with 50 of 1.000 doses in quarantine."""
    usual: dict[str, Any] = {
        "publish": not any(one.holds for one in rules),
        "held_because": [one.rule for one in rules if one.holds],
        "asks": [one.rule for one in rules if one.asks],
        "warnings": [one.rule for one in rules if one.severity == "warning"],
    }
    return ValidateReceipt(
        **{
            "stage": "validate", "day": day, "run_id": "r1", "code_version": "c", "fingerprint": "f", "rules": list(rules),
            "suite_sha256": "s", "quarantine": NOTHING, "bad_keys": NOTHING, "checked": 980, "quarantined_by_rules": 30,
            "quarantined": 50, "quarantined_by_reason": {}, "quarantined_by_uf": {}, "docs_key": "k",
        } | usual | facts
    )  # fmt: skip


def decision(choice: Any, reason: str = "conferido com o estado") -> Decision:
    return Decision(choice=choice, reason=reason, rules=["IMU-190"], verdict="f", decided_by="ana", decided_at="x")


def put_head(public: ObjectStore, day: str, state: str, rows: int) -> None:
    current = Current(
        content_id="a" * 64, path="p", sha256="b" * 64, bytes=1, rows=rows, published_at="x", data_through="x"
    )
    head = Head(
        schema="imunizacao.head/1",
        day=day,
        revision=3,
        state=state,
        current=None if state == "withdrawn" else current,
        history=[],
    )
    public.put(head_key(day), encode(head))


def page(work: ObjectStore) -> str:
    return work.get(INDEX_KEY).body.decode()


def test_the_page_tells_the_state_of_every_day_newest_first(work: ObjectStore, public: ObjectStore) -> None:
    asking = rule("IMU-190", on_fail="ask")
    note_verdict(work, public, receipt("2026-03-10"))
    note_verdict(work, public, receipt("2026-03-11", rule("IMU-103", severity="warning", note="nota <b>")))
    note_verdict(work, public, receipt("2026-03-12", asking))
    note_verdict(work, public, receipt("2026-03-13", asking), decision("publish"))
    note_verdict(work, public, receipt("2026-03-14", asking), decision("hold", "</script><script>alert(1)"))
    note_verdict(work, public, receipt("2026-02-28", rule("IMU-191"), asking))
    put_head(public, "2026-03-10", "published", 950)
    put_head(public, "2026-03-13", "withdrawn", 0)
    for day in ("2026-03-10", "2026-03-13"):
        update_index(work, public, day)
    text = page(work)
    order = [text.index(f"day={day}/index.html") for day in ("2026-03-14", "2026-03-13", "2026-03-12", "2026-03-11", "2026-03-10", "2026-02-28")]  # fmt: skip
    assert order == sorted(order)
    lines = {line.split("day=")[1][:10]: line for line in text.splitlines() if "day=" in line}
    assert {day: line.split("class='state ")[1].split("'")[0] for day, line in lines.items()} == {
        "2026-03-10": "passed", "2026-03-11": "passed", "2026-03-12": "asked", "2026-03-13": "released",
        "2026-03-14": "refused", "2026-02-28": "held",
    }  # fmt: skip
    assert "publicado, revisão 3<br><span class='quiet'>950 doses" in lines["2026-03-10"]
    assert "retirado, revisão 3" in lines["2026-03-13"]
    assert "pendente" in lines["2026-03-12"]
    assert "1.000</td><td class='n'>50<br><span class='quiet'>5,00 %" in lines["2026-03-12"]
    assert "alerta</span> IMU-103 nota &lt;b&gt;: 4,5" in lines["2026-03-11"]
    assert "Motivo: &lt;/script&gt;" in lines["2026-03-14"]
    assert "<b>1</b> aguardam decisão · <b>2</b> retidos · <b>1</b> com alertas" in text
    assert text.count("<script") == 1
    assert "ana" not in [word for line in lines.values() for word in line.split()], "who decided is not shown"
    assert foreign_loads(text) == set()
    info = work.info(INDEX_KEY)
    assert info is not None
    assert info.content_type == "text/html; charset=utf-8"


def test_days_that_finish_at_once_all_stand_in_it(work: ObjectStore, public: ObjectStore) -> None:
    days = [f"2026-03-{number:02d}" for number in range(1, 9)]
    with ThreadPoolExecutor(len(days)) as pool:
        list(pool.map(lambda day: note_verdict(work, public, receipt(day)), days))
    rows = rows_of(work.get(INDEX_KEY).body)
    assert rows is not None
    assert sorted(rows) == days


def test_a_lost_or_damaged_index_is_made_anew_with_the_same_bytes(work: ObjectStore, public: ObjectStore) -> None:
    note_verdict(work, public, receipt("2026-03-01", rule("IMU-190", on_fail="ask")))
    note_verdict(work, public, receipt("2026-03-02"))
    put_head(public, "2026-03-01", "published", 950)
    update_index(work, public, "2026-03-01")
    good = work.get(INDEX_KEY).body
    work.delete(INDEX_KEY)
    assert rebuild_index(work, public) == 2
    assert work.get(INDEX_KEY).body == good
    for damaged in (b"<p>nothing</p>", good.replace(b'"rules"', b'"rulez"')):
        work.put(INDEX_KEY, damaged)
        update_index(work, public, "2026-03-02")
        assert work.get(INDEX_KEY).body == good


def test_a_newer_verdict_replaces_the_one_before(work: ObjectStore, public: ObjectStore) -> None:
    held = receipt("2026-03-01", rule("IMU-191"))
    note_verdict(work, public, held)
    assert "class='state held'" in page(work)
    note_verdict(work, public, replace(receipt("2026-03-01"), run_id="r2"))
    assert "class='state held'" not in page(work)
    assert "class='state passed'" in page(work)


def test_a_verdict_that_cannot_be_read_is_named(work: ObjectStore, public: ObjectStore) -> None:
    work.put("v1/docs/day=2026-03-01/summary.json", b"{}")
    with pytest.raises(ContractViolation, match=r"v1/docs/day=2026-03-01/summary\.json cannot be read.*delete it"):
        rebuild_index(work, public)

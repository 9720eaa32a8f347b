"""A day that asks, without Airflow: held until somebody says on the command line why it is to go out."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imunizacao import cli
from imunizacao.settings import Settings
from imunizacao.storage import ObjectStore
from tests.integration.conftest import DAY

pytestmark = pytest.mark.servers
REASON = "Atraso de um sistema, conferido"


@pytest.fixture
def run_day(settings: Settings, expectations: Path, tmp_path: Path) -> Callable[..., int]:
    """`run-day` under rules that ask about every day with a quarantine."""
    folder = tmp_path / "regras"
    shutil.copytree(expectations, folder)
    suite = json.loads((folder / "dia.json").read_text(encoding="utf-8"))
    (asking,) = (one for one in suite["expectations"] if one["meta"]["rule"] == "IMU-190")
    asking["kwargs"]["max_value"] = 0
    (folder / "dia.json").write_text(json.dumps(suite), encoding="utf-8")
    env = {
        "IMUNIZACAO_MIRROR_URL": settings.mirror.base_url,
        "IMUNIZACAO_S3_ENDPOINT": settings.storage.endpoint_url,
        "IMUNIZACAO_S3_ACCESS_KEY": settings.storage.access_key,
        "IMUNIZACAO_S3_SECRET_KEY": settings.storage.secret_key,
        "IMUNIZACAO_WORK_BUCKET": settings.storage.work_bucket,
        "IMUNIZACAO_PUBLIC_BUCKET": settings.storage.public_bucket,
        "IMUNIZACAO_PSEUDONYM_KEY": "a key for tests only, thirty-two characters",
        "IMUNIZACAO_SCRATCH_DIR": str(tmp_path),
        "IMUNIZACAO_EXPECTATIONS": str(folder),
    }

    def run(*options: str) -> int:
        return cli.main(["--plain", "run-day", str(DAY), "--run-id", "asks", *options], env=env, out=io.StringIO())

    return run


def test_a_day_that_asks_goes_out_only_with_a_reason_and_keeps_it(
    run_day: Callable[..., int], work: ObjectStore, public: ObjectStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_day() == 7
    message = capsys.readouterr().err
    for part in (
        f"DayHeld: {DAY} needs the decision of a person",
        "IMU-190 failed at",
        '--decide-publish "why"',
        "day-asks.md",
    ):
        assert part in message
    assert list(public.list("v1/days/")) == []
    outcome = json.loads(work.get(f"v1/day={DAY}/run=asks/outcomes/decide-1.json").body)
    assert (outcome["state"], outcome["error_code"], outcome["counts"]) == ("held", "DayHeld", {"asks": 1})

    assert run_day("--decide-publish", "CPF 123.456.789-09") == 2
    assert "123.456" not in capsys.readouterr().err
    assert list(public.list("v1/days/")) == []

    assert run_day("--decide-publish", REASON) == 0
    (entry,) = json.loads(public.get(f"v1/days/{DAY}/head.json").body)["history"]
    assert entry["decision"] == {"choice": "publish", "reason": REASON, "rules": ["IMU-190"]}
    outcome = json.loads(work.get(f"v1/day={DAY}/run=asks/outcomes/decide-1.json").body)
    assert outcome["state"] == "done"
    assert REASON in outcome["message"]
    summary = json.loads(work.get(f"v1/docs/day={DAY}/summary.json").body)
    assert (summary["state"], summary["reason"]) == ("released", REASON)

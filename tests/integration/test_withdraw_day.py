"""The commands `withdraw`, `restore` and `housekeeping`, over a small day and over one that went through all stages."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from imunizacao.cli import main
from imunizacao.settings import StorageSettings
from imunizacao.storage import ObjectStore
from imunizacao_local.mirror import MirrorServer
from tests.integration.conftest import DAY
from tests.support.control import broken_promises
from tests.support.reader import read_day
from tests.support.small_day import SmallDay, dose

pytestmark = pytest.mark.servers
REASON = "Municípios trocados pelo remetente."


def environment(storage: StorageSettings, folder: Path, mirror: str = "http://127.0.0.1:9/fhir") -> dict[str, str]:
    """Settings of the commands."""
    return {
        "IMUNIZACAO_MIRROR_URL": mirror,
        "IMUNIZACAO_S3_ENDPOINT": storage.endpoint_url,
        "IMUNIZACAO_S3_ACCESS_KEY": storage.access_key,
        "IMUNIZACAO_S3_SECRET_KEY": storage.secret_key,
        "IMUNIZACAO_WORK_BUCKET": storage.work_bucket,
        "IMUNIZACAO_PUBLIC_BUCKET": storage.public_bucket,
        "IMUNIZACAO_PSEUDONYM_KEY": "a key for tests only, thirty-two characters",
        "IMUNIZACAO_SCRATCH_DIR": str(folder),
    }


def run(env: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Exit code and output of a command."""
    out = io.StringIO()
    return main(["--plain", *arguments], env=env, out=out), out.getvalue()


def head_of(public: ObjectStore, day: str) -> dict[str, Any]:
    """The head as a reader has it."""
    head: dict[str, Any] = json.loads(public.get(f"v1/days/{day}/head.json").body)
    return head


def test_the_commands_show_what_they_would_do_and_do_it_when_they_are_told_to(
    s3_settings: StorageSettings,
    work: ObjectStore,
    public: ObjectStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = SmallDay(str(DAY), work, public, tmp_path)
    small.revise([dose("a-i0b0", "350010", residence="530010"), dose("b-i0b0", "530010")])
    env, day = environment(s3_settings, tmp_path), str(DAY)
    code, text = run(env, "withdraw", day, "--uf", "SP", "--reason", REASON)
    assert code == 0
    assert text.splitlines() == [
        f"{day}  readers see  rev 1, publicado, 2 doses",
        "            they would see  rev 2, publicado, 1 dose, sem 35",
        f"            reason, public: {REASON}",
        "            doses given there to residents of other UFs stay in the files of residents of those UFs: if they must go too, "
        "withdraw the day",
        "            files stay 30 days and can be restored; then housekeeping removes them (docs/runbook/withdraw.md)",
        "Nothing was changed. Add --yes to do it.",
    ]
    assert head_of(public, day)["revision"] == 1
    assert run(env, "withdraw", day, "--uf", "SP", "--reason", REASON, "--yes")[0] == 0
    assert list(head_of(public, day)["withdrawnUfs"]) == ["35"]
    assert "it is so already" in run(env, "withdraw", day, "--uf", "35", "--reason", REASON, "--yes")[1]
    assert run(env, "restore", day, "--uf", "35", "--reason", REASON, "--yes")[0] == 0
    assert head_of(public, day)["revision"] == 3
    assert run(env, "restore", day, "--reason", REASON, "--remake")[0] == 2
    assert "has no landing" in capsys.readouterr().err
    assert run(env, "withdraw", day, "--reason", "CPF 123.456.789-01 de alguém", "--yes")[0] == 2

    before = {info.key for store in (work, public) for info in store.list("") if not info.key.endswith("clock.json")}
    code, text = run(env, "housekeeping")
    assert (code, text.splitlines()[-1]) == (0, "Nothing was removed. Add --delete to do it.")
    after = {info.key for store in (work, public) for info in store.list("") if not info.key.endswith("clock.json")}
    assert before == after


@pytest.mark.slow
def test_a_day_comes_back_from_its_landing_after_its_files_were_removed(
    s3_settings: StorageSettings,
    mirror: MirrorServer,
    work: ObjectStore,
    public: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env, day = environment(s3_settings, tmp_path, mirror.base_url), str(DAY)
    assert run(env, "run-day", day)[0] == 0
    before = read_day(lambda key: public.get(key).body, day)
    assert run(env, "withdraw", day, "--reason", REASON, "--yes")[0] == 0
    later = datetime.now(UTC) + timedelta(days=31)
    monkeypatch.setattr("imunizacao.housekeeping.run.store_clock", lambda work: later)
    code, text = run(env, "housekeeping", "--delete")
    assert code == 0
    assert "objects of no known form" not in text, text
    assert not list(public.list(f"v1/days/{day}/c-"))
    assert run(env, "restore", day, "--reason", REASON, "--yes")[0] == 2
    assert (
        run(
            env | {"IMUNIZACAO_MIRROR_URL": "http://127.0.0.1:9/fhir"},
            "restore",
            day,
            "--reason",
            REASON,
            "--remake",
            "--yes",
        )[0]
        == 0
    )
    after = read_day(lambda key: public.get(key).body, day)
    assert after.files == before.files
    assert after.head["history"][-1]["reason"] == "restore"
    assert broken_promises(public, [day]) == []

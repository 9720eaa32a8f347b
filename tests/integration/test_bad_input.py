"""What goes wrong before or during a day, as the person at the command line sees it: one message, its exit code, the next step."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imunizacao.settings import StorageSettings
from imunizacao.storage import ObjectStore
from imunizacao_local.mirror import MirrorServer, MirrorSettings
from imunizacao_local.ports import free_ports
from tests.integration.conftest import ROOT

pytestmark = pytest.mark.servers
DAY = "2026-03-14"
PSEUDONYM_KEY = "a key for tests only, thirty-two characters"
_MESSAGE = re.compile(r"^(\w+): ", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """Standard error without the event lines."""
        return "\n".join(line for line in self.err.splitlines() if not line.startswith("event="))

    def require(self, *, code: int, error: str, says: str, next_step: str) -> None:
        """One message of the expected class, which says what happened and what to do; no traceback, no secret."""
        shown = f"exit code {self.code}\n{self.err}"
        assert "Traceback" not in self.err, shown
        assert self.code == code, shown
        assert self.out == "", shown
        assert self.message.startswith(f"{error}: "), shown
        assert len(_MESSAGE.findall(self.message)) == 1, shown
        assert re.search(says, self.message), shown
        assert re.search(next_step, self.message), shown
        assert PSEUDONYM_KEY not in self.err


RunDay = Callable[..., Ended]


@pytest.fixture(scope="module")
def mirror() -> Iterator[MirrorServer]:
    """The simulator with 300 documents a day."""
    with tempfile.TemporaryDirectory(prefix="imunizacao-mirror-") as folder:
        settings = MirrorSettings(seed=7, docs_per_day=300, auth="none")
        with MirrorServer(state_dir=Path(folder), root=ROOT, port=free_ports(1)[0], settings=settings) as server:
            yield server


@pytest.fixture
def run_day(
    s3_settings: StorageSettings, public: ObjectStore, mirror: MirrorServer, tmp_path: Path
) -> Iterator[RunDay]:
    """Runs `run-day` with good settings except for those given (None = not set); afterwards nothing may be public."""

    def run(day: str = DAY, **changes: str | None) -> Ended:
        env = {name: value for name, value in os.environ.items() if not name.startswith("IMUNIZACAO_")}
        env |= {
            "PYTHONPATH": str(ROOT / "include"),
            "IMUNIZACAO_MIRROR_URL": mirror.base_url,
            "IMUNIZACAO_MIRROR_RETRY_BUDGET": "1",
            "IMUNIZACAO_S3_ENDPOINT": s3_settings.endpoint_url,
            "IMUNIZACAO_S3_ACCESS_KEY": s3_settings.access_key,
            "IMUNIZACAO_S3_SECRET_KEY": s3_settings.secret_key,
            "IMUNIZACAO_WORK_BUCKET": s3_settings.work_bucket,
            "IMUNIZACAO_PUBLIC_BUCKET": s3_settings.public_bucket,
            "IMUNIZACAO_PSEUDONYM_KEY": PSEUDONYM_KEY,
            "IMUNIZACAO_SCRATCH_DIR": str(tmp_path),
        }
        for name, value in changes.items():
            env.pop(f"IMUNIZACAO_{name}", None)
            if value is not None:
                env[f"IMUNIZACAO_{name}"] = value
        command = [sys.executable, "-m", "imunizacao", "--plain", "run-day", day, "--run-id", "bad-input"]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert s3_settings.secret_key not in done.stderr
        return Ended(code=done.returncode, out=done.stdout, err=done.stderr)

    yield run
    assert [info.key for info in public.list("v1/")] == [], "something became public"


def _closed_port() -> str:
    return f"http://127.0.0.1:{free_ports(1)[0]}"


def test_missing_settings_are_all_named_at_once(run_day: RunDay) -> None:
    ended = run_day(MIRROR_URL=None, S3_SECRET_KEY=None, PSEUDONYM_KEY="")
    ended.require(code=2, error="ConfigurationError", says="Missing setting", next_step="Set them in the environment")
    for name in ("IMUNIZACAO_MIRROR_URL", "IMUNIZACAO_S3_SECRET_KEY", "IMUNIZACAO_PSEUDONYM_KEY"):
        assert name in ended.message


def test_a_mistyped_setting_is_refused_and_not_ignored(run_day: RunDay) -> None:
    ended = run_day(MIRROR_PAGESIZE="100")
    ended.require(
        code=2, error="ConfigurationError", says="IMUNIZACAO_MIRROR_PAGESIZE", next_step=r"python -m imunizacao --help"
    )


@pytest.mark.parametrize("day", ["14/03/2026", "2026-02-30", "20260314", "yesterday"])
def test_a_day_that_is_no_date_is_refused(run_day: RunDay, day: str) -> None:
    ended = run_day(day)
    ended.require(code=2, error="ConfigurationError", says=re.escape(repr(day)), next_step="Expected YYYY-MM-DD")


def test_a_day_that_is_not_over_is_refused(run_day: RunDay) -> None:
    day = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    ended = run_day(day)
    ended.require(code=2, error="ConfigurationError", says=f"{day} is not over yet", next_step="Choose an earlier day")


def test_a_mirror_that_nobody_answers_for_is_unavailable(run_day: RunDay) -> None:
    address = _closed_port()
    ended = run_day(MIRROR_URL=f"{address}/fhir/r4")
    ended.require(
        code=3, error="MirrorUnavailable", says=re.escape(address.removeprefix("http://")), next_step=r"(?i)\bagain\b"
    )


class _OtherSite(BaseHTTPRequestHandler):
    """A proxy or a maintenance page in the place of the mirror: status 200, no FHIR."""

    def do_GET(self) -> None:
        body = b"<!doctype html><html><title>Em manuten\xc3\xa7\xc3\xa3o</title><p>Volte mais tarde.</p></html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on the test's standard error."""


@pytest.fixture
def other_site() -> Iterator[str]:
    """Address of a web server that answers HTML to everything."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _OtherSite) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_html_with_status_200_is_not_a_mirror(run_day: RunDay, other_site: str) -> None:
    # Three tries must fit into the budget: a mirror that is silent until it is spent is unavailable instead.
    ended = run_day(MIRROR_URL=f"{other_site}/fhir/r4", MIRROR_RETRY_BUDGET="60")
    ended.require(code=4, error="MirrorUnreadable", says="3 times with something that is no", next_step="docs/runbook/")
    assert "Volte mais tarde" not in ended.err, "a body reached the log"


def test_a_wrong_s3_secret_is_a_setting_to_mend(run_day: RunDay) -> None:
    wrong = "not-the-secret-of-this-server"
    ended = run_day(S3_SECRET_KEY=wrong)
    ended.require(code=2, error="ConfigurationError", says="refuses", next_step="Check access key, secret key")
    assert wrong not in ended.err


@pytest.mark.parametrize("name", ["WORK_BUCKET", "PUBLIC_BUCKET"])
def test_a_missing_bucket_is_named_with_the_setting_that_names_it(run_day: RunDay, name: str) -> None:
    ended = run_day(**{name: "nobody-made-this-one"})
    ended.require(
        code=2,
        error="ConfigurationError",
        says="Bucket nobody-made-this-one does not exist",
        next_step=f"Create it, or set the right name.*IMUNIZACAO_{name}",
    )


def test_a_store_that_nobody_answers_for_is_unavailable(run_day: RunDay) -> None:
    ended = run_day(S3_ENDPOINT=_closed_port())
    ended.require(
        code=5, error="StorageUnavailable", says="Cannot inspect bucket", next_step="Check that the S3 service"
    )


def test_a_database_that_nobody_answers_for_is_unavailable(run_day: RunDay) -> None:
    ended = run_day(CONTROLE_DSN=f"postgresql://someone:hidden-word@127.0.0.1:{free_ports(1)[0]}/controle")
    ended.require(
        code=5, error="StorageUnavailable", says="(?i)controle|database|PostgreSQL", next_step="(?i)check|again"
    )
    assert "hidden-word" not in ended.err


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 2 MB of its own; needs the right to mount one."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system; run this test as root in a container")
    with tempfile.TemporaryDirectory(prefix="imunizacao-disk-") as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "imunizacao-test", folder]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this machine lets no file system be mounted: {done.stderr.strip()}")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def _fill(disk: Path, *, free: int) -> None:
    """Leave `free` bytes of a disk, rounded to its blocks."""
    with contextlib.suppress(OSError), (disk / "of-somebody-else").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))  # the write that no longer fits ends the loop
    status = os.statvfs(disk)
    assert status.f_bavail == 0
    taken = (disk / "of-somebody-else").stat().st_size
    os.truncate(disk / "of-somebody-else", taken - free)


# Enough for nothing, for the landing, for the references, for the doses; never for the whole day.
@pytest.mark.parametrize(
    "free", [0, 900 << 10, *(pytest.param(size, marks=pytest.mark.slow) for size in (192 << 10, 1500 << 10))]
)
def test_a_full_scratch_disk_is_told_and_its_folder_is_left_clean(run_day: RunDay, small_disk: Path, free: int) -> None:
    _fill(small_disk, free=free)
    ended = run_day(SCRATCH_DIR=str(small_disk))
    ended.require(code=5, error="StorageUnavailable", says="(?i)disk|space|local file", next_step="(?i)free .*again")
    assert [path.name for path in small_disk.iterdir()] == ["of-somebody-else"]

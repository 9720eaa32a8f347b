"""What is as the contract says gives no finding."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imunizacao.cli import _parser
from imunizacao.errors import ConfigurationError, ContractViolation, StorageUnavailable
from imunizacao.storage import open_public_store, open_work_store
from imunizacao.verify import FolderReader, Report, Selection, open_reader, render_text, verify_bucket
from imunizacao.verify.command import main
from imunizacao_local.seaweed import SeaweedServer
from tests.support.buckets import fresh_buckets
from tests.support.control import MemoryDay
from tests.support.small_day import CONTRACT, SmallDay
from tests.support.tree import Tree, head
from tests.support.withdrawals import purge, withdraw_day, withdraw_ufs
from tests.verify.conftest import DAY, EMPTY, PENDING, PLAIN, Published, doses, let_anybody_read

pytestmark = pytest.mark.servers
SP = f"uf=35/imunizacao-total-sp_{DAY}.csv"
ROOT = Path(__file__).resolve().parents[2]


def _require_clean(report: Report) -> Report:
    assert report.exit_code == 0, render_text(report)
    return report


@pytest.mark.parametrize("thorough", [False, True])
def test_published_days_with_revisions_and_diffs_an_empty_and_a_pending_day_are_clean(
    tree: Tree, *, thorough: bool
) -> None:
    report = _require_clean(verify_bucket(tree, thorough=thorough))
    old = tree.json(head(DAY))["history"][0]["path"].rpartition("/")[0] + "/" + SP
    assert (old in tree.read) == thorough
    states = {day.day: (day.state, day.revision, day.rows, day.ufs) for day in report.days}
    assert states == {
        DAY: ("published", 3, 6, 27),
        EMPTY: ("empty", 1, 0, 27),
        PENDING: ("pending", 0, 0, 0),
        PLAIN: ("published", 1, 3, 27),
    }
    text = render_text(report)
    assert "not published yet" in text
    assert "3 day(s) read, 9 rows" in text


def test_every_object_that_a_head_names_is_read(tree: Tree) -> None:
    verify_bucket(tree)
    old = {
        key
        for key in tree.files
        if "/c-" in key and not key.startswith((tree.folder(DAY), tree.folder(EMPTY), tree.folder(PLAIN)))
    }
    assert set(tree.files) - set(tree.read) - old == set()
    assert {key for key in old if key.endswith("/day.json")} <= set(tree.read)


def test_one_day_one_month_one_uf(tree: Tree) -> None:
    day = _require_clean(verify_bucket(tree, selection=Selection(day=DAY)))
    assert [one.day for one in day.days] == [DAY]
    month = _require_clean(verify_bucket(tree, selection=Selection(month="2026-03")))
    assert [one.day for one in month.days] == [DAY, EMPTY, PENDING, PLAIN]
    tree.read.clear()
    one = _require_clean(verify_bucket(tree, selection=Selection(day=DAY), ufs=["53"])).days[0]
    assert (one.rows, one.ufs) == (1, 1)
    assert any("only some UFs" in note for note in one.notes)
    assert not [
        key for key in tree.read if key.endswith(".csv") and "uf=53/" not in key and not key.endswith("removed.csv")
    ]
    assert _require_clean(verify_bucket(tree, selection=Selection(day=PENDING))).days[0].state == "pending"
    assert verify_bucket(tree, selection=Selection(month="2025-01")).days == []


def test_a_withdrawn_day_and_its_purged_content_are_clean(tree: Tree) -> None:
    withdraw_day(tree, DAY)
    report = _require_clean(verify_bucket(tree))
    assert (report.days[0].state, report.days[0].revision, report.days[0].rows) == ("withdrawn", 4, 0)
    purge(tree, DAY)
    _require_clean(verify_bucket(tree))
    _require_clean(verify_bucket(tree, thorough=True))


def test_withdrawn_ufs_are_not_read_and_clean_before_and_after_their_purge(tree: Tree) -> None:
    withdraw_ufs(tree, DAY, ["53"])
    report = _require_clean(verify_bucket(tree))
    assert (report.days[0].withdrawn_ufs, report.days[0].ufs, report.days[0].rows) == (["53"], 26, 5)
    assert not [key for key in tree.read if key.startswith(tree.folder(DAY) + "uf=53/") and key.endswith(".csv")]
    assert "without UF 53" in render_text(report)
    purge(tree, DAY, ["53"])
    _require_clean(verify_bucket(tree))
    _require_clean(verify_bucket(tree, thorough=True))
    withdraw_day(tree, DAY)
    assert _require_clean(verify_bucket(tree)).days[0].state == "withdrawn"


def test_differences_over_new_columns_and_moves_between_ufs_are_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imunizacao.publish.probe_store", lambda store: None)
    day = MemoryDay(DAY, tmp_path)
    older = replace(CONTRACT, version="1.0.0", columns=CONTRACT.columns[:-1])
    with monkeypatch.context() as patch:
        patch.setattr("imunizacao.publish.load_contract", lambda name: older)
        day.revise(doses(DAY, 1), names=older.names)
    before = day.head()["current"]["path"].rpartition("/")[0]
    day.revise(doses(DAY, 2))
    day.change("withdraw", "12")
    day.revise(doses(DAY, 3))
    day.change("restore", "12")
    tree = Tree({key: stored.body for key, stored in day.own_public.objects.items()})
    _require_clean(verify_bucket(tree, thorough=True))
    assert f"{before}/{SP}" in tree.read


def test_a_folder_is_read_like_a_bucket(tree: Tree, tmp_path: Path) -> None:
    for key, body in tree.files.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(body)
    for address in (f"file://{tmp_path}", str(tmp_path), f"{tmp_path}/v1/catalog.json"):
        assert isinstance(open_reader(address, {}), FolderReader)
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['imunizacao', 'verify', 'file://{tmp_path}', '--json']\n"
        "import atexit, os\n"
        "real = os._exit\n"
        "def leave(code):\n"
        "    heavy = sorted({name.partition('.')[0] for name in sys.modules} & set('boto3 duckdb httpx msgspec pyarrow yaml'.split()))\n"
        "    print(heavy, file=sys.stderr, flush=True)\n"
        "    real(code)\n"
        "os._exit = leave\n"
        "runpy.run_module('imunizacao', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(ROOT / "include")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["schema"] == "imunizacao.verify/1"
    assert [day["state"] for day in document["days"]] == ["published", "empty", "pending", "published"]


def test_the_real_server_is_read_with_keys_that_may_only_read_and_openly(
    s3_server: SeaweedServer, published: Published
) -> None:
    let_anybody_read(s3_server, published.bucket, allowed=False)
    keys = s3_server.portal_credentials
    env = {
        "IMUNIZACAO_S3_ENDPOINT": s3_server.endpoint,
        "IMUNIZACAO_S3_ACCESS_KEY": keys.access_key,
        "IMUNIZACAO_S3_SECRET_KEY": keys.secret_key,
    }
    out = io.StringIO()
    code = main([f"s3://{published.bucket}"], env=env, out=out, errors=sys.stderr)
    assert (code, "0 finding(s)" in out.getvalue()) == (0, True), out.getvalue()
    address = f"{s3_server.endpoint}/{published.bucket}"
    with closing(open_reader(address, {})) as reader, pytest.raises(StorageUnavailable, match="403"):
        verify_bucket(reader)
    let_anybody_read(s3_server, published.bucket)
    with closing(open_reader(address, {})) as reader:
        _require_clean(verify_bucket(reader, selection=Selection(day=DAY)))


def test_caches_may_keep_what_never_changes_for_ever_and_the_rest_for_ten_seconds(
    s3_server: SeaweedServer, published: Published, tree: Tree
) -> None:
    client = s3_server.client(s3_server.portal_credentials)
    said = {key: client.head_object(Bucket=published.bucket, Key=key)["CacheControl"] for key in tree.files}
    moves = {
        key
        for key in said
        if key.endswith(("/head.json", "/index.json", "/catalog.json", "/bulk-publish.json", "/catalog.jsonld"))
    }
    assert {said[key] for key in moves} == {"max-age=10"}
    assert {said[key] for key in said.keys() - moves} == {"max-age=31536000, immutable"}


@pytest.mark.slow
def test_a_day_of_many_rows_is_read_in_little_memory(tree: Tree, tmp_path: Path) -> None:
    """A UF file of 400,000 rows (360 MB); the whole process stays below 150 MB."""
    name = f"imunizacao-total-sp_{PLAIN}.csv"
    folder = tree.folder(PLAIN) + "uf=35/"
    header, row = tree.files[folder + name].split(b"\n")[:2]
    for key in (folder + name, f"{folder}mun=355030/imunizacao-355030_{PLAIN}.csv"):
        rows = (row.replace(b"b2-i0b0", b"b%06d-i0b0" % number) for number in range(400_000))
        tree.files[key] = b"\n".join([header, *rows]) + b"\n"
    tree.seal(PLAIN, "counts")
    filled = {
        column: 400_001 for column, count in tree.json(tree.folder(PLAIN) + "day.json")["completeness"].items() if count
    }

    def complete(day: dict[str, Any]) -> None:
        day["completeness"] |= filled
        day["residence"] = {"known": 0, "unknown": 400_001}

    tree.edit(tree.folder(PLAIN) + "day.json", complete)
    tree.edit(
        tree.folder(PLAIN) + "outcome.json", lambda node: node["account"].update(doses=400_001, published=400_001)
    )
    tree.edit(head(PLAIN), lambda node: node["history"][0]["account"].update(doses=400_001, published=400_001))
    tree.seal_above(PLAIN)
    for key, body in tree.files.items():
        (tmp_path / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / key).write_bytes(body)
    script = (
        "import pathlib, re, sys\n"
        "from imunizacao.verify.command import main\n"
        f"code = main(['file://{tmp_path}', '--day', '{PLAIN}'], env={{}}, out=sys.stdout, errors=sys.stderr)\n"
        "peak = re.search(r'VmHWM:\\s+([0-9]+)', pathlib.Path('/proc/self/status').read_text())[1]\n"
        "print(code, int(peak) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(ROOT / "include")},
        capture_output=True,
        text=True,
        check=True,
    )
    code, megabytes = map(int, done.stdout.splitlines()[-1].split())
    assert code == 0, done.stdout
    assert megabytes <= 150


@pytest.mark.parametrize("address", ["ftp://x/y", "bucket", "s3://", "http://", "file:///does/not/exist"])
def test_an_address_of_another_form_is_refused_with_the_forms_that_exist(address: str) -> None:
    with pytest.raises(ConfigurationError, match="Expected http"):
        open_reader(address, {})


def test_s3_without_its_settings_names_them() -> None:
    with pytest.raises(ConfigurationError, match="IMUNIZACAO_S3_ENDPOINT, IMUNIZACAO_S3_ACCESS_KEY"):
        open_reader("s3://bucket", {})


@pytest.mark.parametrize(
    ("options", "complaint"),
    [(["--day", "2026-02-30"], "no day"), (["--month", "2026-13"], "no month"), (["--uf", "99"], "no IBGE code")],
)
def test_a_wrong_option_is_told_with_exit_code_2(tmp_path: Path, options: list[str], complaint: str) -> None:
    errors = io.StringIO()
    assert main([f"file://{tmp_path}", *options], env=os.environ, out=io.StringIO(), errors=errors) == 2
    assert complaint in errors.getvalue()


def test_an_address_without_a_catalog_is_unreachable(tmp_path: Path) -> None:
    errors = io.StringIO()
    assert main([f"file://{tmp_path}"], env={}, out=io.StringIO(), errors=errors) == 5
    assert "v1/catalog.json" in errors.getvalue()


def test_the_command_is_one_of_the_whole_command_line() -> None:
    options = _parser().parse_args(["verify", "file:///copy", "--day", DAY])
    assert (options.address, options.day) == ("file:///copy", DAY)


def test_days_that_reconcile_took_back_and_content_that_came_back_are_clean(
    s3_server: SeaweedServer, tmp_path: Path
) -> None:
    with fresh_buckets(s3_server) as settings:
        public = open_public_store(settings)
        day = SmallDay(DAY, open_work_store(settings), public, tmp_path)
        for revision in (1, 2, 1):
            day.revise(doses(DAY, revision))
        context, inputs = day.inputs(doses(DAY, 3))
        damaged = day.publish(context, inputs)
        key = f"{damaged.root_path.rpartition('/')[0]}/{SP}"
        public.delete(key)
        public.put(key, b"damaged")
        with pytest.raises(ContractViolation, match="went back"):
            day.reconcile(context, damaged)
        alone = SmallDay(PLAIN, open_work_store(settings), public, tmp_path)
        context, inputs = alone.inputs(doses(PLAIN, 1))
        damaged = alone.publish(context, inputs)
        public.delete(f"{damaged.root_path.rpartition('/')[0]}/removed.csv")
        with pytest.raises(ContractViolation, match="withdrawn"):
            alone.reconcile(context, damaged)
        tree = Tree({info.key: public.get(info.key).body for info in public.list("v1/")})
    for one in (DAY, PLAIN):
        # Whether the way back brings index and catalog along is not the question here.
        tree.index(one)
    report = _require_clean(verify_bucket(tree))
    assert [(one.state, one.revision) for one in report.days if one.state != "pending"] == [
        ("published", 5),
        ("withdrawn", 2),
    ]


class _Moving(Tree):
    """A bucket to which revision 3 comes after the head of revision 2 has been read; the folder of 2 is gone then."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(files)
        self.last = self.files[head(DAY)]
        document = self.json(head(DAY))
        self.gone = document["history"][1]["path"].rpartition("/")[0] + "/uf=35/"
        document["history"].pop()
        document["revision"] = 2
        entry = document["history"][-1]
        document["current"] |= {
            name: entry[name] for name in ("contentId", "path", "sha256", "bytes", "publishedAt", "dataThrough")
        }
        document["current"]["rows"] = entry["account"]["published"]
        self.files[head(DAY)] = json.dumps(document).encode()

    def stream(self, key: str) -> Any:
        if key.startswith(self.gone):
            self.files[head(DAY)] = self.last
            self.files = {name: body for name, body in self.files.items() if not name.startswith(self.gone)}
        return super().stream(key)


def test_a_head_that_moves_while_it_is_read_is_read_again(tree: Tree) -> None:
    moving = _Moving(tree.files)
    report = _require_clean(verify_bucket(moving, selection=Selection(day=DAY)))
    assert report.days[0].revision == 3


def test_an_index_that_lags_behind_its_heads_gets_a_moment(tree: Tree) -> None:
    month, bulk, dcat = "v1/months/2026-03/index.json", "v1/months/2026-03/bulk-publish.json", "v1/catalog.jsonld"
    good = {key: tree.files[key] for key in (month, bulk, dcat)}
    tree.edit(month, lambda document: document["days"][0].update(revision=2))
    tree.edit(bulk, lambda document: document["extension"]["rnds:days"][DAY].update(revision=2))
    tree.files[dcat] = b"{}"
    tree.moves = True
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            tree.files.update(good)

    _require_clean(verify_bucket(tree, sleep=sleep))
    assert slept == [1.0, 3.0]
    for late in (bulk, dcat):
        tree.edit(late, lambda document: document.pop("@type", None) or document["extension"].pop("rnds:month"))
        slept.clear()
        _require_clean(verify_bucket(tree, sleep=sleep))
        assert slept == [1.0, 3.0], "until they agree"

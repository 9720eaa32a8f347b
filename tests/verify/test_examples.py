"""The reader examples in docs/dados/exemplos, run as people run them against the real S3 server, by plain GETs."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar
from urllib.parse import unquote

import pytest

from imunizacao_local.seaweed import SeaweedServer
from tests.support.tree import Tree, head
from tests.support.withdrawals import purge, withdraw_day, withdraw_ufs
from tests.verify.conftest import DAY, PLAIN, Published, let_anybody_read

pytestmark = pytest.mark.servers
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "dados" / "exemplos"
PERIOD = ("2026-03-13", "2026-03-18")
Run = Callable[..., str]
both = pytest.mark.parametrize("run", ["ler.py", "ler.R"], indirect=True)
both_slowly = pytest.mark.parametrize("run", ["ler.py", pytest.param("ler.R", marks=pytest.mark.slow)], indirect=True)
"""A start of R takes a second: CI sees it follow revisions, `make test-slow` sees the rest."""


def _rscript() -> str:
    program = shutil.which("Rscript")
    if program is None:
        pytest.skip("Rscript is not installed: apt-get install r-base-core r-cran-jsonlite r-cran-digest")
    ready = "quit(status = !(requireNamespace('jsonlite') && requireNamespace('digest')))"
    if subprocess.run([program, "-e", ready], capture_output=True, check=False).returncode:
        pytest.skip("R has no jsonlite or digest: apt-get install r-cran-jsonlite r-cran-digest")
    return program


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs an example; gives what it printed."""
    name: str = request.param
    command = [sys.executable, "-I", str(EXAMPLES / name)] if name == "ler.py" else [_rscript(), str(EXAMPLES / name)]

    def go(address: str, *options: str, folder: str = "copia", code: int = 0) -> str:
        line = [*command, address, "--de", PERIOD[0], "--ate", PERIOD[1], "--pasta", str(tmp_path / folder), *options]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return go


@both
def test_a_copy_follows_revisions_by_their_differences_removals_and_etags(
    s3_server: SeaweedServer, published: Published, tree: Tree, run: Run, tmp_path: Path
) -> None:
    let_anybody_read(s3_server, published.bucket)
    address = f"{s3_server.endpoint}/{published.bucket}"
    sp, df = ["--uf", "35"], ["--operacao", "imunizacao-residentes-df"]

    def copied(name: str, folder: str = "copia") -> bytes:
        return (tmp_path / folder / DAY / f"imunizacao-{name}_{DAY}.csv").read_bytes()

    def present(uf: str, name: str) -> bytes:
        return tree.files[f"{tree.folder(DAY)}uf={uf}/imunizacao-{name}_{DAY}.csv"]

    try:
        published.show(0)
        text = run(address, *sp)
        assert "revisão 1 (initial), 3 doses, baixado" in text
        assert text.count("pendente") == 5
        run(address, *df, folder="residentes")
        assert "0 objetos baixados, 3 sem mudanças" in run(address, *sp)
    finally:
        published.show(-1)

    # Two revisions later: the copy gets there by two differences, without the file of the UF.
    text = run(address, *sp)
    assert "5 doses, revisão 1 mais diferença" in text
    assert copied("total-sp") == present("35", "total-sp")
    assert "mais diferença" in run(address, *df, folder="residentes")
    assert copied("residentes-df", "residentes") == present("53", "residentes-df")

    # What holds: b1 was removed by the source later, b2 has a newer version, the others stay.
    whole = (tmp_path / "copia" / "consolidado.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(";")[0].strip('"') for line in whole[1:]] == [
        "c1-i0b0",
        "b3-i0b0",
        "b4-i0b0",
        "b2-i0b0",
        "d1-i0b0",
    ]

    # A damaged copy is fetched again.
    (tmp_path / "copia" / DAY / f"imunizacao-total-sp_{DAY}.csv").write_bytes(b"damaged")
    assert "baixado" in run(address, *sp)
    assert copied("total-sp") == present("35", "total-sp")


def _write(tree: Tree, folder: Path) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    for key, body in tree.files.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(body)
    return f"file://{folder}"


@both_slowly
def test_what_is_withdrawn_leaves_the_copy_with_its_reason(tree: Tree, run: Run, tmp_path: Path) -> None:
    address = _write(tree, tmp_path / "bucket")
    assert "revisão 3" in run(address, "--uf", "53")
    file = tmp_path / "copia" / DAY / f"imunizacao-total-df_{DAY}.csv"
    assert file.exists()
    withdraw_ufs(tree, DAY, ["53"])
    _write(tree, tmp_path / "bucket")
    assert "retirado: Retirado a pedido" in run(address, "--uf", "53")
    assert not file.exists()
    withdraw_day(tree, PLAIN)
    _write(tree, tmp_path / "bucket")
    assert run(address, "--uf", "53").count("retirado: Retirado a pedido") == 2


@both_slowly
def test_removals_of_a_day_hold_though_one_uf_of_it_is_withdrawn(tree: Tree, run: Run, tmp_path: Path) -> None:
    whole = tmp_path / "copia" / "consolidado.csv"
    address = _write(tree, tmp_path / "bucket")
    run(address, "--uf", "35")
    assert '"b1-i0b0"' not in whole.read_text(encoding="utf-8")
    withdraw_ufs(tree, PLAIN, ["35"])
    _write(tree, tmp_path / "bucket")
    assert "retirado: Retirado a pedido" in run(address, "--uf", "35")
    text = whole.read_text(encoding="utf-8")
    assert '"d1-i0b0"' not in text
    assert '"b3-i0b0"' in text
    assert '"b1-i0b0"' not in text
    withdraw_day(tree, PLAIN)
    _write(tree, tmp_path / "bucket")
    run(address, "--uf", "35")
    assert not (tmp_path / "copia" / PLAIN / "removed.csv").exists()


@both_slowly
@pytest.mark.parametrize("marked", [True, False])
def test_a_difference_that_is_gone_makes_the_whole_day_come(
    tree: Tree, published: Published, run: Run, tmp_path: Path, *, marked: bool
) -> None:
    address = _write(Tree(tree.files | published.stages[0]), tmp_path / "bucket")
    assert "revisão 1 (initial), 3 doses, baixado" in run(address, "--uf", "35")
    withdraw_ufs(tree, DAY, ["12"])
    purge(tree, DAY, ["12"])
    if not marked:  # the head is of a moment before the marks
        tree.edit(
            head(DAY), lambda document: [entry.get("diff", {}).pop("purgedAt", "") for entry in document["history"]]
        )
    _write(tree, tmp_path / "bucket")
    assert "5 doses, baixado" in run(address, "--uf", "35")


class _Flaky(BaseHTTPRequestHandler):
    """Serves a folder; each head is refused for a moment."""

    folder: ClassVar[Path]
    refused: ClassVar[set[str]]

    def do_GET(self) -> None:
        """A file below the first part of the path."""
        key = unquote(self.path).partition("/bucket-404-410/")[2]
        file = self.folder / key
        status = 200 if file.is_file() else 404
        if key.endswith("/head.json") and self.command == "GET" and key not in self.refused:
            self.refused.add(key)
            status = 503
        body = file.read_bytes() if status == 200 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing."""


@both_slowly
def test_a_failure_that_passes_is_not_an_object_that_is_missing(tree: Tree, run: Run, tmp_path: Path) -> None:
    _write(tree, tmp_path / "bucket")
    handler = type("Handler", (_Flaky,), {"folder": tmp_path / "bucket", "refused": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            text = run(f"http://127.0.0.1:{server.server_port}/bucket-404-410", "--uf", "35")
        finally:
            server.shutdown()
    assert "revisão 3" in text
    assert text.count("pendente") == 3


@both_slowly
def test_damage_stops_the_example_and_leaves_no_file(tree: Tree, run: Run, tmp_path: Path) -> None:
    name = f"uf=53/imunizacao-total-df_{DAY}.csv"
    tree.change(tree.folder(DAY) + name, lambda body: body.replace(b"a2", b"x2"))
    address = _write(tree, tmp_path / "bucket")
    text = run(address, "--uf", "53", code=1)
    assert "não confere" in text
    assert name in text
    assert not (tmp_path / "copia" / DAY / name.rpartition("/")[2]).exists()


@both_slowly
@pytest.mark.parametrize("options", [[], ["--uf", "99"], ["--operacao", "imunizacao-total-xx"]])
def test_a_wrong_option_is_told(run: Run, tmp_path: Path, options: list[str]) -> None:
    assert "--uf" in run(f"file://{tmp_path}", *options, code=1)


def test_the_python_example_needs_nothing_newer_than_python_3_9_and_no_package() -> None:
    source = (EXAMPLES / "ler.py").read_text(encoding="utf-8")
    module = ast.parse(source, feature_version=(3, 9))
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(module)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    imported |= {
        node.module.partition(".")[0] for node in ast.walk(module) if isinstance(node, ast.ImportFrom) and node.module
    }
    assert imported <= set(sys.stdlib_module_names)

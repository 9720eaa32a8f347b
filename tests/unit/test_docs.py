"""What the documentation says of files, commands and settings is true."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from imunizacao import cli
from imunizacao.errors import ConfigurationError
from imunizacao.settings import MirrorAuth, environment_help
from imunizacao_airflow.connections import settings_from_connections
from imunizacao_airflow.dags_page import dags_page, read_dag_file
from imunizacao_local import cli as local_cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
ADRS = sorted((ROOT / "docs" / "adr").iterdir())
CODE = ("include", "dags", "plugins", "docker", "expectations", "tests")
CODE_FILES = ("Makefile", "Dockerfile", "docker-compose.yaml", ".env.example", "requirements.in", "pyproject.toml")
CODE_SUFFIXES = {".py", ".sql", ".yaml", ".json", ".sh", ".md"}
ADR_HEADINGS = ["Context", "Options", "Decision", "Consequences"]
DAG_HEADINGS = ["Publishes", "Runs (Brasília time)", "Reads", "Type", "If it fails", "Re-running"]
SECRET_FIELDS = (
    "password",
    "requester_cns",
    "client_secret",
    "client_certificate",
    "client_private_key",
    "client_certificate_passphrase",
    "signing_private_key",
    "signing_key_passphrase",
    "previous_secret",
)
RUNBOOK_HEADINGS = ("How you notice", "How to know (that )?it is over")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code_files() -> Iterator[Path]:
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in CODE_SUFFIXES and path.is_file() and path != Path(__file__):
                yield path
    yield from (ROOT / file for file in CODE_FILES)


def headings(page: Path, level: int) -> list[str]:
    text = without_code_blocks(page.read_text(encoding="utf-8"))
    return [line[level + 1 :].strip() for line in text.splitlines() if line.startswith("#" * level + " ")]


def without_code_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, by GitHub's rule."""
    found = [title for level in range(1, 5) for title in headings(page, level)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def code_of(page: Path) -> str:
    """Fenced blocks and inline code of a page."""
    text = page.read_text(encoding="utf-8")
    return "\n".join(
        [*re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE), *re.findall(r"`([^`\n]+)`", text)]
    )


# --- decisions -----------------------------------------------------------------------------------


def test_decisions_are_numbered_from_1_without_gaps() -> None:
    names = [path.name for path in ADRS]
    assert names, "docs/adr is empty"
    odd = [file for file in names if not re.fullmatch(r"[0-9]{4}-[a-z0-9-]+\.md", file)]
    assert not odd, f"rename {odd}: a decision is NNNN-title.md"
    assert [int(file[:4]) for file in names] == list(range(1, len(names) + 1)), "numbers repeat or leave a gap"


@pytest.mark.parametrize("page", ADRS, ids=name)
def test_a_decision_has_its_number_and_its_four_parts(page: Path) -> None:
    assert headings(page, 1)[0].startswith(page.name[:4] + " "), f"the title of {name(page)} must begin with its number"
    assert headings(page, 2) == ADR_HEADINGS


def test_every_decision_that_is_named_exists() -> None:
    existing = {path.name[:4] for path in ADRS}
    named = {
        (number, name(path))
        for path in (*code_files(), *PAGES)
        for number in re.findall(r"\bADR ([0-9]{4})\b", path.read_text(encoding="utf-8"))
    }
    assert named, "nothing names a decision any more: change this test"
    missing = {entry for entry in named if entry[0] not in existing}
    assert not missing, f"these decisions do not exist: {sorted(missing)}"


# --- runbook -------------------------------------------------------------------------------------


def named_runbook_pages() -> dict[str, str]:
    """Page → one file that names it."""
    return {
        page: name(path)
        for path in code_files()
        for page in re.findall(r"docs/runbook/([a-z0-9-]+\.md)", path.read_text(encoding="utf-8"))
    }


def test_every_runbook_page_that_code_names_exists() -> None:
    named = named_runbook_pages()
    assert {"account-gap.md", "day-held.md", "storage-probe.md"} <= set(named)
    missing = {page: file for page, file in named.items() if not (ROOT / "docs" / "runbook" / page).is_file()}
    assert not missing, f"write these pages in docs/runbook, or mend who names them: {missing}"


def test_a_runbook_page_that_code_names_says_how_to_notice_and_when_it_is_over() -> None:
    pages = [page for page in sorted((ROOT / "docs" / "runbook").glob("*.md")) if page.name in named_runbook_pages()]
    assert pages
    lacking = {
        page.name: [
            wanted for wanted in RUNBOOK_HEADINGS if not any(re.fullmatch(wanted, title) for title in headings(page, 2))
        ]
        for page in pages
    }
    lacking = {page: absent for page, absent in lacking.items() if absent}
    assert not lacking, f"pages of docs/runbook lack headings: {lacking}"


# --- DAGs ----------------------------------------------------------------------------------------


def test_the_page_of_the_dags_is_fresh() -> None:
    written = (ROOT / "docs" / "dags.md").read_text(encoding="utf-8")
    assert written == dags_page(ROOT / "dags"), (
        "docs/dags.md is stale: run `PYTHONPATH=include python -m imunizacao_airflow.dags_page > docs/dags.md`."
    )


def test_a_dag_file_documents_itself_under_the_agreed_headings() -> None:
    files = [found for path in sorted((ROOT / "dags").glob("*.py")) if (found := read_dag_file(path)) is not None]
    assert [dag_id for file in files for dag_id in file.dag_ids], "dags/ defines no DAG"
    for file in files:
        assert re.findall(r"^### (.+)$", file.doc, re.MULTILINE) == DAG_HEADINGS, file.path.name


def test_the_page_of_the_dags_is_made_without_airflow() -> None:
    script = (
        "import sys, pathlib\n"
        "from imunizacao_airflow.dags_page import dags_page\n"
        "dags_page(pathlib.Path(sys.argv[1]))\n"
        "sys.exit(any(name.partition('.')[0] == 'airflow' for name in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "dags")], env={"PYTHONPATH": str(ROOT / "include")}, check=False
    )
    assert done.returncode == 0, "imunizacao_airflow.dags_page imported airflow"


def test_dags_are_found_by_class_by_module_and_by_decorator(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text(
        '"""Text of b."""\nimport airflow.sdk as sdk\nwith sdk.DAG("two", schedule=None):\n    pass\n'
    )
    (tmp_path / "a.py").write_text(
        '"""Text of a."""\nfrom airflow.sdk import dag\n@dag(dag_id="one")\ndef f() -> None: ...\n'
    )
    (tmp_path / "glue.py").write_text('"""Not a DAG."""\nX = dict(dag_id="none")\n')
    page = dags_page(tmp_path)
    assert re.findall(r"^## `(\w+)`$", page, re.MULTILINE) == ["one", "two"]
    assert "Text of a." in page
    assert "Text of b." in page
    assert "Not a DAG" not in page


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = 1\n", "No DAG was found"),
        ('DAG(dag_id="a")\n', "no module docstring"),
        ('"""Doc."""\nDAG(dag_id=NAME)\n', "write the DAG's dag_id as a text"),
        ('"""Doc."""\nDAG(dag_id="a")\nDAG(dag_id="a")\n', "both define the DAG a"),
        ('"""Doc."""\nDAG(\n', "is not Python"),
    ],
)
def test_a_dag_that_cannot_be_documented_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "file.py").write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(complaint)):
        dags_page(tmp_path)


# --- commands, settings, links -------------------------------------------------------------------


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"\bmake (?:-s )?([a-z][a-z-]*)", code_of(page)))
    assert named <= makefile_targets(), f"{name(page)} names targets that the Makefile does not have"


def test_the_readme_shows_how_to_start_and_how_to_test() -> None:
    shown = set(re.findall(r"^make ([a-z-]+)", code_of(ROOT / "README.md"), re.MULTILINE))
    assert {"up", "test", "check", "day", "down"} <= shown


def named_commands() -> dict[tuple[str, str], set[str]]:
    """(module, subcommand) → options that pages give it; `ARGS="…"` of make goes to `up`, of `make mirror` to nobody here."""
    named: dict[tuple[str, str], set[str]] = {}
    for page in PAGES:
        code = code_of(page)
        for module, command, rest in re.findall(r"-m (imunizacao|imunizacao_local) ([a-z][a-z-]+)([^\n]*)", code):
            named.setdefault((module, command), set()).update(re.findall(r"(?<!\S)--[a-z-]+", rest.partition("#")[0]))
        for arguments in re.findall(r'make up ARGS="([^"]*)"', code):
            named.setdefault(("imunizacao_local", "up"), set()).update(re.findall(r"--[a-z-]+", arguments))
    return named


MAIN: dict[str, Callable[[list[str]], int]] = {"imunizacao": cli.main, "imunizacao_local": local_cli.main}


def test_every_subcommand_and_option_that_a_page_names_exists() -> None:
    named = named_commands()
    assert {module for module, _ in named} == {"imunizacao", "imunizacao_local"}
    for (module, command), options in named.items():
        shown, refused = io.StringIO(), io.StringIO()
        with redirect_stdout(shown), redirect_stderr(refused), pytest.raises(SystemExit) as ended:
            MAIN[module]([command, "--help"])
        assert ended.value.code == 0, (
            f"a page names `python -m {module} {command}`, which does not exist: {refused.getvalue()}"
        )
        unknown = {option for option in options if not re.search(rf"{option}\b(?!-)", shown.getvalue())}
        assert not unknown, f"a page gives `python -m {module} {command}` options that it does not have: {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    existing = set(re.findall(r"IMUNIZACAO_[A-Z0-9_]+", environment_help()))
    named = set(re.findall(r"(?<![A-Z_])IMUNIZACAO_[A-Z0-9_]*[A-Z0-9]", page.read_text(encoding="utf-8")))
    assert named <= existing, f"{name(page)} names settings that do not exist: {sorted(named - existing)}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = without_code_blocks(page.read_text(encoding="utf-8"))
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        if (
            not found.is_relative_to(ROOT)
            or not found.exists()
            or (anchor and (found.suffix != ".md" or anchor not in anchors(found)))
        ):
            broken.append(target)
    assert not broken, f"{name(page)} links to what is not there: {broken}"


# --- connections ---------------------------------------------------------------------------------


def connection_examples() -> list[tuple[str, dict[str, Any]]]:
    text = (ROOT / "docs" / "connections.md").read_text(encoding="utf-8")
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0].strip()
        found += [
            (title, json.loads(block))
            for block in re.findall(r"^```json\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
        ]
    return found


def as_connection(example: dict[str, Any]) -> SimpleNamespace:
    fields = dict.fromkeys(("host", "login", "password", "schema", "port"))
    return SimpleNamespace(**{**fields, **example, "extra_dejson": example.get("extra", {})})


def test_every_connection_has_an_example() -> None:
    connections = (ROOT / "include" / "imunizacao_airflow" / "connections.py").read_text(encoding="utf-8")
    ids = set(re.findall(r'"(imunizacao_[a-z0-9]+)"', connections))
    assert {title for title, _ in connection_examples()} == ids


def test_the_examples_of_connections_are_accepted_as_settings() -> None:
    filled: dict[str, list[SimpleNamespace]] = {}
    for title, example in connection_examples():
        text = json.dumps(example).replace("<CNS of the requester>", "200000000000003")
        text = re.sub(r"<[^<>]+>", "x" * 32, text)
        filled.setdefault(title, []).append(as_connection(json.loads(text)))
    auths = set()
    for mirror in filled["imunizacao_mirror"]:
        chosen = {title: found[0] for title, found in filled.items()} | {"imunizacao_mirror": mirror}
        settings = settings_from_connections(chosen.__getitem__)
        auths.add(settings.mirror.auth)
        assert settings.mirror.base_url == "https://mirror.example.org/fhir/r4"
        assert settings.storage.endpoint_url == "https://s3.example.org"
        assert settings.pseudonym.key_id == "k1"
        assert settings.signing is not None
    assert auths == set(get_args(MirrorAuth)), "docs/connections.md lacks an example of one way to authenticate"


def test_the_examples_of_connections_hold_no_secret() -> None:
    for title, example in connection_examples():
        for field in SECRET_FIELDS:
            value = {**example, **example.get("extra", {})}.get(field, "<>")
            assert re.fullmatch(r"<[^<>]*>", value), f"{title}: write {field} as <…>"

"""`docs/dags.md`: the documentation of every DAG file on one page, read without importing Airflow.

python -m imunizacao_airflow.dags_page > docs/dags.md
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imunizacao.errors import ConfigurationError
from imunizacao.paths import ROOT

_INTRODUCTION: Final = """\
# DAGs

What each DAG publishes, when it runs and what to do when it fails: the text that Airflow shows as the DAG's documentation.
This page is generated from the files in `dags/`; do not edit it.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DagFile:
    """A file that defines DAGs."""

    path: Path
    dag_ids: tuple[str, ...]
    """In the order in which the file defines them."""
    doc: str


def dags_page(dags_folder: Path) -> str:
    """Render the module docstring of every DAG file, by file name, under a heading with its DAG ids.

    Files without a DAG (glue) are left out. A folder without any DAG, a file that cannot be parsed, a DAG without a literal
    `dag_id`, an id used twice and a DAG file without a docstring are a `ConfigurationError`.
    """
    files = [found for path in sorted(dags_folder.rglob("*.py")) if (found := read_dag_file(path)) is not None]
    if not files:
        raise ConfigurationError(f"No DAG was found in {dags_folder}. Name the folder that holds the DAG files.")
    seen: dict[str, Path] = {}
    for file in files:
        for dag_id in file.dag_ids:
            if dag_id in seen:
                raise ConfigurationError(
                    f"{file.path.name} and {seen[dag_id].name} both define the DAG {dag_id}. Rename one."
                )
            seen[dag_id] = file.path
    sections = []
    for file in files:
        name = file.path.relative_to(dags_folder).as_posix()
        heading = ", ".join(f"`{dag_id}`" for dag_id in file.dag_ids)
        sections.append(f"## {heading}\n\nFile: [dags/{name}](../dags/{name})\n\n{file.doc}\n")
    return "\n".join([_INTRODUCTION, *sections])


def read_dag_file(path: Path) -> DagFile | None:
    """What a file says about its DAGs, or None when it defines none."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=path.name)
    except SyntaxError as error:
        raise ConfigurationError(f"{path.name} line {error.lineno} is not Python: {error.msg}.") from error
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_dag(node.func)]
    if not calls:
        return None
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    doc = ast.get_docstring(tree)
    if not doc:
        raise ConfigurationError(
            f"{path.name} defines a DAG and has no module docstring. It is the DAG's documentation."
        )
    return DagFile(path=path, dag_ids=tuple(_dag_id(call, path) for call in calls), doc=doc)


def _is_dag(function: ast.expr) -> bool:
    """`DAG(...)`, `sdk.DAG(...)` and the decorator `@dag(...)`."""
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in {"DAG", "dag"}


def _dag_id(call: ast.Call, path: Path) -> str:
    named = [keyword.value for keyword in call.keywords if keyword.arg == "dag_id"]
    for node in (*named, *call.args[:1]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
    raise ConfigurationError(
        f"{path.name} line {call.lineno}: write the DAG's dag_id as a text, so that it can be found."
    )


if __name__ == "__main__":
    sys.stdout.write(dags_page(ROOT / "dags"))

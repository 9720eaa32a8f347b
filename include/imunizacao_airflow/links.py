"""Link buttons of the tasks. Targets are served by the plugin, to people who are logged in."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink


class DataDocsLink(BaseOperatorLink):
    """To the report of the rules: counts only."""

    name = "Data Docs"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Where the report of this day is; empty when the task ended before it was written."""
        return _link(operator, "docs")


class DocsIndexLink(BaseOperatorLink):
    """To the verdicts of all days."""

    name = "Todos os dias"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The same page for every day."""
        return _link(operator, "docs_index")


class ManifestLink(BaseOperatorLink):
    """To the head of the day in the public bucket."""

    name = "head.json"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Where the head of this day is."""
        return _link(operator, "head")


class PublicationLink(BaseOperatorLink):
    """To the page of the day: account, quarantine, history."""

    name = "Publicação"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Where the page of this day is."""
        return _link(operator, "day")


def _link(operator: Any, name: str) -> str:
    return str(getattr(operator, "imunizacao_links", {}).get(name, ""))

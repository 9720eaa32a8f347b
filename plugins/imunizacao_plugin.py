"""Airflow surfaces of the product: objects of both buckets for logged-in users, and the tab `Publicação` of a DAG run.

Airflow executes this file in every component and in every task process: nothing heavy may be imported here. The web
application is built when the api-server gets its first request for it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin


class LazyApp:
    """ASGI application that builds itself on first use, so that tasks do not pay for FastAPI."""

    _app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if LazyApp._app is None:
            from imunizacao_airflow.web import build_app

            LazyApp._app = build_app()
        await LazyApp._app(scope, receive, send)


class ImunizacaoPlugin(AirflowPlugin):
    """What the UI shows beyond Airflow's own pages."""

    name = "imunizacao"
    fastapi_apps: ClassVar[list[Any]] = [{"app": LazyApp(), "url_prefix": "/imunizacao", "name": "imunizacao"}]
    external_views: ClassVar[list[Any]] = [
        {
            "name": "Publicação",
            "href": "/imunizacao/run/{DAG_ID}/{RUN_ID}",
            "destination": "dag_run",
            "url_route": "publicacao",
        },
        {
            "name": "Meses",
            "href": "/imunizacao/months",
            "destination": "nav",
            "url_route": "imunizacao-meses",
        },
        {
            "name": "Validação",
            "href": "/imunizacao/verdicts",
            "destination": "nav",
            "url_route": "imunizacao-validacao",
        },
    ]

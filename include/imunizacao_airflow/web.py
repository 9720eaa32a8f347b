"""Pages that the Airflow UI embeds, and read access to both buckets for people who are logged in.

Routes of a plugin are anonymous by default in Airflow 3; every route here depends on `get_user`.
"""

from __future__ import annotations

import html
import json
import mimetypes
import re
from typing import Any

from airflow.api_fastapi.core_api.security import get_user
from airflow.models.connection import Connection
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from sqlalchemy import select

from imunizacao.docs_index import INDEX_KEY, docs_key
from imunizacao.errors import PipelineError
from imunizacao.storage import ObjectMissing, ObjectStore, open_public_store, open_work_store
from imunizacao_airflow.connections import storage_from_connection

_ALLOWED = {
    "public": re.compile(
        r"v1/(catalog\.json(ld)?|dados/dicionario-[0-9a-f.-]+\.html|months/[0-9-]{7}/(index|bulk-publish)\.json"
        r"|keys/(index\.json|[0-9a-f]{16}\.pub)|days/[0-9-]{10}/[A-Za-z0-9._=/-]+)"
    ),
    "work": re.compile(
        r"v1/(docs/[A-Za-z0-9._=/-]+|day=[0-9-]{10}/run=[A-Za-z0-9._-]+/[a-z]+/receipt\.json"
        r"|acks/day=[0-9-]{10}/(index\.json|[a-z0-9-]+\.csv))"
    ),
}
"""Keys that may be read through the UI: everything published, Data Docs, receipts, and what establishments are told. Never landing,
tables or quarantine."""

_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'self'",
    "Cache-Control": "no-store",
}


def build_app() -> FastAPI:
    """The ASGI application that Airflow mounts at `/imunizacao`."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    router = APIRouter(dependencies=[Depends(get_user)])
    router.add_api_route("/objects/{bucket}/{key:path}", _object, methods=["GET"])
    router.add_api_route("/run/{dag_id}/{run_id}", _run_page, methods=["GET"], response_class=HTMLResponse)
    router.add_api_route("/day/{day}", _day_page, methods=["GET"], response_class=HTMLResponse)
    router.add_api_route("/months", _months_page, methods=["GET"], response_class=HTMLResponse)
    router.add_api_route("/verdicts", _verdicts, methods=["GET"], response_class=HTMLResponse)
    router.add_api_route("/status", _status, methods=["GET"])
    app.include_router(router)
    return app


def _store(bucket: str) -> ObjectStore:
    settings = storage_from_connection(Connection.get_connection_from_secrets("imunizacao_s3"))
    return open_public_store(settings) if bucket == "public" else open_work_store(settings)


def _object(bucket: str, key: str) -> StreamingResponse:
    """Stream one allowed object."""
    allowed = _ALLOWED.get(bucket)
    if allowed is None or not allowed.fullmatch(key) or ".." in key:
        raise HTTPException(404, "No such object, or it is not for reading here.")
    store = _store(bucket)
    try:
        info = store.info(key)
    except PipelineError as error:
        raise HTTPException(502, str(error)) from error
    if info is None:
        raise HTTPException(404, "No such object.")
    kind = mimetypes.guess_type(key)[0] or info.content_type or "application/octet-stream"
    if kind == "text/csv":
        kind = "text/csv; charset=utf-8"
    return StreamingResponse(
        store.stream(key), media_type=kind, headers={**_SECURITY, "Content-Length": str(info.bytes)}
    )


def _verdicts() -> Response:
    """The index of the Data Docs, at its own address: its links are relative to it."""
    try:
        there = _store("work").info(INDEX_KEY) is not None
    except PipelineError as error:
        raise HTTPException(502, str(error)) from error
    if there:
        return RedirectResponse(f"objects/work/{INDEX_KEY}", status_code=302)
    return _page("Validação por dia", "<p>Nenhum dia foi avaliado ainda.</p>")


def _status() -> dict[str, Any]:
    """What is published, for a probe: totals of the catalog, or null when there is none."""
    stored = _read("v1/catalog.json")
    return {"catalog": stored["totals"] if stored else None}


def _run_page(dag_id: str, run_id: str) -> HTMLResponse:
    """The publication that a run is about. The day is asked from what the run's own first task answered."""
    with create_session(scoped=False) as session:
        value = session.scalar(
            select(XComModel.value).where(
                XComModel.dag_id == dag_id,
                XComModel.run_id == run_id,
                XComModel.task_id.in_(("resolve_day", "change_day")),
                XComModel.key == "return_value",
            )
        )
    day = _day_in(value)
    if day is None:
        return _page("Publicação", "<p>Esta execução ainda não resolveu o dia de referência.</p>")
    return _day_page(day)


def _day_in(value: Any) -> str | None:
    text = value if isinstance(value, str) else json.dumps(value)
    found = re.search(r'\\?"day\\?"\s*:\s*\\?"([0-9]{4}-[0-9]{2}-[0-9]{2})', text or "")
    return found.group(1) if found else None


def _day_page(day: str) -> HTMLResponse:
    """State, account and history of one day, straight from its head."""
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", day):
        raise HTTPException(404, "Not a day.")
    head = _read(f"v1/days/{day}/head.json")
    if head is None:
        docs = "<p><a href='../verdicts'>Validação de todos os dias</a></p>"
        nothing = "<p class='state'>pendente</p><p>Nada foi publicado para este dia.</p>"
        return _page(f"Dia {day}", nothing + docs, base="/imunizacao/day/")
    last = head["history"][-1]
    account, source = last.get("account") or {}, last.get("source") or {}
    rows = [
        ("Documentos recebidos", source.get("fetched")),
        ("— repetidos", source.get("duplicates")),
        ("— únicos", source.get("unique")),
        ("Doses dos documentos únicos", account.get("doses")),
        ("— publicadas", account.get("published")),
        *_residence(head),
        ("— em quarentena", account.get("quarantined")),
        ("— substituídas", account.get("superseded")),
        ("— removidas pela fonte", account.get("removed")),
    ]
    waterfall = _table(("", "quantidade"), [(name, _number(value)) for name, value in rows])
    reasons = _table(
        ("motivo da quarentena", "doses"),
        [
            (code, _number(count))
            for code, count in sorted((last.get("quarantinedByReason") or {}).items(), key=_most_first)
        ],
    )
    history = _table(
        (
            "revisão",
            "estado",
            "motivo",
            "publicada em",
            "doses",
            "incluídas, alteradas, retiradas",
            "conferência",
            "execução",
        ),
        [
            (
                entry["revision"],
                entry["state"],
                _why(entry),
                entry["publishedAt"],
                _number((entry.get("account") or {}).get("published")),
                ", ".join(_number(entry["diff"][name]) for name in ("added", "changed", "removed"))
                if "diff" in entry
                else "—",
                (entry.get("reconciliation") or {}).get("verdict", "—"),
                entry["runId"],
            )
            for entry in reversed(head["history"])
        ],
    )
    links = f"<a href='../objects/public/v1/days/{day}/head.json'>head.json</a>"
    if head["current"]:
        root = html.escape(head["current"]["path"])
        links += f" · <a href='../objects/public/{root}'>day.json</a> · <a href='../objects/public/{root.rpartition('/')[0]}/outcome.json'>outcome.json</a>"
        if signature := head["current"].get("signature"):
            links += f" · <a href='../objects/public/{html.escape(signature['path'])}'>assinatura {html.escape(signature['keyId'])}</a>"
        else:
            links += " · sem assinatura"
    if _store("work").info(docs_key(day)) is not None:
        links += f" · <a href='../objects/work/{docs_key(day)}'>Data Docs</a>"
    links += " · <a href='../verdicts'>validação de todos os dias</a>"
    body = (
        f"<p class='state {html.escape(head['state'])}'>{html.escape(_STATES.get(head['state'], head['state']))} · revisão {head['revision']}</p>"
        f"<p>{links}</p>{_withdrawn(head)}<h2>Conta do dia</h2>{waterfall}<h2>Quarentena</h2>{reasons}"
        f"{_documents_seen(day, _runs_of_content(head, last.get('path')))}<h2>Histórico</h2>{history}"
    )
    return _page(f"Dia {day}", body, base="/imunizacao/day/")


def _withdrawn(head: dict[str, Any]) -> str:
    """What readers must not read, since when and why; nothing while they may read all of the day."""
    parts = []
    if head["current"] is None:
        last = head["history"][-1]
        parts.append(f"<p>Retirado em {html.escape(last['publishedAt'])}: {html.escape(last.get('note') or '—')}</p>")
    rows = [
        (uf, said["revision"], said["at"], said["reason"], said.get("purgedAt", "—"))
        for uf, said in sorted((head.get("withdrawnUfs") or {}).items())
    ]
    if rows:
        header = ("UF", "revisão", "desde", "motivo", "arquivos removidos em")
        parts.append(f"<h2>UFs retiradas</h2>{_table(header, rows)}")
    return "".join(parts)


def _residence(head: dict[str, Any]) -> list[tuple[str, int | None]]:
    """How many of the published doses have files of residents, from day.json."""
    current = head["current"]
    said = (_read(current["path"]) or {}).get("residence") if current else None
    if said is None:
        return []
    return [
        ("—— também em arquivos de residentes", said["known"]),
        ("—— sem residência conhecida", said["unknown"]),
    ]


def _why(entry: dict[str, Any]) -> str:
    """Why there is a revision: the reason of the head, its note, and what a person decided who was asked."""
    text = str(entry["reason"]) + (f" ({', '.join(entry['ufs'])})" if entry.get("ufs") else "")
    text += f": {entry['note']}" if entry.get("note") else ""
    decision = entry.get("decision")
    return f"{text} · decisão ({', '.join(decision['rules'])}): {decision['reason']}" if decision else text


def _runs_of_content(head: dict[str, Any], path: str | None) -> list[str]:
    """Runs behind a content, the newest first: who withdraws or restores one has read no documents."""
    return [entry["runId"] for entry in reversed(head["history"]) if entry.get("path") == path]


def _documents_seen(day: str, run_ids: list[str]) -> str:
    """What the run that published a day met in its documents: generations, and what our tables do not know. Counts only.

    From the receipts in the work bucket, of the first run that has some; when they are gone, there is nothing to show.
    """
    counts: dict[str, int] = {}
    elements: dict[str, int] = {}
    for run_id in run_ids:
        receipts = f"v1/day={day}/run={run_id}"
        counts = (_read(f"{receipts}/flatten/receipt.json", bucket="work") or {}).get("code_counts") or {}
        elements = (_read(f"{receipts}/extract/receipt.json", bucket="work") or {}).get("unknown_elements") or {}
        if counts or elements:
            break
    if not counts and not elements:
        return ""
    starts = {
        "geração ": "Documentos por geração",
        "perfil desconhecido ": "Perfis desconhecidos",
        "documento de outro tipo ": "Documentos de outros tipos (sem doses)",
    }
    parts = []
    for start, title in starts.items():
        rows = [(name.removeprefix(start), _number(qt)) for name, qt in counts.items() if name.startswith(start)]
        parts.append(f"<h2>{title}</h2>{_table(('nome', 'documentos'), rows)}")
    codes = [(name, _number(qt)) for name, qt in counts.items() if not name.startswith(tuple(starts))]
    parts.append(f"<h2>Campos novos</h2>{_table(('elemento', 'documentos'), _ranked(elements))}")
    parts.append(f"<h2>Códigos desconhecidos</h2>{_table(('coluna', 'doses'), codes)}")
    return "".join(parts)


def _most_first(item: tuple[str, Any]) -> tuple[bool, int, str]:
    """Order of public counts by reason; a masked one (`*`) is small."""
    code, count = item
    return (count == "*", 0 if count == "*" else -count, code)


def _ranked(counts: dict[str, int]) -> list[tuple[str, str]]:
    return [(name, _number(count)) for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


_STATES = {"published": "publicado", "empty": "vazio (verificado)", "withdrawn": "retirado"}


def _months_page() -> HTMLResponse:
    """Months and days with something published; colour is the state, number is the revision."""
    catalog = _read("v1/catalog.json")
    if catalog is None:
        nothing = "<p>Nada foi publicado ainda · <a href='verdicts'>validação por dia</a></p>"
        return _page("Meses publicados", nothing, base="/imunizacao/")
    parts = []
    for month in reversed(catalog["months"]):
        index = _read(month["path"]) or {"days": []}
        days = "".join(
            f"<a class='day {html.escape(day['state'])}{' part' if day.get('withdrawnUfs') else ''}' href='day/{day['day']}' "
            f"title='{_number(day['rows'])} doses'>{day['day'][8:]}<small>r{day['revision']}</small></a>"
            for day in index["days"]
        )
        parts.append(
            f"<h2>{html.escape(month['month'])} <small>{_number(month['rows'])} doses</small></h2><div class='grid'>{days}</div>"
            + "".join(_why_withdrawn(day) for day in index["days"])
        )
    totals = (
        f"<p>{_number(catalog['totals']['days'])} dias, {_number(catalog['totals']['rows'])} doses aplicadas, "
        f"{_number(catalog['totals'].get('residents', 0))} em arquivos de residentes "
        "· <a href='verdicts'>validação por dia</a></p>"
    )
    if page := catalog.get("dictionary"):
        totals += f"<p><a href='objects/public/{html.escape(page['path'])}'>Dicionário de dados</a></p>"
    totals += _operations(catalog["operations"])
    return _page("Meses publicados", totals + "".join(parts), base="/imunizacao/")


def _why_withdrawn(day: dict[str, Any]) -> str:
    """One line for a day of which readers must not read something, with the reason from its head."""
    if day["state"] != "withdrawn" and not day.get("withdrawnUfs"):
        return ""
    head = _read(day["path"]) or {}
    ufs = head.get("withdrawnUfs") or {}
    said = [f"UF {uf} retirada: {ufs[uf]['reason']}" for uf in sorted(ufs)]
    if day["state"] == "withdrawn":
        last = (head.get("history") or [{}])[-1]
        said.insert(0, f"retirado: {last.get('note') or '—'}")
    return f"<p class='why'>{html.escape(day['day'][8:])}: {html.escape(' · '.join(said))}</p>"


def _operations(operations: list[dict[str, Any]]) -> str:
    """What the catalog offers, folded away."""
    rows = [(operation["title"], operation.get("description", "")) for operation in operations]
    return f"<details><summary>{len(rows)} operações</summary>{_table(('operação', 'conteúdo'), rows)}</details>"


def _read(key: str, *, bucket: str = "public") -> dict[str, Any] | None:
    try:
        document = json.loads(_store(bucket).get(key).body)
    except ObjectMissing:
        return None
    except PipelineError as error:
        raise HTTPException(502, str(error)) from error
    return document if isinstance(document, dict) else None


def _number(value: int | str | None) -> str:
    """A count for people; a masked one (`*`, one to seven) stays as readers see it."""
    if value is None or isinstance(value, str):
        return html.escape(value) if value else "—"
    return f"{value:,}".replace(",", ".")


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    if not rows:
        return "<p>—</p>"
    top = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _page(title: str, body: str, *, base: str = "/imunizacao/") -> HTMLResponse:
    return HTMLResponse(
        f"<!doctype html><html lang='pt-BR'><head><meta charset='utf-8'><base href='{base}'><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>{body}</body></html>",
        headers=_SECURITY,
    )


_STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem;max-width:70rem}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin-top:1.6rem}small{opacity:.7;font-weight:400}
table{border-collapse:collapse}td,th{padding:.25rem .8rem;border-bottom:1px solid #8884;text-align:left}
td:nth-child(2){font-variant-numeric:tabular-nums}.state{display:inline-block;padding:.15rem .7rem;border-radius:1rem;background:#8883}
.published{background:#2e7d3233}.empty{background:#0277bd33}.withdrawn{background:#c6282833}
.grid{display:flex;flex-wrap:wrap;gap:.4rem}.day{width:3rem;padding:.3rem;text-align:center;border-radius:.4rem;text-decoration:none;color:inherit}
.day small{display:block}.part{border:2px solid #c62828}.why{margin:.3rem 0;font-size:.9em;opacity:.85}
"""

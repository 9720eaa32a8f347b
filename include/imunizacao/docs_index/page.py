"""The page of the index: rows of days in, HTML out, and back. Same rows, same bytes; nothing is loaded from anywhere."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from datetime import date
from itertools import groupby
from typing import Final

import msgspec

from imunizacao.docs_index.rows import DayRow

_DATA: Final = re.compile(rb'<script type="application/json" id="dias">(.*?)</script>', re.DOTALL)
_VERDICTS: Final = {
    "passed": "aprovado",
    "asked": "aguarda decisão",
    "released": "publicado por decisão",
    "refused": "retido por decisão",
    "held": "retido",
}
_PUBLICATIONS: Final = {"published": "publicado", "empty": "vazio (verificado)", "withdrawn": "retirado"}
_KINDS: Final = {"held": "retém", "asked": "pergunta", "warning": "alerta"}
_WEEKDAYS: Final = ("seg", "ter", "qua", "qui", "sex", "sáb", "dom")


def render_page(rows: Mapping[str, DayRow]) -> bytes:
    """The whole page, days newest first."""
    days = [rows[day] for day in sorted(rows, reverse=True)]
    data = msgspec.json.encode(days).replace(b"<", b"\\u003c")
    parts = [
        "<!doctype html>",
        "<html lang='pt-BR'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>Validação por dia</title><style>{_STYLE}</style></head><body>",
        "<h1>Validação por dia</h1>",
        f"<p class='quiet'>{_summary(days)}</p>",
        *(_month(month, list(some)) for month, some in groupby(days, key=lambda row: row.verdict.day[:7])),
        f'<script type="application/json" id="dias">{data.decode()}</script>',
        "</body></html>\n",
    ]
    return "\n".join(parts).encode()


def rows_of(page: bytes) -> dict[str, DayRow] | None:
    """The rows that a page carries; None when it is no page of this form."""
    found = _DATA.search(page)
    if found is None:
        return None
    try:
        rows = msgspec.json.decode(found.group(1), type=list[DayRow])
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    return {row.verdict.day: row for row in rows}


def _summary(days: list[DayRow]) -> str:
    counts = {
        "aguardam decisão": sum(row.verdict.state == "asked" for row in days),
        "retidos": sum(row.verdict.state in {"held", "refused"} for row in days),
        "com alertas": sum(any(one.kind == "warning" for one in row.verdict.findings) for row in days),
    }
    said = [f"{_number(len(days))} dia{'s' if len(days) != 1 else ''}"]
    said += [f"<b>{_number(count)}</b> {what}" for what, count in counts.items() if count]
    return " · ".join(said) + ". Veredito da execução mais recente de cada dia; só contagens."


def _month(month: str, days: list[DayRow]) -> str:
    head = "<tr><th>dia</th><th>veredito</th><th>publicação</th><th class='n'>doses avaliadas</th><th class='n'>em quarentena</th><th>regras não cumpridas</th></tr>"
    body = "\n".join(_day(row) for row in days)
    return f"<h2>{month[5:]}/{month[:4]}</h2>\n<div class='wide'><table><thead>{head}</thead><tbody>\n{body}\n</tbody></table></div>"


def _day(row: DayRow) -> str:
    verdict = row.verdict
    share = f"{100 * verdict.quarantined / verdict.judged:.2f} %".replace(".", ",") if verdict.judged else "—"
    reason = f"<br><span class='quiet'>Motivo: {html.escape(verdict.reason)}</span>" if verdict.reason else ""
    findings = "".join(
        f"<li><span class='{one.kind}'>{_KINDS[one.kind]}</span> {html.escape(one.text)}</li>"
        for one in verdict.findings
    )
    return (
        f"<tr><td><a href='day={verdict.day}/index.html'>{verdict.day}</a> <span class='quiet'>{_weekday(verdict.day)}</span></td>"
        f"<td><span class='state {verdict.state}'>{_VERDICTS[verdict.state]}</span></td><td>{_publication(row)}</td>"
        f"<td class='n'>{_number(verdict.judged)}</td>"
        f"<td class='n'>{_number(verdict.quarantined)}<br><span class='quiet'>{share}</span></td>"
        f"<td>{f'<ul>{findings}</ul>' if findings else '—'}{reason}</td></tr>"
    )


def _publication(row: DayRow) -> str:
    if row.publication is None:
        return "<span class='quiet'>pendente</span>"
    state = html.escape(_PUBLICATIONS.get(row.publication.state, row.publication.state))
    rows = f"<br><span class='quiet'>{_number(row.publication.rows)} doses</span>" if row.publication.rows else ""
    return f"{state}, revisão {row.publication.revision}{rows}"


def _weekday(day: str) -> str:
    return _WEEKDAYS[date.fromisoformat(day).weekday()]


def _number(value: int) -> str:
    return f"{value:,}".replace(",", ".")


_STYLE: Final = """
:root{color-scheme:light dark}body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;padding:0 1rem;max-width:78rem}
h1{font-size:1.4rem;margin-bottom:.3rem}h2{font-size:1.05rem;margin-top:1.6rem}.quiet{opacity:.72;font-size:.9em}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}th{font-weight:600;font-size:.9em}
td,th{padding:.35rem .8rem;border-bottom:1px solid #8884;text-align:left;vertical-align:top;white-space:nowrap}
td:last-child{white-space:normal;min-width:22rem}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
ul{margin:0;padding:0;list-style:none}.state,li span{display:inline-block;padding:.05rem .6rem;border-radius:1rem;background:#8883}
li span{font-size:.85em}li+li{margin-top:.2rem}
.passed{background:#2e7d3233}.released{background:#0277bd33}.asked,.warning{background:#ef6c0033!important}.held,.refused{background:#c6282833!important}
""".strip()

"""The data dictionary as a page in the public bucket: one file without scripts or anything from elsewhere, in Portuguese.

The page of a contract is named by its version and its own hash: it never changes, and a code table that changes makes another page.
`catalog.json` names the page in force.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from imunizacao.contract import HOW_TO_READ, Column, Contract, column_facts, known_codes, load_contract
from imunizacao.manifests import DictionaryFile
from imunizacao.storage import ObjectStore, PreconditionLost, sha256_of

_LONG_LIST = 12
"""Codes of a column that are shown at once; more are folded away."""


def dictionary_html() -> bytes:
    """The page: doses, then removals. Same contract and code tables, same bytes."""
    contracts = [load_contract(name) for name in ("dose", "removed")]
    version = contracts[0].version
    sections = "\n".join(_section(contract) for contract in contracts)
    index = "\n".join(
        f'<li><a href="#{contract.name}">{html.escape(contract.title)}</a></li>' for contract in contracts
    )
    return (
        "<!doctype html>\n"
        f'<html lang="pt-BR">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Dicionário de dados de imunização, versão {html.escape(version)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#conteudo">Ir para o conteúdo</a>\n<header>\n'
        f"<h1>Dicionário de dados de imunização</h1>\n<p>Contrato {html.escape(contracts[0].name)} {html.escape(version)}. "
        f"O que cada coluna dos arquivos publicados significa.</p>\n<p>{_in_html(HOW_TO_READ)}</p>\n</header>\n"
        f'<nav aria-label="Tabelas"><ul>\n{index}\n</ul></nav>\n<main id="conteudo">\n{sections}\n</main>\n</body>\n</html>\n'
    ).encode()


def _in_html(text: str) -> str:
    """Markdown with nothing but code in it."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def dictionary_key(version: str, body: bytes) -> str:
    """Key of a page in the public bucket: other bytes, other key."""
    return f"v1/dados/dicionario-{version}-{sha256_of(body)[:12]}.html"


def publish_dictionary(public: ObjectStore) -> DictionaryFile:
    """Write the page unless it is there, and say where it is."""
    body = dictionary_html()
    key = dictionary_key(load_contract("dose").version, body)
    try:
        public.put(
            key,
            body,
            sha256=sha256_of(body),
            content_type="text/html; charset=utf-8",
            cache_control="max-age=31536000, immutable",
            only_if_absent=True,
        )
    except PreconditionLost:
        # The name comes from the bytes: what is there is this page, or was damaged from outside. Then these are the right bytes.
        found = public.info(key)
        if found is None or found.sha256 != sha256_of(body):
            public.put(key, body, sha256=sha256_of(body), content_type="text/html; charset=utf-8")
    return DictionaryFile(path=key, sha256=sha256_of(body), bytes=len(body))


def _section(contract: Contract) -> str:
    rows = "\n".join(
        f'<tr><td>{number}</td><th scope="row"><a href="#{contract.name}-{column.name}"><code>{column.name}</code></a></th>'
        f"<td>{html.escape(column.title)}</td><td>{'sim' if column.required else 'não'}</td></tr>"
        for number, column in enumerate(contract.columns, 1)
    )
    official = (
        f"<p>As colunas 1 a {contract.official_columns} têm nome, ordem e grafia dos dados abertos do Ministério da Saúde "
        "(<code>tb_ria_rotina</code>); as demais são acréscimos deste conjunto.</p>\n"
        if contract.official_columns
        else ""
    )
    columns = "\n".join(_column(contract, number, column) for number, column in enumerate(contract.columns, 1))
    return (
        f'<section id="{contract.name}" aria-labelledby="t-{contract.name}">\n'
        f'<h2 id="t-{contract.name}">{html.escape(contract.title)}</h2>\n<p>{html.escape(contract.description)}</p>\n'
        f"<p>Versão {html.escape(contract.version)}. Chave: {_codes(contract.primary_key)}. "
        f"Ordem das linhas: {_codes(contract.sort_key)}.</p>\n{official}"
        f"<table>\n<caption>Colunas</caption>\n<thead><tr><th scope='col'>nº</th><th scope='col'>coluna</th>"
        f"<th scope='col'>título</th><th scope='col'>obrigatória</th></tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n"
        f"{columns}\n</section>"
    )


def _column(contract: Contract, number: int, column: Column) -> str:
    facts = "\n".join(
        f"<dt>{html.escape(label)}</dt><dd>{_marked(value)}</dd>" for label, value in column_facts(contract, column)
    )
    return (
        f'<article id="{contract.name}-{column.name}">\n<h3>{number}. <code>{column.name}</code></h3>\n'
        f"<p>{_marked(column.title)}. {_marked(column.description)}</p>\n<dl>\n{facts}\n</dl>\n{_code_table(column)}</article>"
    )


def _code_table(column: Column) -> str:
    codes = known_codes(column)
    if not codes or column.codes is None:
        return ""
    rows = "\n".join(
        f'<tr><th scope="row"><code>{html.escape(code.value)}</code></th><td>{html.escape(code.label)}</td></tr>'
        for code in codes
    )
    kind = "Lista fechada." if column.enum else "Lista aberta: pode aparecer código novo."
    opened = "" if len(codes) > _LONG_LIST else " open"
    return (
        f"<details{opened}>\n<summary>{len(codes)} códigos conhecidos. {kind}</summary>\n<table>\n"
        f"<caption>Códigos de {column.name}</caption>\n<thead><tr><th scope='col'>código</th><th scope='col'>significado</th></tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody>\n</table>\n</details>\n"
    )


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"<code>{html.escape(name)}</code>" for name in names)


def _marked(text: str) -> str:
    """Text of the contract: what stands between backticks is code."""
    parts = html.escape(text).split("`")
    if len(parts) % 2 == 0:
        return "`".join(parts)
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


_STYLE = """
:root{color-scheme:light dark}
body{font:1rem/1.6 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
.skip{position:absolute;left:-99rem}.skip:focus{position:static}
table{border-collapse:collapse;display:block;overflow-x:auto}caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #8886}
article{border-top:1px solid #8886;margin-top:1.5rem}h3{margin-bottom:.2rem}code{overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:.1rem 1rem}dt{font-weight:600}dd{margin:0}
a:focus-visible,summary:focus-visible{outline:3px solid;outline-offset:2px}
@media (max-width:40rem){dl{display:block}}
"""

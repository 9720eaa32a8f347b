"""The contract of the published files: which columns, in which order, with which meaning.

`include/contract/*.yaml` is the only place where a published column is written down; the SQL casts, the
CSV header, the Table Schema of the descriptors and the dictionary are all made from it. This is the
only module that reads YAML.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

import yaml

from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.paths import CONTRACT, REFERENCE

ColumnType = Literal["string", "date", "datetime", "integer"]
Origin = Literal["document", "registry", "reference", "derived", "empty"]
Privacy = Literal["public-code", "quasi-identifier", "pseudonym", "free-text", "operational", "identifier"]
Profile = Literal["pseudonymised", "nominal"]
AliasSource = Literal["csv_2026", "covid", "api"]

_MAY_LEAVE: Mapping[Profile, frozenset[Privacy]] = MappingProxyType(
    {
        "pseudonymised": frozenset({"public-code", "quasi-identifier", "pseudonym", "free-text", "operational"}),
        "nominal": frozenset(get_args(Privacy)),
    }
)
"""Privacy classes that files of a profile may carry: the allow-list of the last step before files."""
_SAYS_WHO = re.compile(
    r"(nu_(cns|cpf|telefone|rg|nis)|no_(paciente|mae|pai|social|profissional|bairro|logradouro)|dt_nascimento|ds_e?mail|ds_endereco"
    r"|co_profissional)(_.*)?"
)
"""Names that the ministry gives to columns that say who somebody is: no privacy class may call them something else."""
_PERSONAL_PATH = re.compile(
    r"Patient\.(name|identifier|birthDate|telecom|contact|photo|address\.(line|text|district))\b.*"
    r"|.*\b(subject|patient|performer|Bundle)\.(actor\.)?(identifier\.value|reference)"
)
"""Elements that identify a person; what is derived from them (a pseudonym, an age) is another matter."""
HOW_TO_READ = (
    "Códigos são texto: zeros à esquerda fazem parte do valor. Campo vazio é ausência de valor. Código que nenhuma tabela conhece é "
    "mantido, com o nome vazio. Valor fora do formato leva a dose à quarentena quando a coluna é obrigatória; nas demais, fica vazio. "
    "Data incompleta (`2026` ou `2026-02`) não nomeia um dia e é tratada assim, como a que não existe. `blanked`, em `day.json`, conta "
    "por coluna só os valores que chegaram à tabela e que a última conferência com este contrato deixou vazios; o que não pôde ser lido "
    "do documento, como uma data incompleta, não é contado."
)
"""What holds for every column, in Markdown: said in the dictionary here and in the one in the bucket."""
_NAME = re.compile(r"[a-z][a-z0-9_]{1,62}")
_VERSION = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)")
_OFFSET = re.compile(r"[+-][0-9]{2}:[0-9]{2}")
_TABLE_COLUMN = re.compile(r"([A-Za-z][A-Za-z0-9_]*)\.([A-Za-z][A-Za-z0-9_]*)")
_CODES_IN_SCHEMA = 150
"""Longer lists (countries, ethnicities) would be most of a schema that every UF carries every day: they are in the dictionary page."""
_SNAPSHOT_TABLE = "tbEstabelecimento"
"""Establishments come with the monthly CNES snapshot; only the layout of its table is in the tree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumn:
    """One column of a reference table, such as `pni_dose.co_dose_vacina`."""

    table: str
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One published column. `include/contract/dose.yaml` says what each attribute means."""

    name: str
    type: ColumnType
    title: str
    description: str
    origin: Origin
    privacy: Privacy
    required: bool
    example: str | int | None
    pattern: str | None
    """For the whole value, without anchors."""
    enum: tuple[str, ...]
    """Empty when any value is allowed."""
    max_length: int | None
    minimum: str | int | None
    maximum: str | int | None
    fhir_path: str | None
    reference: TableColumn | None
    rule: str | None
    codes: TableColumn | None
    """Known codes; an open list, except where `enum` or `origin` says otherwise."""
    labels: TableColumn | None
    """What each known code means, in the same table."""
    aliases: Mapping[AliasSource, str]

    def accepts(self, value: str | int | None) -> bool:
        """Tell whether a published value (None for a null) keeps the constraints of the column."""
        if value is None:
            return not self.required
        if self.origin == "empty" or not _is_of_type(self.type, value):
            return False
        if isinstance(value, int):
            low = self.minimum is None or value >= cast(int, self.minimum)
            return low and (self.maximum is None or value <= cast(int, self.maximum))
        return (
            value != ""
            and (self.pattern is None or re.fullmatch(self.pattern, value) is not None)
            and (not self.enum or value in self.enum)
            and (self.max_length is None or len(value) <= self.max_length)
            # ISO 8601 dates with one offset sort as text.
            and (self.minimum is None or value >= cast(str, self.minimum))
            and (self.maximum is None or value <= cast(str, self.maximum))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """The columns of one published table, in published order."""

    name: str
    profile: Profile
    """Whom the files are for: `pseudonymised` is the default, `nominal` carries identifiers."""
    version: str
    """Semantic version: see the header of `include/contract/dose.yaml` for what changes it."""
    title: str
    description: str
    primary_key: tuple[str, ...]
    sort_key: tuple[str, ...]
    """Total order of the rows, compared byte by byte."""
    official_columns: int
    """How many columns, from the first, are the ministry's own."""
    datetime_offset: str
    text_columns: tuple[str, ...]
    """Columns with text that somebody typed: formula neutralisation applies."""
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in published order: the CSV header."""
        return tuple(column.name for column in self.columns)

    @property
    def may_leave(self) -> tuple[str, ...]:
        """Columns that the profile lets into files; of a contract that was read from its file these are all."""
        return tuple(column.name for column in self.columns if not _leaves_not(self.profile, column))

    def column(self, name: str) -> Column:
        """Return a column by name; an unknown name is a `ConfigurationError`."""
        for column in self.columns:
            if column.name == name:
                return column
        raise ConfigurationError(
            f"Column {name!r} is not in contract {self.name} {self.version}. "
            f"Add it to include/contract/{self.name}.yaml or correct the caller."
        )


def load_contract(name: str = "dose", *, folder: Path = CONTRACT) -> Contract:
    """Read and check `<folder>/<name>.yaml`: `dose` (published doses), `nominal` (the same with identifiers) or `removed` (removals).

    A file that is missing or is not YAML is a `ConfigurationError`; one that breaks a rule of the
    contract is a `ContractViolation` that lists every unreadable value, or else every broken rule.
    """
    path = folder / f"{name}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"Contract {path.name} cannot be read: {error}.") from error
    return _parsed(text, name)


@lru_cache(maxsize=8)
def _parsed(text: str, name: str) -> Contract:
    """Parsing takes a quarter of a second, and publication asks for the contract once per UF. The same text is the same contract."""
    return parse_contract(text, name=name)


def parse_contract(text: str, *, name: str) -> Contract:
    """Check the text of a contract file and build the contract. Errors as in `load_contract`."""
    try:
        # SafeLoader subclass: plain data only, no Python objects.
        node = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506
    except yaml.YAMLError as error:
        raise ConfigurationError(f"Contract {name}.yaml is not valid YAML: {error}") from error
    faults: list[str] = []
    reader = _Reader(_with_base(node), "contract", faults)
    contract = Contract(
        name=reader.text("name", pattern=_NAME),
        profile=cast(Profile, reader.choice("profile", get_args(Profile))),
        version=reader.text("version", pattern=_VERSION),
        title=reader.text("title"),
        description=reader.text("description"),
        primary_key=reader.names("primary_key"),
        sort_key=reader.names("sort_key"),
        official_columns=reader.integer("official_columns") or 0,
        datetime_offset=reader.text("datetime_offset", pattern=_OFFSET),
        text_columns=reader.names("text_columns"),
        columns=tuple(
            _read_column(item, f"column {position}", faults)
            for position, item in enumerate(reader.items("columns"), start=1)
        ),
    )
    reader.refuse_unknown_keys()
    if contract.name and contract.name != name:
        faults.append(f"name is {contract.name!r}, but the file is {name}.yaml")
    if not faults:
        # A value that could not be read has a stand-in: checking further would blame other lines.
        faults.extend(_column_faults(contract))
        faults.extend(_whole_faults(contract))
    if faults:
        raise ContractViolation(
            f"Contract {name}.yaml has {len(faults)} fault(s); correct the file:\n  - " + "\n  - ".join(faults)
        )
    return contract


def _with_base(node: object) -> object:
    """A contract that `extends` another one has its columns first and takes over what it does not say."""
    if not isinstance(node, dict) or "extends" not in node:
        return node
    path = CONTRACT / f"{node['extends']}.yaml"
    try:
        base = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506
    except OSError as error:
        raise ConfigurationError(
            f"Contract {path.name}, which another one extends, cannot be read: {error}."
        ) from error
    own = {key: value for key, value in node.items() if key != "extends"}
    return base | own | {"columns": [*base["columns"], *(own.get("columns") or [])]}


def load_schema(name: str) -> dict[str, Any]:
    """Read the JSON Schema of a published JSON file: head, day, outcome, month-index or catalog."""
    path = CONTRACT / "schemas" / f"{name}.schema.json"
    try:
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"JSON Schema {path.name} cannot be read: {error}.") from error


def reference_file(source: TableColumn) -> Path:
    """Return the CSV under `include/reference` that holds a table (for CNES: its layout only)."""
    if source.table == _SNAPSHOT_TABLE:
        return REFERENCE / "cnes_layout" / f"{source.table}.csv"
    return REFERENCE / source.table.split("_", 1)[0] / f"{source.table}.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCode:
    """A code with what it means; the label is empty where no table says it."""

    value: str
    label: str


def known_codes(column: Column) -> tuple[KnownCode, ...]:
    """The codes of a column with their labels: those of `enum` in its order, else those of the table in the tree, by its lines.

    Empty for a column without codes, and for codes without labels (municipalities, which have a table of their own). The tables of a
    day may be newer than those in the tree: an open list never says that another code is wrong.
    """
    labels: dict[str, str] = {}
    if column.codes is not None and column.labels is not None:
        with reference_file(column.codes).open(encoding="utf-8", newline="") as file:
            labels = {row[column.codes.column]: row[column.labels.column].strip() for row in csv.DictReader(file)}
    return tuple(KnownCode(value=value, label=labels.get(value, "")) for value in column.enum or labels)


def duckdb_types(contract: Contract) -> dict[str, str]:
    """Type in DuckDB of every column, in contract order. Instants are text: their form with one offset is part of the contract."""
    return {column.name: _DUCKDB[column.type] for column in contract.columns}


_DUCKDB: Mapping[ColumnType, str] = MappingProxyType(
    {"string": "VARCHAR", "date": "DATE", "datetime": "VARCHAR", "integer": "INTEGER"}
)


def table_schema(contract: Contract) -> dict[str, Any]:
    """Make the Frictionless Table Schema (v2) of a contract.

    `fieldsMatch` is left out on purpose: the 2.0 profile wants an array where the specification says
    string (https://github.com/frictionlessdata/datapackage/issues/965), and its default is what we
    promise: exactly these fields, in this order.

    A closed list of codes is `categories` and `enum`. `categories` would restrict an open list too, so that stands in `rnds:codes`:
    a code that no table knows yet is published and must stay valid.
    """
    return {
        "$schema": "https://datapackage.org/profiles/2.0/tableschema.json",
        "fields": [_field(column) for column in contract.columns],
        "missingValues": [""],
        "primaryKey": list(contract.primary_key),
    }


def csv_header(contract: Contract) -> str:
    """First line of a published file."""
    return ";".join(f'"{name}"' for name in contract.names) + "\n"


def require_may_leave(contract: Contract, header: str) -> None:
    """The gate before files: raise unless `header` (first line of a CSV) is that of the contract, and the profile lets all of it out.

    It looks at what is about to be written, not at how it was made, and names columns only.
    """
    names = tuple(name.strip('"') for name in header.rstrip("\n").split(";"))
    held = sorted(set(names) - set(contract.may_leave))
    if held:
        raise ContractViolation(
            f"Column(s) {', '.join(held)} are not on the allow-list of contract {contract.name} {contract.version}, profile "
            f"{contract.profile}. Nothing left the private side. A column that may be published stands in "
            f"include/contract/{contract.name}.yaml with a privacy class of this profile; see docs/dados/privacidade.md."
        )
    if header != csv_header(contract):
        missing = sorted(set(contract.names) - set(names))
        raise ContractViolation(
            f"The columns to be written are not those of contract {contract.name} {contract.version}: "
            f"{'missing ' + ', '.join(missing) if missing else 'another order or spelling'}. Nothing left the private side. Clear `split` "
            "and run it again; if it happens again, code and contract are of different versions."
        )


def _leaves_not(profile: Profile, column: Column) -> str:
    """Why a column may not be in files of this profile; empty when it may."""
    if column.privacy not in _MAY_LEAVE[profile]:
        return f"privacy {column.privacy} may not leave in profile {profile}"
    if column.privacy != "identifier" and _SAYS_WHO.fullmatch(column.name):
        return "its name says that it identifies a person: privacy must be identifier"
    as_it_is = column.origin in {"document", "registry"} and _PERSONAL_PATH.fullmatch(column.fhir_path or "")
    if column.privacy != "identifier" and as_it_is:
        return f"{column.fhir_path} identifies a person: privacy must be identifier"
    return ""


def csv_dialect() -> dict[str, Any]:
    """Make the Frictionless Table Dialect of every published CSV."""
    return {
        "$schema": "https://datapackage.org/profiles/2.0/tabledialect.json",
        "header": True,
        "delimiter": ";",
        "lineTerminator": "\n",
        "quoteChar": '"',
        "doubleQuote": True,
    }


def dictionary_markdown(contract: Contract) -> str:
    """Write the data dictionary of one contract, in Portuguese: a summary table, then each column."""
    file_name = "removed.csv" if contract.name == "removed" else "CSV de doses"
    lines = [
        f"## {contract.title} ({file_name})",
        "",
        contract.description,
        "",
        f"Versão do contrato: {contract.version}. Colunas: {len(contract.columns)}. "
        f"Chave: {_code_list(contract.primary_key)}. "
        f"Ordem das linhas: {_code_list(contract.sort_key)}.",
        "",
    ]
    if contract.official_columns:
        lines += [
            f"As colunas 1 a {contract.official_columns} têm nome, ordem e grafia dos dados abertos do "
            "Ministério da Saúde (`tb_ria_rotina`); as demais são acréscimos deste conjunto.",
            "",
        ]
    lines += [
        "| nº | coluna | tipo | obrigatória | título | privacidade |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for number, column in enumerate(contract.columns, start=1):
        lines.append(
            f"| {number} | `{column.name}` | {_TYPES[column.type]} | "
            f"{'sim' if column.required else 'não'} | {_cell(column.title)} | "
            f"{_PRIVACY[column.privacy]} |"
        )
    for number, column in enumerate(contract.columns, start=1):
        lines += ["", f"### {number}. `{column.name}`", "", f"{column.title}. {column.description}", ""]
        lines += [f"- {label}: {value}" for label, value in column_facts(contract, column)]
    return "\n".join(lines) + "\n"


def dictionary_page() -> str:
    """Write the whole page `docs/dados/dicionario.md`: doses, then removals."""
    header = (
        "# Dicionário de dados\n\n"
        "<!-- Gerado por `python -m imunizacao.contract`; não editar à mão. -->\n\n"
        "O que cada coluna dos arquivos publicados significa. O formato dos arquivos e o que um leitor "
        "pode supor estão em [contrato.md](contrato.md).\n\n"
        f"{HOW_TO_READ}\n"
    )
    sections = [dictionary_markdown(load_contract(name)) for name in ("dose", "removed")]
    return "\n".join([header, *sections])


# --- reading -------------------------------------------------------------------------------------


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML loader that refuses a key written twice (PyYAML keeps the last one in silence)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is written twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Reader:
    """Takes typed values out of one YAML mapping and notes every fault with its place."""

    def __init__(self, node: object, where: str, faults: list[str]) -> None:
        self._faults = faults
        self._where = where
        self._node: dict[Any, Any] = node if isinstance(node, dict) else {}
        self._seen: set[str] = set()
        if not isinstance(node, dict):
            self._note("must be a mapping of keys to values")
        elif isinstance(node.get("name"), str):
            self._where = f"{where} ({node['name']})"

    def _note(self, message: str) -> None:
        self._faults.append(f"{self._where}: {message}")

    def _get(self, key: str) -> object:
        self._seen.add(key)
        return self._node.get(key)

    def text(self, key: str, *, pattern: re.Pattern[str] | None = None) -> str:
        """Required, not blank, on one line."""
        value = self.optional_text(key)
        if value is None:
            self._note(f"{key} is missing")
            return ""
        if pattern is not None and not pattern.fullmatch(value):
            self._note(f"{key} {value!r} does not match {pattern.pattern}")
        return value

    def optional_text(self, key: str) -> str | None:
        value = self._get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self._note(f"{key} must be text in quotes, got {value!r}")
            return None
        if not value.strip() or "\n" in value:
            self._note(f"{key} must be one line of text")
            return None
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        value = self._get(key)
        if value not in choices:
            self._note(f"unknown {key} {value!r}; expected one of {', '.join(choices)}")
            return choices[0]
        return cast(str, value)

    def flag(self, key: str) -> bool:
        value = self._get(key)
        if value is not None and not isinstance(value, bool):
            self._note(f"{key} must be true or false, got {value!r}")
        return value is True

    def integer(self, key: str) -> int | None:
        value = self._get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self._note(f"{key} must be a whole number from 0, got {value!r}")
            return None
        return value

    def scalar(self, key: str) -> str | int | None:
        value = self._get(key)
        if value is None or (isinstance(value, str | int) and not isinstance(value, bool)):
            return value
        self._note(f"{key} must be text in quotes or a whole number, got {value!r}")
        return None

    def items(self, key: str) -> list[Any]:
        value = self._get(key)
        if not isinstance(value, list):
            self._note(f"{key} must be a list")
            return []
        return value

    def names(self, key: str) -> tuple[str, ...]:
        return self._texts(key, self.items(key))

    def optional_texts(self, key: str) -> tuple[str, ...]:
        return self._texts(key, self.items(key)) if self._get(key) is not None else ()

    def _texts(self, key: str, values: Iterable[Any]) -> tuple[str, ...]:
        result: list[str] = []
        for value in values:
            if not isinstance(value, str) or not value:
                # An unquoted NO is read as false by YAML 1.1: the message must make that visible.
                self._note(f"{key} must hold text in quotes, got {value!r}")
            elif value in result:
                self._note(f"{key} names {value!r} twice")
            else:
                result.append(value)
        return tuple(result)

    def table_column(self, key: str) -> TableColumn | None:
        value = self.optional_text(key)
        if value is None:
            return None
        match = _TABLE_COLUMN.fullmatch(value)
        if match is None:
            self._note(f"{key} {value!r} must be table.column")
            return None
        return TableColumn(table=match[1], column=match[2])

    def aliases(self) -> Mapping[AliasSource, str]:
        value = self._get("aliases")
        if value is None:
            return MappingProxyType({})
        reader = _Reader(value, f"{self._where} aliases", self._faults)
        found = {key: reader.optional_text(key) for key in get_args(AliasSource)}
        reader.refuse_unknown_keys()
        return MappingProxyType({key: name for key, name in found.items() if name is not None})

    def refuse_unknown_keys(self) -> None:
        for key in self._node:
            if key not in self._seen:
                self._note(f"unknown key {key!r}")


def _read_column(node: object, where: str, faults: list[str]) -> Column:
    reader = _Reader(node, where, faults)
    column = Column(
        name=reader.text("name", pattern=_NAME),
        type=cast(ColumnType, reader.choice("type", get_args(ColumnType))),
        title=reader.text("title"),
        description=reader.text("description"),
        origin=cast(Origin, reader.choice("origin", get_args(Origin))),
        privacy=cast(Privacy, reader.choice("privacy", get_args(Privacy))),
        required=reader.flag("required"),
        example=reader.scalar("example"),
        pattern=reader.optional_text("pattern"),
        enum=reader.optional_texts("enum"),
        max_length=reader.integer("max_length"),
        minimum=reader.scalar("minimum"),
        maximum=reader.scalar("maximum"),
        fhir_path=reader.optional_text("fhir_path"),
        reference=reader.table_column("reference"),
        rule=reader.optional_text("rule"),
        codes=reader.table_column("codes"),
        labels=reader.table_column("labels"),
        aliases=reader.aliases(),
    )
    reader.refuse_unknown_keys()
    return column


# --- checking ------------------------------------------------------------------------------------

_ORIGIN_NEEDS: Mapping[Origin, str] = MappingProxyType(
    {"document": "fhir_path", "registry": "fhir_path", "reference": "reference", "derived": "rule"}
)


def _column_faults(contract: Contract) -> Iterable[str]:
    """What is wrong inside one column."""
    for column in contract.columns:
        for fault in (*_origin_faults(column), *_constraint_faults(column)):
            yield f"column {column.name}: {fault}"
        if fault := _leaves_not(contract.profile, column):
            yield f"column {column.name}: {fault}"


def _origin_faults(column: Column) -> Iterable[str]:
    need = _ORIGIN_NEEDS.get(column.origin)
    if need is not None and getattr(column, need) is None:
        yield f"origin {column.origin} needs {need}"
    if column.labels is not None and (column.codes is None or column.codes.table != column.labels.table):
        yield "labels must be a column of the table of codes"
    if column.origin == "empty":
        if column.required or column.example is not None:
            yield "an empty column has no example and cannot be required"
    elif column.example is None:
        yield "example is missing"


def _constraint_faults(column: Column) -> Iterable[str]:
    if column.type != "string" and (column.pattern or column.enum or column.max_length is not None):
        yield f"pattern, enum and max_length are for strings, not for {column.type}"
    if column.max_length == 0:
        yield "max_length must be at least 1"
    bad_bounds = [
        bound
        for bound in (column.minimum, column.maximum)
        if bound is not None and (column.type == "string" or not _is_of_type(column.type, bound))
    ]
    for bound in bad_bounds:
        yield f"bound {bound!r} does not fit type {column.type}"
    bad_pattern = column.pattern is not None and _pattern_fault(column.pattern)
    if bad_pattern:
        yield bad_pattern
    elif not bad_bounds and column.example is not None and not column.accepts(column.example):
        yield f"example {column.example!r} breaks the column's own type or constraints"


def _pattern_fault(pattern: str) -> str:
    """Describe what is wrong with a pattern; empty when nothing is."""
    try:
        re.compile(pattern)
    except re.error as error:
        return f"pattern {pattern!r} is no regular expression: {error}"
    if pattern.startswith("^") or pattern.endswith("$"):
        return f"pattern {pattern!r} must have no anchors"
    return ""


def _whole_faults(contract: Contract) -> Iterable[str]:
    """What is wrong between columns."""
    for name in _repeated(name for name in contract.names if name):
        yield f"column {name} is written more than once"
    for source in get_args(AliasSource):
        for alias in _repeated(c.aliases[source] for c in contract.columns if source in c.aliases):
            yield f"alias {alias} of {source} is given to more than one column"
    if contract.official_columns > len(contract.columns):
        yield f"official_columns is {contract.official_columns}, of {len(contract.columns)} columns"
    yield from _key_faults(contract)
    yield from _text_faults(contract)


def _key_faults(contract: Contract) -> Iterable[str]:
    known = set(contract.names)
    for key in ("primary_key", "sort_key", "text_columns"):
        for name in getattr(contract, key):
            if name not in known:
                yield f"{key} names {name!r}, which is no column"
    if not contract.primary_key:
        yield "primary_key is empty"
    if not set(contract.primary_key) <= set(contract.sort_key):
        yield "sort_key must hold the primary_key, or the order of the rows is not total"
    keys = {*contract.primary_key, *contract.sort_key}
    for column in contract.columns:
        if column.name in keys and not column.required:
            yield f"column {column.name} is part of a key and must be required"


def _text_faults(contract: Contract) -> Iterable[str]:
    """A value that somebody outside can choose must be bounded or neutralised (CWE-1236)."""
    for column in contract.columns:
        is_text = column.name in contract.text_columns
        if (column.privacy == "free-text") != is_text:
            yield f"column {column.name}: text_columns and privacy free-text must agree"
        if is_text and column.required:
            yield f"column {column.name}: free text cannot be required, because a value with a CNS or CPF is left out"
        if column.type == "string" and not is_text and not _is_bounded(column):
            yield (
                f"column {column.name}: a string needs a pattern, an enum, a reference table of ours, "
                "or a place in text_columns"
            )


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _is_bounded(column: Column) -> bool:
    """Whether nobody outside can choose the text that is published."""
    own_table = column.reference is not None and column.reference.table != _SNAPSHOT_TABLE
    return bool(column.pattern or column.enum) or column.origin == "empty" or own_table


def _is_of_type(kind: ColumnType, value: str | int) -> bool:
    if kind == "integer":
        return isinstance(value, int)
    if not isinstance(value, str):
        return False
    try:
        if kind == "date":
            return date.fromisoformat(value).isoformat() == value
        if kind == "datetime":
            moment = datetime.fromisoformat(value)
            return moment.tzinfo is not None and moment.isoformat(timespec="milliseconds") == value
    except ValueError:
        return False
    return True


# --- writing -------------------------------------------------------------------------------------

_TYPES: Mapping[ColumnType, str] = MappingProxyType(
    {"string": "texto", "date": "data", "datetime": "data e hora", "integer": "inteiro"}
)
_ORIGINS: Mapping[Origin, str] = MappingProxyType(
    {
        "document": "documento da RNDS",
        "registry": "cadastro do paciente, só quando o espelho o acrescenta ao documento",
        "reference": "tabela de referência",
        "derived": "calculada",
        "empty": "sempre vazia",
    }
)
_PRIVACY: Mapping[Privacy, str] = MappingProxyType(
    {
        "public-code": "código público",
        "quasi-identifier": "quase-identificador",
        "pseudonym": "pseudônimo",
        "free-text": "texto livre",
        "operational": "operacional",
        "identifier": "identifica a pessoa",
    }
)
_ALIASES: Mapping[AliasSource, str] = MappingProxyType(
    {"csv_2026": "CSV aberto de 2026", "covid": "campanha covid", "api": "API de dados abertos"}
)


def _field(column: Column) -> dict[str, Any]:
    constraints: dict[str, Any] = {"required": True} if column.required else {}
    for key, value in (
        ("pattern", column.pattern),
        ("enum", list(column.enum) or None),
        ("maxLength", column.max_length),
        ("minimum", column.minimum),
        ("maximum", column.maximum),
    ):
        if value is not None:
            constraints[key] = value
    field: dict[str, Any] = {
        "name": column.name,
        "type": column.type,
        "format": "default",
        "title": column.title,
        "description": column.description,
    }
    if column.example is not None:
        field["example"] = column.example
    if constraints:
        field["constraints"] = constraints
    codes = [{"value": code.value, "label": code.label} for code in known_codes(column)]
    if column.enum:
        labelled = all(code["label"] for code in codes)
        field["categories"] = codes if labelled else list(column.enum)
    elif column.codes is not None:
        values = {"values": codes} if 0 < len(codes) <= _CODES_IN_SCHEMA else {}
        field["rnds:codes"] = {"table": column.codes.table, "open": True, **values}
    return field


def column_facts(contract: Contract, column: Column) -> Iterable[tuple[str, str]]:
    """Label and value of each line under a column of the dictionary; code stands between backticks."""
    yield "Tipo", _TYPES[column.type] + (", obrigatória" if column.required else "")
    if column.pattern is not None:
        yield "Formato", f"`{column.pattern}`"
    if column.enum:
        codes = known_codes(column)
        yield (
            "Valores",
            "; ".join(f"`{code.value}` {code.label}" for code in codes)
            if all(code.label for code in codes)
            else _code_list(column.enum),
        )
    if column.max_length is not None:
        yield "Tamanho máximo", f"{column.max_length} caracteres"
    if column.minimum is not None:
        yield "Mínimo", f"`{column.minimum}`"
    if column.maximum is not None:
        yield "Máximo", f"`{column.maximum}`"
    yield "Origem", _ORIGINS[column.origin]
    if column.fhir_path is not None:
        yield "Elemento FHIR", f"`{column.fhir_path}`"
    if column.reference is not None:
        yield "Tabela de referência", f"`{column.reference}`"
    if column.rule is not None:
        yield "Regra", column.rule
    if column.codes is not None and column.codes != column.reference:
        yield "Tabela de códigos", f"`{column.codes}`"
    yield "Privacidade", _PRIVACY[column.privacy]
    if column.name in contract.text_columns:
        yield "Planilhas", "valor que uma planilha leria como fórmula recebe um apóstrofo no início"
    if column.aliases:
        yield (
            "Outros nomes",
            "; ".join(f"`{name}` ({_ALIASES[source]})" for source, name in column.aliases.items()),
        )
    if column.example is not None:
        yield "Exemplo", f"`{column.example}`"


def _code_list(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(dictionary_page())

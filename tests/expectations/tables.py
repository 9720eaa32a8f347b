"""Tables of a day for the tests of the rules: one good row, and what differs from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from imunizacao import paths
from imunizacao.contract import load_contract
from imunizacao.reference_day import ReferenceDay
from imunizacao.settings import EngineSettings
from imunizacao.sql import open_engine
from imunizacao.sql.compile import RowRule, reasons_select
from imunizacao.validate.gx import run_suites
from imunizacao.validate.history import NO_HISTORY, History
from imunizacao.validate.stage import ValidateOutcome, make_summary, make_tables, run_validate
from imunizacao.validate.suites import Suites, load_suites

DAY: Final = ReferenceDay(date(2026, 3, 14))
KEY: Final = ("nu_parte", "nu_linha", "nu_dose")
_FLAGS: Final = {
    "in_co_uf_estabelecimento": pa.string(),
    "in_id_paciente_valido": pa.bool_(),
    "in_id_paciente_tipo": pa.string(),
    "in_vacina_antes_nascimento": pa.bool_(),
    "in_transcricao": pa.bool_(),
    "in_perfil": pa.string(),
    "in_qt_dias_atraso": pa.int32(),
    "in_st_imunizacao": pa.string(),
    "in_vacina_categoria": pa.string(),
    "in_vacina_ativa": pa.string(),
    "in_estrategia_ativa": pa.string(),
    "in_grupo_ativo": pa.string(),
    "in_carga": pa.bool_(),
    "in_pais_aplicacao_conhecido": pa.bool_(),
    "in_fabricante_informado": pa.bool_(),
    "in_fabricante_divergente": pa.bool_(),
    "in_fabricante_texto_conhecido": pa.bool_(),
    "in_idade_no_grupo": pa.bool_(),
    "in_lote_normalizado": pa.string(),
    "in_lote_identificador": pa.bool_(),
    "in_qt_dias_validade": pa.int32(),
    "in_qt_dias_registro": pa.int32(),
}
_TYPES: Final = {"dt_vacina": pa.date32(), "dt_validade_lote": pa.date32(), "nu_idade_paciente": pa.int32()}
DOSE_SCHEMA: Final = pa.schema(
    [(name, pa.int32()) for name in KEY]
    + [(name, _TYPES.get(name, pa.string())) for name in load_contract("dose").names]
    + list(_FLAGS.items())
)
QUARANTINE_SCHEMA: Final = pa.schema(
    [(name, pa.int32()) for name in KEY]
    + [(name, pa.string()) for name in ("co_documento", "co_cnes_estabelecimento", "in_co_uf_estabelecimento")]
    + [("ds_motivos", pa.list_(pa.string()))]
)
GOOD: Final[dict[str, Any]] = {
    "co_cnes_estabelecimento": "0012345",
    "co_municipio_estabelecimento": "530010",
    "co_ibge_municipio_estabelecimento": "5300108",
    "no_municipio_estabelecimento": "BRASILIA",
    "sg_uf_estabelecimento": "DF",
    "no_uf_estabelecimento": "DISTRITO FEDERAL",
    "co_vacina": "33",
    "sg_vacina": "INF3",
    "dt_vacina": date(2026, 3, 10),
    "co_dose_vacina": "1",
    "ds_dose_vacina": "1ª Dose",
    "co_lote_vacina": "ABC123",
    "dt_entrada_rnds": "2026-03-14T10:00:00.000-03:00",
    "dt_registro_origem": "2026-03-14T09:00:00.000-03:00",
    "co_local_aplicacao": "1",
    "ds_local_aplicacao": "Deltóide Direito",
    "co_via_administracao": "10890",
    "ds_via_administracao": "Intramuscular",
    "co_sistema_origem": "18602",
    "co_estrategia_vacinacao": "1",
    "ds_estrategia_vacinacao": "Rotina",
    "co_vacina_grupo_atendimento": "000210",
    "ds_vacina_grupo_atendimento": "Faixa Etária",
    "co_vacina_categoria_atendimento": "2",
    "co_vacina_fabricante": "152",
    "ds_vacina_fabricante": "INSTITUTO BUTANTAN",
    "co_condicao_maternal": "1",
    "ds_condicao_maternal": "Não se aplica",
    "co_tipo_estabelecimento": "02",
    "co_natureza_estabelecimento": "1",
    "no_fantasia_estalecimento": "UBS UM",
    "co_pais_aplicacao": "10",
    "tp_sexo_paciente": "F",
    "nu_idade_paciente": 61,
    "co_municipio_paciente": "530010",
    "co_ibge_municipio_paciente": "5300108",
    "dt_validade_lote": date(2027, 1, 1),
    "st_documento": "final",
    "in_co_uf_estabelecimento": "53",
    "in_id_paciente_valido": True,
    "in_id_paciente_tipo": "cns",
    "in_vacina_antes_nascimento": False,
    "in_transcricao": False,
    "in_perfil": "BRRegistroImunobiologicoAdministradoRotina-2.0",
    "in_qt_dias_atraso": 4,
    "in_st_imunizacao": "completed",
    "in_vacina_categoria": "Vacina",
    "in_vacina_ativa": "S",
    "in_estrategia_ativa": "S",
    "in_grupo_ativo": "S",
    "in_carga": False,
    "in_pais_aplicacao_conhecido": True,
    "in_fabricante_informado": True,
    "in_fabricante_divergente": False,
    "in_fabricante_texto_conhecido": True,
    "in_idade_no_grupo": True,
    "in_lote_normalizado": "ABC123",
    "in_lote_identificador": False,
    "in_qt_dias_validade": 297,
    "in_qt_dias_registro": 4,
}


def good_row(number: int, **different: Any) -> dict[str, Any]:
    """A row that keeps every rule, except for what is given."""
    unknown = set(different) - set(DOSE_SCHEMA.names)
    assert not unknown, f"the table of doses has no column {sorted(unknown)}"
    row = dict.fromkeys(DOSE_SCHEMA.names)
    key = {"nu_parte": 1, "nu_linha": number, "nu_dose": 0, "co_documento": f"doc-{number:06d}-i0b0"}
    return row | GOOD | key | {"co_paciente": f"{number:064x}"} | different


def typed(example: Mapping[str, Any]) -> dict[str, Any]:
    """An example of a row, as a suite has it, with its dates as dates."""
    dates = {name for name in DOSE_SCHEMA.names if pa.types.is_date(DOSE_SCHEMA.field(name).type)}
    return {
        name: date.fromisoformat(value) if name in dates and value is not None else value
        for name, value in example.items()
    }


def structural_row(number: int, reason: str = "CNES_UNKNOWN", uf: str | None = None) -> dict[str, Any]:
    """A dose that could not enter the table."""
    return {
        "nu_parte": 2,
        "nu_linha": number,
        "nu_dose": 0,
        "co_documento": f"bad-{number:06d}-i0b0",
        "co_cnes_estabelecimento": None,
        "in_co_uf_estabelecimento": uf,
        "ds_motivos": [reason],
    }


def write_tables(
    folder: Path, rows: Sequence[Mapping[str, Any]], structural: Sequence[Mapping[str, Any]] = ()
) -> tuple[Path, Path]:
    """The two Parquet files that flatten hands over."""
    dose, quarantine = folder / "dose.parquet", folder / "structural.parquet"
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=DOSE_SCHEMA), dose)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in structural], schema=QUARANTINE_SCHEMA), quarantine)
    return dose, quarantine


def closed_account(rows: int, structural: int = 0) -> dict[str, int]:
    """Counts of a flatten that lost nothing: one document per dose."""
    total = rows + structural
    return {
        "fetched": total,
        "unique_documents": total,
        "duplicates": 0,
        "doses": total,
        "candidates": rows,
        "quarantined": structural,
        "superseded": 0,
        "removed": 0,
    }


def judge(
    rows: Sequence[Mapping[str, Any]],
    structural: Sequence[Mapping[str, Any]] = (),
    *,
    folder: Path,
    account: Mapping[str, int] | None = None,
    suites: Suites | None = None,
    threads: int = 2,
    history: History = NO_HISTORY,
) -> ValidateOutcome:
    """Run the rules over a made day; files stay in `folder`."""
    dose, quarantine = write_tables(folder, rows, structural)
    settings = EngineSettings(threads=threads, memory_limit="1GB", scratch_dir=folder)
    with open_engine(settings, folder) as duck:
        return run_validate(
            duck,
            suites=suites or load_suites(paths.EXPECTATIONS),
            day=DAY,
            dose=dose,
            structural=quarantine,
            account={**closed_account(len(rows), len(structural)), **(account or {})},
            folder=folder,
            history=history,
        )


def rules_broken(rows: Sequence[Mapping[str, Any]], *, folder: Path) -> dict[tuple[int, int, int], list[str]]:
    """Physical key → every row rule that the row breaks, flags included, by the compiled conditions."""
    dose, quarantine = write_tables(folder, rows)
    suites = load_suites(paths.EXPECTATIONS)
    with open_engine(EngineSettings(scratch_dir=folder), folder) as duck:
        make_tables(duck, dose=dose)

        def make_day(compiled: list[RowRule], _: Any) -> None:
            make_summary(duck, compiled=compiled, structural=quarantine, account=closed_account(len(rows)))

        parameters = {"reference_day": str(DAY), "candidates": len(rows)}
        outcome = run_suites(duck, suites, parameters=parameters, day=DAY, site=folder / "site", after_rows=make_day)
        select = reasons_select(outcome.row_rules, relation="imunizacao_dose", key=KEY, carry=())
        found = {(part, line, dose): rules for part, line, dose, _, rules in duck.execute("test", select).fetchall()}
        for rule in (rule.rule for rule in suites.rules if rule.scope == "row"):
            own, counted = sum(rule in rules for rules in found.values()), outcome.verdicts[rule].failed
            assert own == counted, f"{rule}: compiled {own}, Great Expectations {counted}"
    return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a small Parquet file, in file order."""
    return pq.read_table(path).to_pylist()

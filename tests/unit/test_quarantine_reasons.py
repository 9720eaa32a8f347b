"""No reason code without a sentence for the people who can correct the record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from imunizacao.errors import ConfigurationError, ContractViolation
from imunizacao.fhir.pages import Reject
from imunizacao.paths import EXPECTATIONS, SQL
from imunizacao.quarantine.reasons import load_reasons, reason_of
from imunizacao.validate.suites import load_suites

CODE_IN_SQL = re.compile(r"then\s+'([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)*)'")


def structural_codes() -> set[str]:
    """Codes that flatten gives, read from its SQL, and those of entries that are never landed."""
    texts = [(SQL / "flatten" / f"{name}.sql").read_text() for name in ("30_stg_document", "70_int_dose_key")]
    return {code for text in texts for code in CODE_IN_SQL.findall(text)} | {str(reject) for reject in Reject}


def test_every_code_has_a_sentence_and_every_sentence_a_code() -> None:
    rules = {rule.reason for rule in load_suites(EXPECTATIONS).rules if rule.reason}
    structural = structural_codes()
    assert {"CNES_UNKNOWN", "JSON_INVALID", "DOC_TOO_LARGE", "LAST_UPDATED_OUTSIDE_DAY"} <= structural
    missing = sorted((rules | structural) - set(load_reasons()))
    assert missing == [], "add their lines to include/contract/motivos.csv"
    assert sorted(set(load_reasons()) - rules - structural) == [], "nothing gives these codes any more"


def test_no_other_sql_gives_a_reason() -> None:
    """A code born elsewhere would have escaped the test above."""
    known = {"30_stg_document.sql", "70_int_dose_key.sql"}
    found = {
        path.name
        for path in SQL.rglob("*.sql")
        if path.name not in known and "ds_motivos" in (text := path.read_text()) and CODE_IN_SQL.search(text)
    }
    assert found == set()


def test_sentences_are_sentences() -> None:
    for reason in load_reasons().values():
        for text in (reason.sentence, reason.correction):
            assert text.endswith("."), reason.code
            assert text[0].isupper(), reason.code
            assert not re.search(r"[;\"\n]", text.replace("; ", "")), reason.code


def test_a_new_rule_speaks_through_its_note_until_the_table_has_it() -> None:
    found = reason_of("LOTE_ESTRANHO", "IMU-050", table={}, notes={"IMU-050": "O lote tem letras e dígitos"})
    assert found.sentence == "Não atende à regra IMU-050: O lote tem letras e dígitos."
    with pytest.raises(ContractViolation, match="LOTE_ESTRANHO has no sentence"):
        reason_of("LOTE_ESTRANHO", "", table={}, notes={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("co_motivo,ds_motivo\nA,B.\n", "has columns"),
        ("co_motivo,ds_motivo,ds_correcao\nA,B.,\n", "line of 'A'"),
        ("co_motivo,ds_motivo,ds_correcao\nA,B.,C.\nA,B.,C.\n", "line of 'A'"),
        ("co_motivo,ds_motivo,ds_correcao\nA,B, e mais.,C.\n", "line of 'A'"),
        ("co_motivo,ds_motivo,ds_correcao\na,B.,C.\n", "line of 'a'"),
    ],
)
def test_a_damaged_table_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "motivos.csv"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load_reasons(path)

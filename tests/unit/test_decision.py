"""What a person may write as the reason of a decision: it becomes public."""

from __future__ import annotations

import pytest

from imunizacao.decision import check_reason, reason_problem
from imunizacao.errors import ConfigurationError


@pytest.mark.parametrize(
    "text",
    [
        "Carga atrasada da Bahia, confirmada pela secretaria em 2026-03-13 às 14h.",
        "IMU-190 2026-03-14 a 2026-03-16: 1.234.567 doses, 12 municípios, competência 202602",
        "Retirado de 14/03/2026 a 15/03/2026; 318 doses, chamado CH-2026-123456.",
        "Retirado em 2026-03-14, 318.402 doses; volta em 16/03/2026, 9 UFs.",
        "Dias 2026-03-14, 2026-03-15 e 1/4/2026 - 2/4/2026 às 14:30.",
        "Processo SEI 25000.012345/2026-11, decisão 0001234-56.2026.8.26.0100.",
        "  com espaços por fora  ",
        "x" * 500,
    ],
)
def test_a_reason_in_plain_words_is_taken(text: str) -> None:
    assert check_reason(text) == text.strip()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "de 10 a 500 caracteres; tem 0"),
        ("   porque   ", "tem 6"),
        ("x" * 501, "tem 501"),
        ("duas linhas\ndo motivo", "controle"),
        ("escape \x1b[31m vermelho", "controle"),
        ("invisível \u200b no meio", "controle"),
        ("separador \u2028 de linha", "controle"),
        ("paciente 12345678909 conferido", "CPF ou CNS"),
        ("paciente 123.456.789-09 conferido", "CPF ou CNS"),
        ("paciente 123 456 789 09 conferido", "CPF ou CNS"),
        ("cartão 700000000000005 conferido", "CPF ou CNS"),
        ("cartão 700 0000 0000 0005 conferido", "CPF ou CNS"),
        ("CPF 529982247-25 conferido", "CPF ou CNS"),
        ("CPF 529.982.24725 conferido", "CPF ou CNS"),
        ("CPF 529.982.247/25 conferido", "CPF ou CNS"),
        ("CPF 529-982-247-25 conferido", "CPF ou CNS"),
        ("CPF 529.982.247–25 conferido", "CPF ou CNS"),
        ("CPF 529 982 247 - 25 conferido", "CPF ou CNS"),
        ("CPF 5 2 9 9 8 2 2 4 7 2 5 conferido", "CPF ou CNS"),
        ("CPF errado 529.982.24726 conferido", "CPF ou CNS"),
        ("em 2026-03-14: 529.982.24725, conferido", "CPF ou CNS"),
        ("lote 12, 123.456.789-00, conferido", "CPF ou CNS"),
        ("cartão 7000.0000.0000.005 conferido", "CPF ou CNS"),
        ("cartão 70000000 0000005 conferido", "CPF ou CNS"),
        ("cartão 7005 0123 4567 890 conferido", "CPF ou CNS"),
        ("algarismos ５２９．９８２．２４７-25", "CPF ou CNS"),
        ("algarismos ١٢٣٤٥٦٧٨٩٠٩ árabes", "CPF ou CNS"),
    ],
)
def test_a_reason_that_must_not_become_public_is_refused_and_not_repeated(text: str, problem: str) -> None:
    assert problem in reason_problem(text)
    with pytest.raises(ConfigurationError) as refused:
        check_reason(text)
    assert problem in str(refused.value)
    assert not text.strip() or text.strip() not in str(refused.value)

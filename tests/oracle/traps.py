"""Make seeded dose rows in which every rule is both kept and broken, most of all at its edges.

Rows are not plausible doses: columns that the preparation derives from others vary on their own, so that every
rule meets every combination.
"""

from __future__ import annotations

import datetime
import itertools
import random
import string
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tests.oracle.rules import UF_CODES, Value

T = TypeVar("T")

REFERENCE_DAY = datetime.date(2026, 3, 14)
_DAY = datetime.timedelta(days=1)

# One row that keeps every rule, without the keys that must differ from row to row.
BASE: dict[str, Value] = {
    "co_documento": "",
    "co_paciente": "",
    "tp_sexo_paciente": "F",
    "co_municipio_paciente": "355030",
    "co_ibge_municipio_paciente": "3550308",
    "co_cnes_estabelecimento": "0000001",
    "no_fantasia_estalecimento": "UBS 1",
    "co_municipio_estabelecimento": "530010",
    "co_ibge_municipio_estabelecimento": "5300108",
    "no_municipio_estabelecimento": "BRASILIA",
    "sg_uf_estabelecimento": "DF",
    "no_uf_estabelecimento": "DISTRITO FEDERAL",
    "in_co_uf_estabelecimento": "53",
    "co_vacina": "33",
    "sg_vacina": "INF3",
    "dt_vacina": datetime.date(2026, 3, 10),
    "co_dose_vacina": "1",
    "ds_dose_vacina": "1ª Dose",
    "co_local_aplicacao": "1",
    "ds_local_aplicacao": "nome",
    "co_via_administracao": "1",
    "ds_via_administracao": "nome",
    "co_lote_vacina": "4120Z005",
    "dt_validade_lote": datetime.date(2027, 1, 31),
    "co_vacina_fabricante": "149",
    "ds_vacina_fabricante": "FUNDACAO OSWALDO CRUZ",
    "dt_entrada_rnds": "2026-03-14T10:00:00.000-03:00",
    "dt_registro_origem": "2026-03-14T09:00:00.000-03:00",
    "co_sistema_origem": "1",
    "st_documento": "final",
    "co_estrategia_vacinacao": "1",
    "ds_estrategia_vacinacao": "nome",
    "co_origem_registro": "01",
    "ds_origem_registro": "nome",
    "co_vacina_grupo_atendimento": "000210",
    "ds_vacina_grupo_atendimento": "nome",
    "co_vacina_categoria_atendimento": "2",
    "co_condicao_maternal": "1",
    "ds_condicao_maternal": "nome",
    "co_tipo_estabelecimento": "2",
    "co_natureza_estabelecimento": "1",
    "nu_idade_paciente": 61,
    "st_contato_hanseniase": "N",
    "co_pais_aplicacao": "21",
    "in_id_paciente_valido": True,
    "in_vacina_antes_nascimento": False,
    "in_transcricao": False,
    "in_carga": False,
    "in_qt_dias_atraso": 4,
    "in_st_imunizacao": "completed",
    "in_vacina_categoria": "Soro",
    "in_vacina_ativa": "S",
    "in_estrategia_ativa": "S",
    "in_grupo_ativo": "S",
    "in_pais_aplicacao_conhecido": True,
    "in_fabricante_informado": True,
    "in_fabricante_divergente": False,
    "in_fabricante_texto_conhecido": True,
    "in_idade_no_grupo": True,
    "in_lote_normalizado": "4120Z005",
    "in_lote_identificador": False,
    "in_qt_dias_validade": 327,
    "in_qt_dias_registro": 4,
}

_FLAG: tuple[Value, ...] = (True, False, None)
_SWITCH: tuple[Value, ...] = (False, False, False, True, None)  # most conditions ask for false
_NAME: tuple[Value, ...] = ("nome", "", " ", "nome\n", "ção", None, None, None)
_ACTIVE: tuple[Value, ...] = ("S", "N", "N", "s", "", "S ", " S", "S\n", "Sim", "Ｓ", "Ś", None)
_HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one picture, five code points
_EDGE_DATES: tuple[Value, ...] = (
    None,
    None,
    datetime.date.min,
    datetime.date(1582, 10, 15),
    datetime.date(1899, 12, 30),
    datetime.date(1899, 12, 31),
    datetime.date(1900, 1, 1),
    datetime.date(1900, 1, 2),
    datetime.date(1969, 12, 31),
    datetime.date(1970, 1, 1),
    datetime.date(2019, 12, 31),
    datetime.date(2020, 1, 1),
    datetime.date(2020, 1, 2),
    datetime.date(2024, 2, 29),
    datetime.date(2026, 3, 9),
    datetime.date(2026, 3, 10),
    datetime.date(2026, 3, 11),
    REFERENCE_DAY - _DAY,
    REFERENCE_DAY,
    REFERENCE_DAY + _DAY,
    datetime.date(2206, 1, 1),
    datetime.date.max,
)
_INSTANTS: tuple[Value, ...] = (
    None,
    None,
    "",
    "2026-03-14T09:59:59.999-03:00",
    "2026-03-14T10:00:00.000-03:00",
    "2026-03-14T10:00:00.001-03:00",
    "2026-03-14T10:00:00.000-02:00",
    "2026-03-14T10:00:00.000Z",
    "2026-03-14T10:00:00.000",
    "2026-03-14",
    " 2026-03-14T10:00:00.000-03:00",
    "2026-03-14t10:00:00.000-03:00",
    "2027-01-01T00:00:00.000-03:00",
    "9999-12-31T23:59:59.999-03:00",
    "10000-01-01T00:00:00.000-03:00",
    "２026-03-14T10:00:00.000-03:00",
    "Z",
    "a",
    "á",
    "\uffee",
    "\U0001f600",  # above U+FFEE by code point and by UTF-8, below it by UTF-16
)
_MUNICIPIO_7: tuple[Value, ...] = (
    None, "", "5300108", "5300108\r", "1100015", "3550308", "5208707", "1721000", "530010", "355030", "0300108", "6300108",
    "53001080", "5300108\n", "5300108 ", " 5300108", "530010８", "530010x", "530010A", "53001A8", "5300118", "53001",
)  # fmt: skip
_MUNICIPIO_6: tuple[Value, ...] = (
    None, "", "530010", "530010\r", "110001", "355030", "172100", "520870", "5300108", "000000", "030010", "630010", "110001.0",
    "530010\n", "530010 ", " 530010", "53001０", "５30010", "53001", "53", "5", "%", "53%", "______", "530_10", "\\",
    "5.0010", "[5]30010",
)  # fmt: skip

# Values to try in each column, the ones that keep a rule among them.
POOLS: dict[str, tuple[Value, ...]] = {
    "co_documento": (
        None, None, "", "", " ", "a-i0b0", "A-i0b0", "á-i0b0", "a\u0301-i0b0", "a-i0b0 ", " a-i0b0", "a-i0b0\n",
        "a-i0b0\r\n", "\na-i0b0", "a-i0b0\u2028", "a-i0b0\x00", "a\x00-i0b0", "line\nbreak-i0b0", "a-i０b0", "a-i٠b0",
        "a-I0B0", "ａ-i0b0", "\u212a-i0b0", "\u017f-i0b0", "-a-i0b0", ".a-i0b0", "a.-i0b0", "a-i0b0-i0b0", "a-i123b123",
        "a-i1234b0", "a-i0b1234", "a-ib0", "a-i0b", "a-i-1b0", "no-suffix", "with space-i0b0", "under_score-i0b0",
        "a" * 63 + "-i0b0", "a" * 64 + "-i0b0", "a" * 65 + "-i0b0", "twice-i0b0", "thrice-i0b0", "0-i0b0", "00-i0b0",
    ),
    "co_paciente": (
        None, None, "", "", " ", _HEX, _HEX.upper(), _HEX[:-1], _HEX + "0", _HEX + "\n", " " + _HEX[1:], _HEX[:-1] + "g",
        _HEX[:-1] + "８", _HEX[:-1] + "ａ", "700000000000005", "1" * 64, "2" * 64, "3" * 64, "1" * 63, "1" * 65,
    ),
    "tp_sexo_paciente": ("F", "M", "M", "M", "I", "m", "M ", " M", "M\n", "Ｍ", "\u041c", "Masculino", "", None),
    "co_municipio_paciente": _MUNICIPIO_6,
    "co_ibge_municipio_paciente": _MUNICIPIO_7,
    "co_cnes_estabelecimento": (
        None, "", " ", "       ", "0000001", "1234567", "12345", "12345678", "12345A7", "１２３４５６７", "123456７",
        "٠١٢٣٤٥٦", "1234567\n", "1234567\r", "1234567 ", " 1234567", "\n1234567", "+123456", "-123456", "12345.7",
        "123456²", "1234567\x00",
    ),
    "no_fantasia_estalecimento": ("UBS", "", " ", None),
    "co_municipio_estabelecimento": _MUNICIPIO_6,
    "co_ibge_municipio_estabelecimento": _MUNICIPIO_7,
    "no_municipio_estabelecimento": ("OLINDA", "", " ", None),
    "sg_uf_estabelecimento": (
        *(sigla for sigla, _ in UF_CODES), None, None, "", " ", "df", "Df", "DF ", " DF", "DF\n", "ＤＦ", "D\u0191", "XX",
        "EX", "BR", "D", "DFDF", "DF,GO", "DF\x00",
    ),
    "no_uf_estabelecimento": ("ACRE", "", " ", None),
    "in_co_uf_estabelecimento": (
        *(code for _, code in UF_CODES), None, None, "", "5", "053", "53 ", " 53", "53\n", "５３", "%", "5_", "53%", "5.",
        "[5]3", "\\", "530010", "530010\n", "5300100", "11", "35",
    ),
    "co_vacina": (
        "1", "33", "15", "15", "118", "96", "0", "015", "000015", "123456", None, None, "", " ", "1234567", "0000015",
        "15 ", " 15", "15\n", "15\x00", "１５", "１", "٣٣", "²", "𝟙", "-1", "+1", "1.0", "1e3", "0x1", "ABC", "1A", "A",
    ),
    "sg_vacina": _NAME,
    "dt_vacina": _EDGE_DATES,
    "co_dose_vacina": (
        "1", "8", "9", "39", *(str(code) for code in range(58, 84)), "059", "590", "5", "6", "777", "123456", "1234567",
        None, None, "", " ", "1 ", " 59", "59 ", "59\n", "1\n", "５９", "5９", "٥٩", "59.0", "D1", "1A", "-1", "59\x00",
    ),
    "ds_dose_vacina": _NAME,
    "co_local_aplicacao": ("1", "777", "", " ", None),
    "ds_local_aplicacao": _NAME,
    "co_via_administracao": ("1", "777", "", " ", None),
    "ds_via_administracao": _NAME,
    "co_lote_vacina": (
        None, None, "", "", " ", "   ", "X1", "4120Z005", 'AB-12/3 (ção) "x"; $1 %s \\', "A" * 29, "A" * 30, "A" * 31,
        "A" * 100, " " * 30, " " * 31, "é" * 30, "é" * 31, "e\u0301" * 15, "e\u0301" * 15 + "e", "e\u0301" * 16,
        "😀" * 30, "😀" * 31, _FAMILY * 6, _FAMILY * 7, "A" * 29 + "\n", "A" * 30 + "\n", "A\nB", "A\n", "\nA", "\n",
        "A\tB", "A\r\nB", "A\x00B", "\x00", "A\x01", "A\x1fB", "A B", "A\x7f", "A~", "A\x80", "A\x85B", "A\x9f", "A\xa0B",
        "A\xad", "A\u2027B", "A\u2028B", "A\u2029", "A\u202aB", "A\u200bB", "\ufeffA", "A\x1b[0m", "A\x0b", "A\x0c",
        "\\n", "A\\x85B", "\\u2028", ":cntrl:", "cntrl", "^$", "u2028", "x809f", "Sem lote", "N/I", "não informado",
        "000-0", "---", "NULL", "\U0010ffff", "\uffff",
    ),
    "dt_validade_lote": _EDGE_DATES,
    "co_vacina_fabricante": ("149", "33781055006761", "", " ", None),
    "ds_vacina_fabricante": _NAME,
    "dt_entrada_rnds": _INSTANTS,
    "dt_registro_origem": _INSTANTS,
    "co_sistema_origem": ("1", "", " ", None),
    "st_documento": (
        "final", "final", None, "", " ", "Final", "FINAL", "final ", " final", "final\n", "ﬁnal", "fin\u0430l",
        "final\x00", "entered-in-error", "preliminary", "amended",
    ),
    "co_estrategia_vacinacao": ("1", "7", "7", "7", "07", "7 ", " 7", "7\n", "７", "77", "0", "777", "", " ", None),
    "ds_estrategia_vacinacao": _NAME,
    "co_origem_registro": ("01", "02", "02", "02", "2", "002", "02 ", " 02", "02\n", "０２", "99", "", " ", None),
    "ds_origem_registro": _NAME,
    "co_vacina_grupo_atendimento": (
        "001801", "001801", "001901", "001901", "1801", "1901", "001801 ", " 001901", "001801\n", "００１８０１", "0018010",
        "000201", "000210", "004242", "001801,001901", "", " ", None,
    ),
    "ds_vacina_grupo_atendimento": _NAME,
    "co_vacina_categoria_atendimento": ("2", "", " ", None),
    "co_condicao_maternal": ("1", "2", "2", "3", "3", "02", "2 ", "3 ", " 2", " 3", "2\n", "3\n", "２", "23", "2,3", "777", "", " ", None),
    "ds_condicao_maternal": _NAME,
    "co_tipo_estabelecimento": ("2", "", " ", None),
    "co_natureza_estabelecimento": ("1", "", " ", None),
    "nu_idade_paciente": (None, -(2**31), -1, 0, 1, 12, 17, 18, 119, 120, 121, 999, 2**31 - 1),
    "st_contato_hanseniase": ("S", "N", "", " ", None, None, None),
    "co_pais_aplicacao": ("10", "10", "10", "21", "076", "BR", "010", "10 ", " 10", "10\n", "１０", "1", "", " ", None),
    "in_id_paciente_valido": _FLAG,
    "in_vacina_antes_nascimento": _FLAG,
    "in_transcricao": _SWITCH,
    "in_carga": _SWITCH,
    "in_qt_dias_atraso": (None, -(2**31), -3, 0, 730, 731, 732, 9000, 2**31 - 1),
    "in_st_imunizacao": (
        "completed", "completed", None, None, "", " ", "Completed", "COMPLETED", "completed ", " completed", "completed\n",
        "ｃompleted", "c\u043empleted", "not-done", "entered-in-error", "?",
    ),
    "in_vacina_categoria": (
        "Vacina", "Vacina", "Soro", "Imunoglobulina", "Anticorpo Monoclonal", "Diluente", "Diluente", "vacina", "VACINA",
        "Vacina ", " Vacina", "Vacina\n", "soro", "Soro\t", "diluente", "Diluente ", "Diluentes", "Anticorpo  Monoclonal",
        "Anticorpo\xa0Monoclonal", "Anticorpo", "Ｖacina", "Outros", "", " ", None, None,
    ),
    "in_vacina_ativa": _ACTIVE,
    "in_estrategia_ativa": _ACTIVE,
    "in_grupo_ativo": _ACTIVE,
    "in_pais_aplicacao_conhecido": _FLAG,
    "in_fabricante_informado": _FLAG,
    "in_fabricante_divergente": _FLAG,
    "in_fabricante_texto_conhecido": _FLAG,
    "in_idade_no_grupo": _FLAG,
    "in_lote_normalizado": (
        None, "", "", "A1", "X1", "A" * 31, "SEMLOTE", "SEMREGISTRO", "SEMINFORMACAO", "SEMINF", "SL", "SN", "SR",
        "NAOINFORMADO", "NAOINFORMADA", "NAOIDENTIFICADO", "NAOCONSTA", "NAOTEM", "NAOSEI", "NI", "NA", "ND", "NC", "NT",
        "NENHUM", "IGNORADO", "DESCONHECIDO", "INDISPONIVEL", "LOTE", "TESTE", "NULL", "NULO", "NONE", "UNDEFINED", "X",
        "XX", "XXX", "XXXX", "XXXXX", "XXXXXX", "0", "00", "000", "0000", "00000", "000000", "0000000", "O", "OO", "NAN",
        "semlote", "SEM LOTE", "SEMLOTE ", " SEMLOTE", "SEMLOTE\n", "LOTE1", "NÃOINFORMADO", "NAOINFORMADOS", "a1",
        "A-1", "A1\n", "Ａ1", "Á", "A١", "Z", "9", "[", "@", " ", "`", "A\x00",
    ),
    "in_lote_identificador": _FLAG,
    "in_qt_dias_validade": (None, -(2**31), -400, -1, 0, 3652, 3653, 3654, 80000, 2**31 - 1),
    "in_qt_dias_registro": (None, -(2**31), -3, -2, -1, 0, 1, 400, 2**31 - 1),
}  # fmt: skip

_COLUMNS = tuple(POOLS)

# Columns that one rule reads together: they are moved together, so that narrow conditions are met often.
_GROUPS: tuple[tuple[str, ...], ...] = (
    ("co_documento",),
    ("co_paciente", "co_vacina", "dt_vacina", "co_dose_vacina"),
    ("co_cnes_estabelecimento", "in_id_paciente_valido", "in_lote_identificador"),
    ("co_municipio_estabelecimento", "in_co_uf_estabelecimento", "sg_uf_estabelecimento"),
    ("co_municipio_estabelecimento", "co_ibge_municipio_estabelecimento"),
    ("co_municipio_paciente", "co_ibge_municipio_paciente"),
    ("no_municipio_estabelecimento", "no_uf_estabelecimento"),
    ("dt_vacina", "dt_validade_lote"),
    ("dt_vacina", "in_transcricao", "in_carga"),
    ("in_qt_dias_atraso", "in_transcricao", "in_carga"),
    ("in_qt_dias_validade", "in_qt_dias_registro", "nu_idade_paciente"),
    ("in_vacina_antes_nascimento", "in_idade_no_grupo", "in_pais_aplicacao_conhecido"),
    ("co_vacina", "sg_vacina"),
    ("co_dose_vacina", "ds_dose_vacina"),
    ("co_local_aplicacao", "ds_local_aplicacao"),
    ("co_via_administracao", "ds_via_administracao"),
    ("co_estrategia_vacinacao", "ds_estrategia_vacinacao"),
    ("co_vacina_grupo_atendimento", "ds_vacina_grupo_atendimento"),
    ("co_vacina_fabricante", "ds_vacina_fabricante"),
    ("co_condicao_maternal", "ds_condicao_maternal"),
    ("co_origem_registro", "ds_origem_registro"),
    ("co_lote_vacina", "in_transcricao"),
    ("co_lote_vacina", "in_lote_normalizado"),
    ("in_vacina_ativa", "in_transcricao"),
    ("in_estrategia_ativa", "in_transcricao", "in_carga"),
    ("in_grupo_ativo", "in_transcricao", "in_carga"),
    ("in_fabricante_informado", "in_transcricao"),
    ("in_fabricante_divergente", "in_fabricante_texto_conhecido"),
    ("co_estrategia_vacinacao", "in_vacina_categoria"),
    ("co_dose_vacina", "in_vacina_categoria"),
    ("co_vacina_grupo_atendimento", "co_condicao_maternal"),
    ("co_condicao_maternal", "tp_sexo_paciente"),
    ("co_vacina_grupo_atendimento", "tp_sexo_paciente"),
    ("co_vacina", "st_contato_hanseniase", "in_transcricao", "in_carga"),
    ("co_origem_registro", "co_pais_aplicacao"),
    ("dt_entrada_rnds", "dt_registro_origem"),
    ("st_documento", "in_st_imunizacao"),
)

# Every pair of UF and municipality codes that belong together, for rows that keep the rules elsewhere than in DF.
_PLACES: tuple[dict[str, Value], ...] = tuple(
    {
        "sg_uf_estabelecimento": sigla,
        "in_co_uf_estabelecimento": code,
        "co_municipio_estabelecimento": f"{code}0010",
        "co_ibge_municipio_estabelecimento": f"{code}00108",
    }
    for sigla, code in UF_CODES
)
_DOSES_OF_VACCINE: tuple[tuple[dict[str, Value], tuple[str, ...]], ...] = (
    ({"in_vacina_categoria": "Vacina"}, ("co_dose_vacina",)),
)
# Rows that meet a narrow condition, with the judged column moved.
_NARROW: tuple[tuple[dict[str, Value], tuple[str, ...]], ...] = (
    ({"co_estrategia_vacinacao": "7"}, ("in_vacina_categoria",)),
    *_DOSES_OF_VACCINE * 4,
    ({"co_vacina_grupo_atendimento": "001801"}, ("co_condicao_maternal", "tp_sexo_paciente")),
    ({"co_vacina_grupo_atendimento": "001901"}, ("co_condicao_maternal", "tp_sexo_paciente")),
    ({"co_condicao_maternal": "2"}, ("tp_sexo_paciente", "co_vacina_grupo_atendimento")),
    ({"co_condicao_maternal": "3"}, ("tp_sexo_paciente", "co_vacina_grupo_atendimento")),
    ({"co_vacina": "15"}, ("st_contato_hanseniase", "in_transcricao", "in_carga")),
    ({"co_vacina": "15", "st_contato_hanseniase": None}, ("in_transcricao", "in_carga")),
    ({"co_origem_registro": "02"}, ("co_pais_aplicacao",)),
    ({"in_transcricao": None}, ("in_carga", "in_vacina_ativa", "in_estrategia_ativa", "co_lote_vacina")),
    ({"in_vacina_categoria": "Diluente"}, ()),
    ({"in_vacina_categoria": "Soro", "co_estrategia_vacinacao": "7"}, ()),
    ({"co_condicao_maternal": "2", "co_vacina_grupo_atendimento": "001801"}, ()),
    ({"co_condicao_maternal": "3", "co_vacina_grupo_atendimento": "001901"}, ()),
    ({"tp_sexo_paciente": "M", "co_vacina_grupo_atendimento": "001801", "co_condicao_maternal": "2"}, ()),
    ({"co_pais_aplicacao": "10", "co_origem_registro": "02"}, ()),
    ({"sg_uf_estabelecimento": "DF", "in_co_uf_estabelecimento": "53"}, ()),
    ({"co_lote_vacina": None}, ("in_transcricao", "in_lote_normalizado")),
)
_WIDE = {chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)}
_ASCII = string.ascii_letters + string.digits + " .-_/:%*"
# What a careless reader does not see, done to the good and the bad values of a column alike.
_DISFIGURE: tuple[Callable[[str], str], ...] = (
    str.upper,
    str.swapcase,
    lambda text: text + " ",
    lambda text: " " + text,
    lambda text: text + "\n",
    lambda text: text + "\r",
    lambda text: "\n" + text,
    lambda text: text + "\x00",
    lambda text: text + "\u0301",
    lambda text: text[:1] + "\u0301" + text[1:],
    lambda text: unicodedata.normalize("NFC", text[:1] + "\u0301") + text[1:],
    lambda text: text.replace(" ", "\xa0"),
    lambda text: "0" + text,
    lambda text: "".join(_WIDE.get(character, character) for character in text),
    lambda text: text + text[-1:],
    lambda text: text[:-1],
    lambda text: text[1:],
)
_DUPLICATE_KEY = ("co_paciente", "co_vacina", "dt_vacina", "co_dose_vacina")


def make_rows(count: int, *, seed: int) -> Iterator[dict[str, Value]]:
    """Yield `count` rows, the same ones for the same seed."""
    rng = random.Random(seed)
    earlier: list[dict[str, Value]] = []
    for number in range(count):
        row = BASE.copy()
        row["co_documento"] = f"d{number}-i0b0"
        row["co_paciente"] = f"{number:064x}"
        row.update(_pick(rng, _PLACES))
        _vary(row, rng)
        if earlier and rng.random() < 0.06:
            _repeat_a_key(row, _pick(rng, earlier), rng)
        if len(earlier) < 500:
            earlier.append(row)
        elif rng.random() < 0.02:
            earlier[int(rng.random() * 500)] = row
        yield row


def _vary(row: dict[str, Value], rng: random.Random) -> None:
    """Move one column, the columns of a rule or of a few, many columns at once, or nothing."""
    kind = rng.random()
    if kind < 0.2:
        column = _pick(rng, _COLUMNS)
        row[column] = _pick(rng, POOLS[column])
    elif kind < 0.35:
        for column in _pick(rng, _GROUPS):
            if rng.random() < 0.6:
                row[column] = _pick(rng, POOLS[column])
            _disfigure(row, column, rng)
    elif kind < 0.7:
        for column in itertools.chain(*(_pick(rng, _GROUPS) for _ in range(1 + int(rng.random() * 3)))):
            if rng.random() < 0.85:
                row[column] = _pick(rng, POOLS[column])
    elif kind < 0.85:
        share = rng.random()
        for column in _COLUMNS:
            if rng.random() < share:
                row[column] = _pick(rng, POOLS[column])
    elif kind < 0.97:
        fixed, columns = _pick(rng, _NARROW)
        for column in columns:
            row[column] = _pick(rng, POOLS[column])
        row.update(fixed)
        if rng.random() < 0.5:
            _disfigure(row, _pick(rng, (*fixed, *columns)), rng)


def _disfigure(row: dict[str, Value], column: str, rng: random.Random) -> None:
    value = row[column]
    if isinstance(value, str):
        row[column] = _disfigured(value, rng)


def _disfigured(text: str, rng: random.Random) -> str:
    if text and rng.random() < 0.4:
        place = int(rng.random() * len(text))
        return text[:place] + _pick(rng, _ASCII) + text[place + 1 :]
    return _pick(rng, _DISFIGURE)(text)


def _repeat_a_key(row: dict[str, Value], other: dict[str, Value], rng: random.Random) -> None:
    """Give the row a key of an earlier one, or one that differs from it in one detail."""
    columns = ("co_documento",) if rng.random() < 0.5 else _DUPLICATE_KEY
    for column in columns:
        row[column] = other[column]
    detail = rng.random()
    if detail < 0.1:
        # Together the two texts stay what they were.
        front, back = row["co_paciente"], row["co_vacina"]
        if isinstance(front, str) and isinstance(back, str):
            row["co_paciente"], row["co_vacina"] = front[:-1], front[-1:] + back
    elif detail < 0.5:
        column = _pick(rng, columns)
        value = row[column]
        if isinstance(value, str):
            row[column] = _pick(rng, (None, "", _disfigured(value, rng)))
        elif isinstance(value, datetime.date):
            row[column] = _pick(rng, (None, value, datetime.date(2026, 3, 11)))


def _pick(rng: random.Random, values: Sequence[T]) -> T:
    return values[int(rng.random() * len(values))]

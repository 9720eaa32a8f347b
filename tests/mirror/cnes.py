"""The demonstration snapshot of the CNES: fictional establishments in the layout of the official monthly base.

One zip `BASE_DE_DADOS_CNES_AAAAMM.ZIP` with one member `tbEstabelecimentoAAAAMM.csv` (Latin-1, `;`, every value quoted, the
columns of `tbEstabelecimento` in the official order). Same arguments, same bytes. The simulator reads its establishments from
the same file that the product imports, so a CNES that a document names is known or unknown on purpose, never by accident.
"""

from __future__ import annotations

import csv
import io
import random
import re
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[2]
REFERENCE: Final = PROJECT / "include" / "reference"
SNAPSHOT: Final = REFERENCE / "cnes" / "BASE_DE_DADOS_CNES_202602.ZIP"
LAYOUT: Final = REFERENCE / "cnes_layout" / "tbEstabelecimento.csv"
MUNICIPIOS: Final = REFERENCE / "ibge" / "ibge_municipios.csv"

COMPETENCE: Final = "202602"
SEED: Final = 20260226
ESTABLISHMENTS: Final = 18_000
TAIL: Final = 0.85
"""Establishments and doses of the municipality of rank r go with r ** -TAIL."""

FIXED: Final = (("0000019", "530010"), ("0000027", "355030"), ("0000035", "220191"))
"""Establishments that examples and tests name; 220191 is one of nine municipalities whose IBGE check digit breaks the rule."""
ABSENT: Final = "0123456"
"""CNES of the official example documents. It and every 99xxxxx stay out of the snapshot: the unknown CNES."""
FIRST_ABSENT: Final = 9_900_000

ADMINISTRATIVE_REGIONS: Final = ("530040", "530050", "530070")
"""Regions of the Distrito Federal that the CNES writes where a municipality belongs (seen: 530040, Ceilândia)."""
MALFORMED_MANAGERS: Final = 12
"""Establishments managed by the state: CO_MUNICIPIO_GESTOR holds the two digits of the UF."""
DEACTIVATED_SHARE: Final = 0.09
"""Of the establishments beyond the fourth of a municipality, so that every municipality keeps an active one."""
DEACTIVATION_REASONS: Final = ("01", "02", "05", "09", "10")
ZIP_DATE: Final = (2026, 2, 26, 0, 0, 0)

LARGEST: Final = (
    "355030",
    "330455",
    "530010",
    "230440",
    "292740",
    "310620",
    "130260",
    "410690",
    "261160",
    "520870",
    "431490",
    "150140",
    "351880",
    "350950",
    "211130",
    "270430",
    "500270",
    "330490",
    "221100",
    "250750",
    "330170",
    "330350",
    "354870",
    "240810",
    "354780",
    "355220",
    "317020",
    "354340",
    "354990",
    "510340",
    "260790",
    "353440",
    "420910",
    "291080",
    "280030",
    "311860",
    "411370",
    "110020",
    "320500",
    "420540",
    "160030",
    "140010",
    "120040",
    "320530",
    "172100",
)
"""The biggest municipalities by population (IBGE, Censo 2022) and the remaining capitals, biggest first."""

# TP_UNIDADE, CO_TIPO_ESTABELECIMENTO, CO_NATUREZA_JUR, name, weight
_TYPES: Final = (
    ("02", "001", "1244", "UBS FICTICIA", 70),
    ("01", "001", "1244", "POSTO DE SAUDE FICTICIO", 11),
    ("05", "006", "1244", "HOSPITAL MUNICIPAL FICTICIO", 6),
    ("04", "", "1244", "POLICLINICA FICTICIA", 5),
    ("36", "", "2062", "CLINICA DE VACINAS FICTICIA", 6),
    ("07", "006", "3999", "HOSPITAL BENEFICENTE FICTICIO", 2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Establishment:
    """One establishment as the simulator needs it. Geography is the municipality in which it stands."""

    cnes: str
    municipio: str
    """IBGE code, 6 digits; 530010 for all of the Distrito Federal."""
    name: str
    unit_type: str
    active: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Municipio:
    """One municipality of the IBGE table."""

    code: str
    """6 digits."""
    name: str
    """Upper case, without accents, as registries write it."""
    uf: str


def municipality_order(codes: Sequence[str]) -> list[str]:
    """Rank municipalities: the largest first, the rest in a fixed order that follows neither code nor state."""
    known = set(codes)
    first = [code for code in LARGEST if code in known]
    rest = sorted(known.difference(first), key=lambda code: sha256(code.encode()).digest())
    return first + rest


def read_municipios(path: Path = MUNICIPIOS) -> dict[str, Municipio]:
    """Read the IBGE table, by 6-digit code."""
    with path.open(encoding="utf-8", newline="") as file:
        return {
            row["co_ibge_6"]: Municipio(code=row["co_ibge_6"], name=plain(row["no_municipio"]), uf=row["sg_uf"])
            for row in csv.DictReader(file)
        }


def plain(text: str) -> str:
    """Upper case without accents."""
    decomposed = unicodedata.normalize("NFD", text)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter)).upper()


def header(layout: Path = LAYOUT) -> list[str]:
    """Columns of `tbEstabelecimento` as the official file writes them: three dates carry the expression that made them."""
    with layout.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["ordem_base_1"]))
    names = []
    for row in rows:
        expression = re.search(r"cabeçalho é (\S+)$", row["observacao"])
        names.append(expression.group(1) if expression else row["coluna"])
    return names


def build_snapshot(*, seed: int = SEED, competence: str = COMPETENCE) -> bytes:
    """Make the zip. The same arguments give the same bytes (with the same zlib)."""
    text = io.StringIO()
    columns = header()
    writer = csv.DictWriter(
        text, columns, restval="", delimiter=";", quoting=csv.QUOTE_ALL, lineterminator="\r\n", extrasaction="raise"
    )
    writer.writeheader()
    writer.writerows(_rows(seed))
    member = zipfile.ZipInfo(f"tbEstabelecimento{competence}.csv", date_time=ZIP_DATE)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.create_system = 3
    member.external_attr = 0o644 << 16
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(member, text.getvalue().encode("latin-1"), compresslevel=9)
    return target.getvalue()


def read_snapshot(path: Path = SNAPSHOT) -> list[Establishment]:
    """Read the establishments of a snapshot, in file order. The municipality comes from the prefix of CO_UNIDADE."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there. Make it with: python -m tests.mirror cnes --out {path}")
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.startswith("tbEstabelecimento"))
        text = archive.read(name).decode("latin-1")
    found = []
    for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=";"):
        prefix = row["CO_UNIDADE"][:6]
        found.append(
            Establishment(
                cnes=row["CO_CNES"],
                municipio="530010" if prefix.startswith("53") else prefix,
                name=row["NO_FANTASIA"],
                unit_type=row["TP_UNIDADE"],
                active=not row["CO_MOTIVO_DESAB"],
            )
        )
    return found


def by_municipio(establishments: Sequence[Establishment]) -> list[tuple[str, list[int]]]:
    """Group positions of `establishments` by municipality, heaviest municipality first (most establishments first)."""
    groups: dict[str, list[int]] = defaultdict(list)
    for position, establishment in enumerate(establishments):
        groups[establishment.municipio].append(position)
    rank = {code: place for place, code in enumerate(municipality_order(list(groups)))}
    return sorted(groups.items(), key=lambda group: (-len(group[1]), rank[group[0]]))


def _counts(ranked: Sequence[str]) -> dict[str, int]:
    weights = [rank**-TAIL for rank in range(1, len(ranked) + 1)]
    share = (ESTABLISHMENTS - len(ranked)) / sum(weights)
    return {code: 1 + round(share * weight) for code, weight in zip(ranked, weights, strict=True)}


def _numbers(rng: random.Random, amount: int) -> list[str]:
    """Unique CNES numbers; four in ten are old, short ones with leading zeros."""
    taken = {int(cnes) for cnes, _ in FIXED} | {int(ABSENT)}
    short = rng.sample(range(100, 1_000_000), amount * 4 // 10 + len(taken))
    long = rng.sample(range(2_000_000, FIRST_ABSENT), amount)
    numbers = [number for number in short + long if number not in taken][:amount]
    rng.shuffle(numbers)
    return [f"{number:07d}" for number in numbers]


def _rows(seed: int) -> Iterator[dict[str, str]]:
    municipios = read_municipios()
    ranked = municipality_order(list(municipios))
    counts = _counts(ranked)
    rng = random.Random(seed)
    numbers = iter(_numbers(rng, sum(counts.values())))
    managed_by_state = set(rng.sample(ranked[3:200], MALFORMED_MANAGERS - 1)) | {"530010"}
    fixed = {municipio: cnes for cnes, municipio in FIXED}
    for code in sorted(ranked):
        municipio = municipios[code]
        for place in range(counts[code]):
            unit, kind, nature, title, _ = (
                rng.choices(_TYPES, [entry[4] for entry in _TYPES])[0] if place else _TYPES[0]
            )
            prefix = ADMINISTRATIVE_REGIONS[place - 1] if code == "530010" and 1 <= place <= 3 else code
            cnes = fixed[code] if code in fixed and place == 0 else next(numbers)
            yield {
                "CO_UNIDADE": prefix + cnes,
                "CO_CNES": cnes,
                "NO_RAZAO_SOCIAL": f"ENTIDADE FICTICIA DE {municipio.name}"[:60],
                "NO_FANTASIA": f"{title} {place + 1} {municipio.name}"[:60],
                "TP_UNIDADE": unit,
                "CO_ESTADO_GESTOR": code[:2],
                "CO_MUNICIPIO_GESTOR": _manager(code, place, prefix, managed_by_state),
                "CO_MOTIVO_DESAB": (
                    rng.choice(DEACTIVATION_REASONS) if place > 3 and rng.random() < DEACTIVATED_SHARE else ""
                ),
                "CO_NATUREZA_JUR": nature,
                "CO_TIPO_ESTABELECIMENTO": kind,
            }


def _manager(code: str, place: int, prefix: str, managed_by_state: set[str]) -> str:
    if code in managed_by_state and place == 4:
        return code[:2]
    return prefix if place == 1 else code

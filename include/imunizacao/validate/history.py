"""What a day is compared with: the counts of the same weekdays before it, kept in the private bucket. Counts only, never a row.

A day that may be published leaves its counts at `v1/profiles/day=D.json`; the days D+7 to D+28 read them. They only help to decide
whether a day is published: nothing that is published is made of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import msgspec

from imunizacao.errors import ContractViolation
from imunizacao.events import log_event
from imunizacao.reference_day import ReferenceDay
from imunizacao.sql import Engine
from imunizacao.storage import ObjectStore

PROFILES: Final = "v1/profiles/"
WEEKS: Final = (7, 14, 21, 28)
"""Days back to the same weekdays that are looked at."""
SCHEMA: Final = "imunizacao.profile/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The doses of a day that reached the rules, counted."""

    schema: str
    day: str
    doses: int
    counts: dict[str, dict[str, int]]
    """`uf`, `vacina`, `estrategia`, `dose` → code → doses; `-` = no code, `?` = a code that its table does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The profiles that were found, and the identity of what was looked for."""

    profiles: tuple[Profile, ...]
    missing: tuple[str, ...]
    """Days without a profile: never made, or held."""
    sha256: str

    @property
    def text(self) -> str:
        """How much there was to compare with, in Portuguese: for reports and notes."""
        found = f"histórico: {len(self.profiles)} de {len(self.profiles) + len(self.missing)} dias"
        return f"{found}; sem contagem: {', '.join(self.missing)}" if self.missing else found


NO_HISTORY: Final = History(profiles=(), missing=(), sha256=hashlib.sha256(b"").hexdigest())


def profile_key(day: str) -> str:
    """Where the counts of a day (`YYYY-MM-DD`) are in the work bucket."""
    return f"{PROFILES}day={day}.json"


def read_history(work: ObjectStore, day: ReferenceDay) -> History:
    """The profiles of the same weekday in the four weeks before; a damaged one is a `ContractViolation`."""
    profiles: list[Profile] = []
    missing: list[str] = []
    digest = hashlib.sha256()
    for back in WEEKS:
        before = (day.value - timedelta(days=back)).isoformat()
        stored = work.get_or_none(profile_key(before))
        found = None if stored is None else _read(stored.body, before)
        if stored is None or found is None:
            missing.append(before)
            digest.update(f"{before}\0-\n".encode())
        else:
            profiles.append(found)
            digest.update(f"{before}\0{hashlib.sha256(stored.body).hexdigest()}\n".encode())
    return History(profiles=tuple(profiles), missing=tuple(missing), sha256=digest.hexdigest())


def put_profile(work: ObjectStore, profile: Profile) -> None:
    """Keep the counts of a day for the weeks after it; the same day again replaces them."""
    body = msgspec.json.encode(profile, order="deterministic")
    work.put(profile_key(profile.day), body, content_type="application/json")


def load_history(duck: Engine, profiles: Sequence[Profile]) -> None:
    """Make the tables `historico_dia` and `historico_contagem` that the summaries are compared with."""
    rows = [
        (profile.day, dimension, code, count)
        for profile in profiles
        for dimension, counts in profile.counts.items()
        for code, count in counts.items()
    ]
    duck.run(
        "validate/02_historico_dia",
        dias=[profile.day for profile in profiles],
        doses=[str(profile.doses) for profile in profiles],
    )
    duck.run(
        "validate/03_historico_contagem",
        dias=[row[0] for row in rows],
        dimensoes=[row[1] for row in rows],
        codigos=[row[2] for row in rows],
        doses=[str(row[3]) for row in rows],
    )


def profile_of(duck: Engine, day: ReferenceDay, doses: int) -> Profile:
    """The profile of the day whose `contagem` is in `duck`."""
    counts: dict[str, dict[str, int]] = {}
    for dimension, code, count in duck.rows("validate/05_contagem_rows"):
        counts.setdefault(str(dimension), {})[str(code)] = int(count)
    return Profile(schema=SCHEMA, day=str(day), doses=doses, counts=counts)


def _read(body: bytes, day: str) -> Profile | None:
    """A stored profile, or None when it is of another version of the code."""
    key = profile_key(day)
    try:
        head = msgspec.json.decode(body, type=dict[str, object])
        if head.get("schema") != SCHEMA:
            log_event("validate.profile_of_other_schema", key=key, schema=str(head.get("schema"))[:40])
            return None
        profile = msgspec.json.decode(body, type=Profile)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise _damaged(key, type(error).__name__) from error
    if profile.day != day or profile.doses < 0 or any(count < 0 for count in _counts(profile.counts)):
        raise _damaged(key, "another day or a negative count")
    return profile


def _counts(counts: Mapping[str, Mapping[str, int]]) -> list[int]:
    return [count for codes in counts.values() for count in codes.values()]


def _damaged(key: str, what: str) -> ContractViolation:
    return ContractViolation(
        f"{key} in the work bucket is damaged ({what}): the day cannot be compared with it. Nothing was published. Delete the object "
        "(a new run of that day writes it again), then run the task again; see docs/runbook/day-held.md."
    )

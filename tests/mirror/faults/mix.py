"""`mix:<seed>`: one number for a mix of faults."""

from __future__ import annotations

import random
from typing import Final

from tests.mirror.faults.base import BadScenario, whole

PASSING: Final[tuple[tuple[float, tuple[str, ...]], ...]] = (
    (0.25, ("http-5xx:0.05", "http-5xx:0.2", "http-5xx:0.5")),
    (0.15, ("http-5xx-page:1:1", "http-5xx-page:1:3", "http-5xx-page:2:2", "http-5xx-page:3:1")),
    (0.10, ("refuse:1", "refuse:2", "refuse:7")),
    (0.15, ("reset:0.05", "reset:0.3")),
    (0.15, ("http-429-huge", "http-429-negative", "http-429-absent", "http-429-garbage")),
    (0.03, ("timeout:1", "timeout:2")),
    (0.02, ("stall:1", "stall:2")),
    (0.01, ("slow-loris:1", "slow-loris:2")),
    (0.12, ("truncated:1:1", "truncated:2:2", "truncated:3:2")),
    (0.08, ("html-200:1:1", "html-200:2:2")),
    (0.06, ("wrong-type:1:1", "wrong-type:2:2")),
    (0.08, ("wrong-length:1:more:1", "wrong-length:2:less:2")),
    (0.08, ("gzip-broken:1:1", "gzip-broken:2:2")),
    (0.10, ("duplicate-page:1", "duplicate-page:2")),
    (0.15, ("next-long", "next-relative", "next-after-last")),
    (0.10, ("token-expired:1", "token-expired:2")),
    (0.10, ("clock-skew:300", "clock-skew:-300", "clock-skew:3")),
)
"""Faults that pass, with their probabilities: each group gives at most one."""

POISON: Final[tuple[tuple[float, tuple[str, ...]], ...]] = (
    (0.02, ("huge:1", "huge:17")),
    (0.08, ("deep:130", "deep:5000", "deep:200000")),
    (0.10, ("surrogate:1", "surrogate:4")),
    (0.10, ("nul:1", "nul:4")),
    (0.10, ("bad-utf8:1", "bad-utf8:3")),
    (0.10, ("bad-json:1", "bad-json:3")),
    (0.15, ("same-id:1", "same-id:5")),
    (0.08, ("cycle:1", "cycle:2")),
    (0.05, ("replaces-unknown:2",)),
    (0.08, ("error-chain:1", "error-chain:3")),
)
"""Documents that are odd in themselves: each group gives at most one."""

MOVING: Final = (0.25, ("drift:1", "drift:4", "drift-out:1", "drift-out:3", "offset-paging"))
"""At most one: a document that enters and one that leaves during the same walk cancel out in every total."""

LYING: Final = (
    0.22,
    (
        *("lost-page:1", "lost-page:2", "wrong-total:-1", "wrong-total:2", "cap:5", "drift-always"),
        *(
            "next-self:1",
            "next-self:2",
            "next-cycle:1",
            "next-endless:1",
            "next-endless:2",
            "next-foreign:1",
            "next-foreign:2",
        ),
        *(
            "http-5xx-page:1",
            "http-5xx-page:2",
            "truncated:1",
            "truncated:2",
            "html-200:2",
            "wrong-type:1",
            "gzip-broken:2",
        ),
        *("wrong-length:1:less", "wrong-length:2:more"),
    ),
)
"""At most one, for the same reason: most of them cannot be survived, and must not pass for a whole day either."""


def describe(seed: int) -> tuple[str, ...]:
    """The scenarios of `mix:<seed>`. The same number gives the same mix; there is always at least one fault."""
    chance = random.Random(f"mix|{seed}")
    found = [
        chance.choice(choices)
        for probability, choices in (*PASSING, *POISON, MOVING, LYING)
        if chance.random() < probability
    ]
    return tuple(found) or (chance.choice(PASSING[0][1]),)


def read_mix(argument: str) -> tuple[int, tuple[str, ...]]:
    """The seed of a mix and its scenarios."""
    if not argument:
        raise BadScenario("a mix needs a number, like mix:42")
    seed = whole(argument)
    return seed, describe(seed)

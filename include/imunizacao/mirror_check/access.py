"""Can the mirror be reached, does it know us, and what does it say of itself."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from imunizacao.fhir.auth import SKEW_SECONDS
from imunizacao.fhir.capability import WAYS, ways
from imunizacao.fhir.keys import WARN_DAYS, read_client_certificate
from imunizacao.fhir.loose import shown_name
from imunizacao.fhir.transport import shown
from imunizacao.mirror_check.asking import Finding
from imunizacao.mirror_check.found import Found

ACCESS: Final = "Access"
DECLARED: Final = "What it says of itself"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def check_address(found: Found) -> None:
    """Where we ask, and whether anybody on the way can read along."""
    parts = urlsplit(found.settings.base_url)
    plain = parts.scheme == "http" and (parts.hostname or "") not in _LOOPBACK
    found.add(
        ACCESS,
        "address",
        shown(found.settings.base_url) + (" without TLS" if plain else ""),
        "warn" if plain else "ok",
        "Documents and credentials can be read on the way: use the https address." if plain else "",
    )


def check_certificate(found: Found) -> None:
    """How long our client certificate is good for; an expired one was refused before."""
    certificate = read_client_certificate(found.settings, now=found.now())
    if certificate is None:
        return
    days = (certificate.own.not_valid_after_utc - found.now()).days
    found.add(
        ACCESS,
        "client certificate",
        f"{days:,} days left",
        "warn" if days < WARN_DAYS else "ok",
        "A new A1 takes days to get: ask for it now." if days < WARN_DAYS else "",
    )


async def check_access(found: Found) -> None:
    """The first question of a run: the total of the day. Any answer but a refusal is access."""
    try:
        found.total = await found.asker.count_window(found.window, where=f"count of {found.day}")
    except Finding as problem:
        found.total_problem = problem
    tell_access(found, "accepted" if found.total_problem is None else "not refused")
    check_clock(found)


def tell_access(found: Found, told: str) -> None:
    """Add the row of those who were let in."""
    auth = found.settings.auth
    found.add(ACCESS, "access", "open, without identification" if auth == "none" else f"`{auth}` {told}")


def check_clock(found: Found) -> None:
    """Our clock against the mirror's."""
    skew = found.asker.transport.skew_seconds
    if skew is None:
        found.add(
            ACCESS,
            "clock",
            "unknown: the mirror sends no Date",
            "warn",
            "A wrong clock on either side would go unnoticed. The mirror, or the proxy before it, should send Date.",
        )
    elif abs(skew) > SKEW_SECONDS:
        found.add(
            ACCESS,
            "clock",
            f"ours is {abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} the mirror's",
            "warn",
            "Repair the clock that is wrong (NTP): days begin and end by it, and tokens may be refused.",
        )
    else:
        found.add(ACCESS, "clock", f"{abs(skew):.0f} s apart")


def check_metadata(found: Found) -> None:
    """The CapabilityStatement: software, version of FHIR, ways in."""
    statement = found.capability.statement
    if statement is None:
        found.add(
            DECLARED,
            "metadata",
            f"no CapabilityStatement: {found.capability.problem}",
            "warn",
            f"Nothing is chosen by it. Set the way yourself: IMUNIZACAO_MIRROR_WAY={found.way}.",
        )
        return
    served = sorted(statement.resources)
    types = ", ".join(served) if 0 < len(served) <= 4 else f"{len(served)} resource types"
    security = f" · identify with {', '.join(statement.security)}" if statement.security else ""
    found.add(
        DECLARED,
        "metadata",
        f"{statement.software or 'software without a name'} · {types}{security}"
        + ("" if statement.has_rest else f" · {found.capability.problem}"),
        "ok" if statement.has_rest else "warn",
        ""
        if statement.has_rest
        else f"Nothing is chosen by it. Set the way yourself: IMUNIZACAO_MIRROR_WAY={found.way}.",
    )
    _check_version(found, statement.fhir_version)
    if statement.has_rest:
        reasons = ways(statement)
        told = " · ".join(f"{way}: {reasons[way] or 'possible'}" for way in WAYS)
        undeclared = bool(reasons[found.way])
        found.add(
            DECLARED,
            "ways in",
            told,
            "warn" if undeclared else "ok",
            f"The way that is used ({found.way}) is not among those that it declares: ask those who run the mirror."
            if undeclared
            else "",
        )


def _check_version(found: Found, version: str) -> None:
    if version.startswith("4.0"):
        found.add(DECLARED, "FHIR version", version)
    elif version.startswith("4.") or not version:
        found.add(
            DECLARED,
            "FHIR version",
            version or "not stated",
            "warn",
            "Documents are read as R4 (4.0.1). Compare some with docs/dados/dicionario.md before the first publication.",
        )
    else:
        found.add(
            DECLARED,
            "FHIR version",
            f"{shown_name(version, 20)}, R4 is needed",
            "fail",
            "Elements have other names in other versions. Ask for the R4 base of the mirror (often …/fhir/r4).",
        )

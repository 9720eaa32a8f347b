"""What the documents hold, how fast they come, and the settings that fit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from imunizacao.fhir import parse_instant
from imunizacao.mirror_check.asking import Finding, NotChecked, Reply
from imunizacao.mirror_check.found import Found
from imunizacao.mirror_check.paging import DEEP
from imunizacao.mirror_check.report import Recommendation
from imunizacao.mirror_check.sample import SAMPLE, Sample, document_resources, read_sample, split_documents, spread

DOCUMENTS: Final = "Documents"
TRANSFER: Final = "Transfer"
NATIONAL_DAY: Final = 1_000_000
"""Documents; an ordinary day has about half of it."""
_LONGEST_DAY_MINUTES: Final = 360
"""A day that takes longer is not there in the morning."""
_ENOUGH: Final = 100
"""Documents on a page from which a speed can be told."""
_COMFORTABLE_PAGE: Final = 8 * 1024 * 1024
_NEIGHBOURS: Final = ("Patient", "Organization", "Condition")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Of the large page."""

    page_seconds: float
    documents_per_second: float
    """Of one connection."""
    document_bytes: float


def check_compression(found: Found) -> None:
    """Whether pages come compressed."""
    reply = found.require_large()
    coding = reply.answer.headers.get("content-encoding", "")
    if "gzip" in coding and reply.wire_bytes:
        found.add(TRANSFER, "compression", f"gzip, {len(reply.answer.body) / reply.wire_bytes:.0f} times smaller")
        return
    each = len(reply.answer.body) / max(1, len(reply.page.entries))
    found.add(
        TRANSFER,
        "compression",
        "none, though gzip is asked for",
        "warn",
        f"A national day would be {NATIONAL_DAY * each / 1e9:.1f} GB over the wire instead of about a tenth: switch gzip on in "
        "the mirror or in its proxy.",
    )


def measure_speed(found: Found) -> Speed | None:
    """Speed of the large page; None when it is too small to tell."""
    reply = found.require_large()
    came = len(reply.page.entries)
    if came < _ENOUGH:
        return None
    seconds = max(reply.seconds, 1e-3)
    return Speed(
        page_seconds=seconds, documents_per_second=came / seconds, document_bytes=len(reply.answer.body) / came
    )


def check_speed(found: Found, speed: Speed | None) -> None:
    """How long a day and a year would take with the settings as they are."""
    if speed is None:
        raise NotChecked(f"fewer than {_ENOUGH} documents on a page")
    settings = found.settings
    found.add(
        TRANSFER,
        "speed",
        f"{speed.page_seconds:.2f} s for a page of {len(found.require_large().page.entries):,}: "
        f"{speed.documents_per_second:,.0f} {found.noun}/s on one connection, {speed.document_bytes:,.0f} bytes each",
    )
    rate = speed.documents_per_second * settings.max_connections
    limits = f"{settings.max_connections} connections"
    if settings.requests_per_second:
        rate = min(rate, settings.requests_per_second * (found.page_limit or settings.page_size))
        limits += f", at most {settings.requests_per_second:g} requests/s"
    minutes = NATIONAL_DAY / rate / 60
    slow = minutes > _LONGEST_DAY_MINUTES
    found.add(
        TRANSFER,
        "a day, a year",
        f"{minutes:,.1f} minutes for 1 million, {365 * minutes / 1440:,.1f} days for 365 million ({limits}, if they add up)",
        "warn" if slow else "ok",
        "A national day would not be there in the morning: agree on more connections or a higher rate with those who run the "
        "mirror."
        if slow
        else "",
    )


def check_entries(found: Found) -> None:
    """Identity and version of every match of the large page."""
    entries = found.require_large().page.entries
    # Without a versionId the entry's version is its lastUpdated.
    versions = sum(bool(entry.version) and parse_instant(entry.version) is None for entry in entries)
    without_id = sum(not entry.id for entry in entries)
    undated = sum(entry.last_updated is None for entry in entries)
    rejects = Counter(str(entry.reject) for entry in entries if entry.reject)
    if undated:
        raise Finding(
            f"{undated:,} of {len(entries):,} {found.noun} have no readable meta.lastUpdated",
            "Nobody can tell to which day they belong: they go to quarantine (LAST_UPDATED_INVALID). The mirror must state it.",
        )
    told = f"{len(entries):,} with lastUpdated, {_share(versions, len(entries))} with versionId"
    problems = [f"{without_id:,} without id"] if without_id else []
    problems += [f"{count:,} {reason}" for reason, count in sorted(rejects.items())]
    if problems:
        found.add(
            DOCUMENTS,
            "identity",
            f"{told}; {', '.join(problems)}",
            "warn",
            "Those without an id are told apart by their bytes; the others are kept beside landing and go to quarantine.",
        )
    else:
        found.add(DOCUMENTS, "identity", told + ("" if versions else ": lastUpdated tells versions apart"))


async def take_sample(found: Found) -> Sample:
    """Look into a few dozen documents of both halves of the window."""
    large = found.require_large()
    if found.way == "resources":
        return await _split_sample(found, large)
    later = found.later.content.entries if found.later is not None and found.later.content is not None else []
    half = SAMPLE // 2 if later else SAMPLE
    lines = spread([entry.line for entry in large.page.entries], half) + spread(
        [entry.line for entry in later], SAMPLE // 2
    )
    return read_sample(document_resources(line) for line in lines)


async def _split_sample(found: Found, large: Reply) -> Sample:
    """Immunizations with what comes along when it is asked for."""
    bounds = [("_lastUpdated", bound) for bound in found.window.bounds]
    along = [("_include", "Immunization:patient"), ("_revinclude", "Composition:entry")]
    reply = await found.asker.search([*bounds, ("_count", str(SAMPLE)), *along], where="a page with its neighbours")
    return read_sample(split_documents(reply.answer.body if reply.content else large.answer.body, SAMPLE))


async def check_readable(found: Found, sample: Sample) -> None:
    """A vaccination is a Composition and an Immunization with a vaccine and a date."""
    if not sample.documents:
        raise NotChecked("there is no page of documents")
    whole, complete = sample.readable, sample.with_vaccine_and_date
    told = (
        f"{sample.documents} looked into: {_share(whole, sample.documents)} with Composition and Immunization, "
        f"{_share(complete, sample.documents)} with vaccine and date"
    )
    if found.way == "resources" and whole < sample.documents:
        await _check_compositions(found, told)
        return
    if 2 * whole < sample.documents or 2 * complete < sample.documents:
        raise Finding(
            told,
            "Most would go to quarantine. Are these vaccination documents (RIA), in R4, with their entries inside the Bundle?",
        )
    poor = whole < sample.documents or complete < 0.9 * sample.documents
    found.add(
        DOCUMENTS,
        "content",
        told,
        "warn" if poor else "ok",
        "The others go to quarantine with a reason: compare the share after the first day." if poor else "",
    )


async def _check_compositions(found: Found, told: str) -> None:
    """Immunizations without their Composition: is there another way to it?"""
    base = found.settings.base_url.rstrip("/")
    bounds = "&".join(f"_lastUpdated={bound}" for bound in found.window.bounds)
    reply = await found.asker.get(f"{base}/Composition?{bounds}&_summary=count", where="count of Composition")
    count = reply.content.total if reply.content else None
    if not count:
        raise Finding(
            f"{told}; no search of Composition by _lastUpdated either",
            "Without the Composition there is no CNES, and without it no municipality. Ask for _revinclude=Composition:entry, or "
            "for a mirror of whole documents.",
        )
    found.add(
        DOCUMENTS,
        "content",
        f"{told}; {count:,} Compositions by their own search",
        "warn",
        "They must be joined from two searches. Prefer a mirror that answers _revinclude=Composition:entry.",
    )


def check_profiles(found: Found, sample: Sample) -> None:
    """Generations of the document."""
    if not sample.profiles:
        raise NotChecked("no Composition was seen")
    told = ", ".join(f"{name} ×{count}" for name, count in sample.profiles.most_common(8))
    unknown = sample.unknown_profiles
    found.add(
        DOCUMENTS,
        "profiles",
        told,
        "warn" if unknown else "ok",
        f"{unknown} of {sum(sample.profiles.values())} have a profile that we do not know: look at their columns before the first "
        "publication."
        if unknown
        else "",
    )


def check_cnes(found: Found, sample: Sample) -> None:
    """The CNES of the establishment, on which the split by municipality rests."""
    if not sample.readable:
        raise NotChecked("no Composition was seen")
    told = f"{_share(sample.with_cnes, sample.readable)} with 7 digits in Composition.author[0].identifier"
    if not sample.with_cnes:
        raise Finding(told, "No document could be placed in a municipality. Does the mirror mask the author?")
    poor = sample.with_cnes < 0.95 * sample.readable
    found.add(
        DOCUMENTS,
        "CNES",
        told,
        "warn" if poor else "ok",
        "The others go to quarantine (CNES_UNKNOWN) unless leading zeros are all that is missing." if poor else "",
    )


def check_neighbours(found: Found, sample: Sample) -> None:
    """What the mirror adds to the document of the RNDS."""
    if not sample.documents:
        raise NotChecked("there is no page of documents")
    told = ", ".join(f"{name} {_share(sample.with_type[name], sample.documents)}" for name in _NEIGHBOURS)
    patients = sample.with_type["Patient"]
    found.add(
        DOCUMENTS,
        "neighbours",
        told,
        "ok" if patients else "warn",
        ""
        if patients
        else "Without Patient the columns of residence, age, sex and race stay empty, as in the RNDS itself. Ask whether the "
        "mirror can add it.",
    )
    if not patients:
        return
    where = ", ".join(f"{place} ×{count}" for place, count in sample.ibge_elsewhere.most_common(4))
    few = 2 * sample.ibge < patients
    found.add(
        DOCUMENTS,
        "IBGE of residence",
        f"{_share(sample.ibge, patients)} of the Patients in address[0]._city.extension[0].valueString"
        + (f"; else: {where}" if where else ""),
        "warn" if few else "ok",
        "Residence stays empty where the code is not there. If it is elsewhere, flatten must learn that place."
        if few
        else "",
    )


def recommend(found: Found, speed: Speed | None) -> tuple[Recommendation, ...]:
    """Settings that fit what was found, none where nothing came. The way is always named: then no run depends on the CapabilityStatement."""
    settings = found.settings
    if found.large is None and not found.export_status:
        return ()
    size = min(settings.page_size, found.page_limit or settings.page_size)
    if speed is not None:
        size = min(
            size,
            max(1, int(_COMFORTABLE_PAGE / speed.document_bytes)),
            max(1, int(settings.read_timeout / 4 * speed.documents_per_second)),
        )
    deep = found.total is not None and found.total > DEEP
    limits = [settings.slice_cap, *([DEEP] if deep else []), *([found.depth_limit] if found.depth_limit else [])]
    chosen = {
        "WAY": (found.way, settings.way),
        "PAGE_SIZE": (size, settings.page_size),
        "SLICE_CAP": (min(limits), settings.slice_cap),
        "MAX_CONNECTIONS": (settings.max_connections, settings.max_connections),
        "REQUESTS_PER_SECOND": (f"{settings.requests_per_second:g}", f"{settings.requests_per_second:g}"),
    }
    return tuple(
        Recommendation(setting=f"IMUNIZACAO_MIRROR_{name}", value=str(value), now=str(now))
        for name, (value, now) in chosen.items()
    )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"

"""Addresses that a mirror gives: read in one place, because a broken one is the mirror's fault and not a crash of ours."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, urljoin, urlsplit

from imunizacao.errors import MirrorProtocolError


def split_address(url: str, *, what: str = "an address") -> SplitResult:
    """Take an address apart. Raises `MirrorProtocolError`, which does not quote it: it may be a secret."""
    try:
        return urlsplit(url)
    except ValueError as error:
        raise _broken(what) from error


def resolve_address(current: str, link: str, *, what: str) -> str:
    """The absolute address of a link found at `current`, without a fragment; `MirrorProtocolError` when it is none."""
    try:
        return urlsplit(urljoin(current, link))._replace(fragment="").geturl()
    except ValueError as error:
        raise _broken(what) from error


def query_of(url: str | None) -> list[tuple[str, str]]:
    """The parameters of an address; none where it is missing or cannot be read."""
    try:
        return parse_qsl(urlsplit(url or "").query)
    except ValueError:
        return []


def _broken(what: str) -> MirrorProtocolError:
    return MirrorProtocolError(
        f"The mirror gave {what} that is not an address. Nothing was published. Ask those who run the mirror which host and port it "
        "writes into its links; see docs/runbook/mirror-protocol.md."
    )

"""Data Docs without any outside host: what the stock pages load from seven of them is taken from `static/`.

Great Expectations looks for its own templates first, so they cannot be replaced, and it swallows what a view of ours raises;
therefore the finished pages are rewritten, and a page that is missing or still loads something from outside is an error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from imunizacao.errors import ContractViolation
from imunizacao.validate.assets import static_version

_FILES: Final = (
    (r"bootstrap-table-filter-control(?:\.min)?\.css", "bootstrap-table-filter-control.min.css"),
    (r"bootstrap-table-filter-control(?:\.min)?\.js", "bootstrap-table-filter-control.min.js"),
    (r"bootstrap-table\.min\.css", "bootstrap-table.min.css"),
    (r"bootstrap-table\.min\.js", "bootstrap-table.min.js"),
    (r"bootstrap-datepicker\.min\.css", "bootstrap-datepicker.min.css"),
    (r"bootstrap-datepicker\.min\.js", "bootstrap-datepicker.min.js"),
    (r"bootstrap\.min\.css", "bootstrap.min.css"),
    (r"bootstrap\.min\.js", "bootstrap.min.js"),
    (r"popper\.min\.js", "popper.min.js"),
    (r"jquery-[0-9.]+\.min\.js", "jquery.min.js"),
    (r"font-awesome/[0-9.]+/css/all\.min\.css", "css/fontawesome.min.css"),
)

_DROPPED: Final = (
    r'<script src="[^"]*/npm/vega[^"]*"></script>',  # charts, which none of our rules draws
    r"<link[^>]*bootstrap-prefers-dark[^>]*>",
    r"<link[^>]*shortcut icon[^>]*>",
    r"<footer.*?</footer>",  # advertising
    r"<img[^>]*great-expectations-web-assets[^>]*>",  # logos
    r"background: url\('https://great-expectations-web-assets[^)]*\)[^;]*;",  # the logo again
    r"\s(?:integrity|crossorigin)=\"[^\"]*\"",
)

_DARK: Final = "@media (prefers-color-scheme: dark)"
"""The page's own dark rules are half of a theme whose other half is the dropped stylesheet: switched off."""


def localise_site(site: Path, *, suites: int) -> list[Path]:
    """Rewrite every page of a built site in place and return them, the index last.

    The site must have an index and, per suite, the page of its rules and the page of its results.
    """
    pages = sorted(path for path in site.rglob("*.html") if path.is_file() and path.stat().st_size > 0)
    index = site / "index.html"
    if index not in pages or len(pages) != 1 + 2 * suites:
        raise ContractViolation(
            f"Great Expectations built {len(pages)} pages of Data Docs, expected {1 + 2 * suites} with an index. It logs why "
            "under `great_expectations` and goes on; a version of it changed?"
        )
    for path in pages:
        depth = len(path.relative_to(site).parts) - 1
        text = localise(path.read_text(encoding="utf-8"), depth=depth)
        path.write_text(text, encoding="utf-8")
    return [*(path for path in pages if path != index), index]


def localise(page: str, *, depth: int) -> str:
    """A page that loads its scripts, styles and fonts from the work bucket only; anything else is a `ContractViolation`.

    `depth` is the number of folders between the page and the day's own folder.
    """
    up = "../" * (depth + 1) + f"static/{static_version()}/"
    for pattern in _DROPPED:
        page = re.sub(pattern, "", page, flags=re.DOTALL)
    page = page.replace(_DARK, "@media not all")
    for pattern, name in _FILES:
        page = re.sub(rf'"https?://[^"]*/{pattern}"', f'"{up}{name}"', page)
    left = sorted(foreign_loads(page))
    if left:
        raise ContractViolation(
            f"A Data Docs page would load {', '.join(left)} from outside. Add the file to validate/static and to pages.py."
        )
    return page


def foreign_loads(page: str) -> set[str]:
    """Addresses outside that a browser would fetch when it opens the page. (A link that a person may click is none.)"""
    found = set(re.findall(r"<(?:script|img|iframe|source|embed)[^>]*\ssrc=[\"']?((?:https?:)?//[^\"'\s>]+)", page))
    found |= set(re.findall(r"<link[^>]*\shref=[\"']?((?:https?:)?//[^\"'\s>]+)", page))
    found |= set(re.findall(r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)", page))
    return found

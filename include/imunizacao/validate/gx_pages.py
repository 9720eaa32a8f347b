"""Data Docs without any outside host: what the stock pages load from seven of them is taken from `static/`.

Great Expectations looks for its own templates first, so templates cannot be replaced; the finished page is rewritten, and a
page that still loads something from outside is refused. Importing this module imports Great Expectations: only inside a task.
"""

from __future__ import annotations

import re
from typing import Any, Final

from great_expectations.render.view import DefaultJinjaIndexPageView, DefaultJinjaPageView

from imunizacao.errors import ContractViolation
from imunizacao.validate.assets import static_version

_DEPTH: Final = {"ValidationResultsPageRenderer": 4, "ExpectationSuitePageRenderer": 1, "SiteIndexPageRenderer": 0}
"""Folders between a page and the day's own folder."""

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
    r'<link rel="shortcut icon"[^>]*>',
    r"<footer.*?</footer>",  # newsletter
    r"<img[^>]*logo-long\.png[^>]*>",
    r"\s(?:integrity|crossorigin)=\"[^\"]*\"",
)


def localise(page: str, renderer: str) -> str:
    """A page that loads its scripts, styles and fonts from the work bucket only; anything else is a `ContractViolation`."""
    up = "../" * (_DEPTH[renderer] + 1) + f"static/{static_version()}/"
    for pattern in _DROPPED:
        page = re.sub(pattern, "", page, flags=re.DOTALL)
    for pattern, name in _FILES:
        page = re.sub(rf'"https?://[^"]*/{pattern}"', f'"{up}{name}"', page)
    left = sorted(foreign_loads(page))
    if left:
        raise ContractViolation(
            f"A Data Docs page would load {', '.join(left)} from outside. Add the file to validate/static and to gx_pages.py."
        )
    return page


def foreign_loads(page: str) -> set[str]:
    """Addresses outside that a browser would fetch when it opens the page. (A link that a person may click is none.)"""
    found = set(re.findall(r"<(?:script|img|iframe|source|embed)[^>]*\ssrc=[\"']?((?:https?:)?//[^\"'\s>]+)", page))
    found |= set(re.findall(r"<link[^>]*\shref=[\"']?((?:https?:)?//[^\"'\s>]+)", page))
    found |= set(re.findall(r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)", page))
    return found


class OfflinePageView(DefaultJinjaPageView):  # type: ignore[misc]
    """Pages of results and of suites."""

    def render(self, document: Any, template: Any = None, **kwargs: Any) -> str:
        """The stock page, localised."""
        return localise(super().render(document, template, **kwargs), document.renderer_type)


class OfflineIndexPageView(DefaultJinjaIndexPageView):  # type: ignore[misc]
    """The index of a day."""

    def render(self, document: Any, template: Any = None, **kwargs: Any) -> str:
        """The stock page, localised."""
        return localise(super().render(document, template, **kwargs), "SiteIndexPageRenderer")

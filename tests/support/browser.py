"""A real Chromium that opens pages of ours and tells whether anything in them was run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass(slots=True)
class Seen:
    """What opening a page did beyond showing it."""

    text: str = ""
    ran: list[str] = field(default_factory=list)
    """Scripts of the text that ran, dialogs that opened, addresses outside that were asked for."""


class Browser:
    """Opens pages. Nothing outside them can be loaded."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser

    def open(self, page: str) -> Seen:
        """Open a page from its text, click nothing, wait until it is quiet, and hover over everything."""
        seen = Seen()
        tab = self._browser.new_page()
        try:
            tab.on("dialog", lambda dialog: (seen.ran.append(f"dialog {dialog.message}"), dialog.dismiss()))
            tab.route("**/*", lambda route: (seen.ran.append(f"asks for {route.request.url}"), route.abort()))
            tab.set_content(page, wait_until="load")
            tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
            tab.evaluate(
                "document.querySelectorAll('*').forEach(one => ['mouseover', 'focus', 'toggle', 'animationstart']"
                ".forEach(name => one.dispatchEvent(new Event(name))))"
            )
            tab.wait_for_timeout(200)
            seen.ran += tab.evaluate("window.hostile || []")
            links = tab.evaluate("[...document.querySelectorAll('[href]')].map(one => one.getAttribute('href'))")
            seen.ran += [f"link {link}" for link in links if link.lower().strip().startswith(("javascript:", "data:"))]
            seen.text = tab.inner_text("body")
        finally:
            tab.close()
        return seen


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of the machine; without one the test is skipped."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*options, "--disable-component-update"])
        try:
            yield Browser(browser)
        finally:
            browser.close()

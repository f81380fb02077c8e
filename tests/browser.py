"""A real Chromium, headless, in which tests look at the page as a reader would: opened from the disk."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

PATIENCE = 60_000  # milliseconds: a slow core that others use draws seven charts in seconds
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's Chromium; where it is absent tests are left out, but not in CI."""
    path = shutil.which("chromium")
    if path is None and "CI" not in os.environ:
        pytest.skip("no chromium: apt-get install chromium")
    assert path, "CI needs chromium"
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE)
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, page: Path, fragment: str = "", **options: object) -> Iterator[Page]:
    """The page in a window of its own; afterwards it must have said nothing and asked nobody."""
    context = browser.new_context(**{"viewport": DESKTOP} | options)
    view = context.new_page()
    view.set_default_timeout(PATIENCE)
    said, asked = [], []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(page.as_uri() + fragment)
    yield view
    assert said == []
    beside = (page.as_uri(), f"{page.parent.as_uri()}/explorer/", "blob:", "data:")
    assert [url for url in asked if not url.startswith(beside)] == []
    context.close()


def see_all(view: Page) -> None:
    """Scroll to the end, so that everything that waits for being seen is drawn."""
    for figure in view.locator("figure[data-chart]").all():
        figure.scroll_into_view_if_needed()
        figure.locator("svg").wait_for()
    view.locator("#outputs").scroll_into_view_if_needed()
    view.locator(".list [aria-selected=true]").wait_for()
    view.locator(".output header").last.wait_for()

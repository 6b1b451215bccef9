"""A headless Chromium, the one on the path, for tests and pictures of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
"""Its path; None where there is none."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """It runs as long as it is used; its camera is its own test picture."""
    from playwright.sync_api import sync_playwright

    # Root in a container has no user namespaces to make a sandbox of.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    flags += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()

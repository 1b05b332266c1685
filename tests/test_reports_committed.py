"""The reports that lie in docs: one file each, small, silent, sealed, and soon there."""

from pathlib import Path

import pytest
from browsing import busy_seconds, requested, visit

from reports.page import LARGEST_BYTES, POLICY

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*/report.html"))


def test_there_are_some():
    assert {"h100", "h100-kernels"} <= {path.parent.name for path in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.parent.name)
def test_a_committed_page_is_one_small_file_that_may_ask_for_nothing(page: Path):
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) <= LARGEST_BYTES
    assert f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">' in text


@pytest.mark.browser
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.parent.name)
def test_a_committed_page_opens_silently_and_soon(browser, page: Path):
    before = busy_seconds(browser)
    visit(browser, page, 1280)
    assert browser.execute_script("return document.readyState") == "complete"
    assert busy_seconds(browser) - before < 2
    assert [url for url in requested(browser) if not url.startswith(("file:", "data:"))] == []
    assert browser.get_log("browser") == []
    over = browser.execute_script(
        """const list = document.querySelector('#verdict > .verdict');
        const edge = list ? list.getBoundingClientRect().right + 1 : Infinity;
        return [...document.querySelectorAll('#verdict > .verdict *')]
            .filter((one) => one.getBoundingClientRect().right > edge)
            .map((one) => one.outerHTML.slice(0, 60));"""
    )
    assert over == []  # what does not fit lies on the figure beside it

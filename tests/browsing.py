"""What tests of pages in a browser share."""

from pathlib import Path


def visit(browser, page: Path, width: int) -> None:
    """Open the page on a screen of this width; a headless window would not be narrower than 500."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get("about:blank")
    browser.get_log("performance")  # what the browser's own first page asked for
    browser.get(page.as_uri())

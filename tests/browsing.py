"""What tests of pages in a browser share."""

import json
from pathlib import Path


def busy_seconds(browser) -> float:
    """How long the page's thread has worked since the browser began to count.

    The processor's time, not the clock's: other work on the machine is not in it. The counting is
    started by the first call.
    """
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    found = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(one["value"] for one in found if one["name"] == "TaskDuration")


def requested(browser) -> list[str]:
    """The addresses that the browser asked for."""
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


def visit(browser, page: Path, width: int) -> None:
    """Open the page on a screen of this width; a headless window would not be narrower than 500."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get("about:blank")
    browser.get_log("performance")  # what the browser's own first page asked for
    browser.get(page.as_uri())

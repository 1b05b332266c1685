"""What every test has: fixed seeds, one thread a worker, and a reason where it cannot run."""

import importlib.util
import os
import random
import shutil
from pathlib import Path
from typing import Any

ON_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if ON_WORKER:  # before torch reads it, and for the programs that tests start
    os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import pytest  # noqa: E402 - the environment is set first
import torch  # noqa: E402 - the environment is set first
from hypothesis import HealthCheck, settings  # noqa: E402 - the environment is set first

settings.register_profile(
    "attnbench",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is not a failing test
)
settings.load_profile("attnbench")

if ON_WORKER:
    torch.set_num_threads(1)


def load_kernels_for_the_interpreter() -> None:
    """Triton decides when a kernel is defined whether it is interpreted: here all of them are.

    Calls are so only in tests with the fixture `interpreter`; for all others a CPU has no kernels.
    Tests of compiled kernels run in a process of their own, with ATTNBENCH_COMPILED_KERNELS=1.
    """
    asked = os.environ.get("ATTNBENCH_COMPILED_KERNELS") == "1"
    if asked or importlib.util.find_spec("triton") is None or torch.cuda.is_available():
        return
    folder = Path(__file__).parents[1] / "patterns" / "kernels"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for file in sorted(folder.glob("*.py")):
            if "@triton.jit" in file.read_text(encoding="utf-8"):
                importlib.import_module(f"patterns.kernels.{file.stem}")


load_kernels_for_the_interpreter()


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Triton kernels run on the CPU, in Triton's interpreter."""
    if torch.cuda.is_available():
        pytest.skip("the kernels run compiled here: the contract suite has them")
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def why_not(mark: str) -> str | None:
    """Why tests with this mark cannot run here, or None where they can."""
    if mark == "gpu" and not torch.cuda.is_available():
        return "needs a CUDA device"
    if mark == "browser" and os.environ.get("ATTNBENCH_REQUIRE_BROWSER") != "1":
        missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
        return f"needs {' and '.join(missing)} on the PATH" if missing else None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine lacks a device or a browser for."""
    for mark in ("gpu", "browser"):
        if reason := why_not(mark):
            for item in items:
                if item.get_closest_marker(mark):
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Start each test from the same random state, whatever ran before it."""
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def browser(tmp_path: Path):
    """Headless Chromium with a profile of its own, keeping its console and network logs.

    `browser.get_log("browser")` is the console, `browser.get_log("performance")` has the requests.
    """
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={tmp_path / 'chromium'}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver") or "chromedriver")
    driver = webdriver.Chrome(options=options, service=service)
    logged = driver.get_log

    def get_log(kind: str) -> list[dict[str, Any]]:
        # Chromium's own first page speaks of a slow network where there is none.
        return [one for one in logged(kind) if not one["message"].startswith("chrome://")]

    driver.get_log = get_log
    yield driver
    driver.quit()

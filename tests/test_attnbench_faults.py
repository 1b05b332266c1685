"""Faults, planted: whatever a pattern does, the run goes on and the record says what happened."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from attnbench.records import read

ROOT = Path(__file__).parents[1]
PLUGIN = Path(__file__).parent / "faulty.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
TINY = ("--heads", "1", "--dim", "8", "--device", "cpu")


def command(run: Path, *typed: str) -> list[str]:
    return [sys.executable, "run_bench.py", "run", *TINY, *typed, "--out", str(run)]


def bench(run: Path, *typed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(run, *typed),
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


FAULTS = ("nan", "hungry", "hangs", "exits", "segfaults", "dies-late", "writes", "peeks")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """One group with all of them in it, among those that are well."""
    run = tmp_path_factory.mktemp("faulty") / "run"
    asked = [word for name in (*FAULTS, "local") for word in ("--pattern", name)]
    done = bench(
        run, "--plugin", str(PLUGIN), *asked, "--length", "32", "--pass", "fwd",
        "--source", "gaussian", "--timeout", "4", "--budget", "0.2",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    found = [one for one in read(run) if one["kind"] == "cost"]
    return {one["case"]["asked"]: one for one in found if one["case"]["backend"] == "auto"} | {
        "full": next(one for one in found if one["case"]["backend"] == "sdpa")
    }


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("nan", "wrong", "NaN or Inf"),
        ("hungry", "oom", "can't allocate memory"),
        ("hangs", "timeout", "its process said nothing for 4 s while it was checked and sized"),
        ("exits", "crashed", "its process ended with exit code 7 while it was checked and sized"),
        ("segfaults", "crashed", "its process died of SIGSEGV while it was checked and sized"),
        ("dies-late", "crashed", "its process died of SIGABRT while it was timed"),
        ("writes", "wrong", "the call changed its input v"),
        ("peeks", "wrong", "another future changes the output up to token 16"),
    ],
)
def test_a_fault_is_recorded_as_what_it_is(faulty: dict, name: str, status: str, said: str):
    found = faulty[name]
    assert (found["status"], said in found["reason"]) == (status, True), found["reason"]
    assert found["time"] is None
    assert found["memory"] is None


@pytest.mark.parametrize("name", ["local", "full"])
def test_those_that_are_well_are_measured_beside_them(faulty: dict, name: str):
    assert faulty[name]["status"] == "ok"
    assert faulty[name]["time"]["ratio_to_dense"]["dense"] == "full@sdpa"
    assert faulty[name]["guards"]["check"]["ok"]


@pytest.mark.parametrize(
    ("name", "guard"), [("nan", "finite"), ("writes", "inputs"), ("peeks", "causality")]
)
def test_the_guard_that_fired_is_named(faulty: dict, name: str, guard: str):
    assert list(faulty[name]["guards"]["fired"]) == [guard]


@pytest.mark.parametrize(
    ("name", "how", "printed"),
    [
        ("hangs", "said nothing for 4 s", 'File "faulty.py", line'),
        ("exits", "ended with exit code 7", "I am off"),
        ("segfaults", "died of SIGSEGV", "Segmentation fault"),
    ],
)
def test_what_a_process_printed_at_its_end_is_kept(
    faulty: dict, name: str, how: str, printed: str
):
    process = faulty[name]["guards"]["process"]
    assert process["how"] == how
    assert printed in process["output"]
    assert str(ROOT) not in process["output"]
    assert faulty[name]["implementation"] == {"backend": "eager", "kind": "native"}

"""The worked example of CONTRIBUTING.md is one file of at most 60 lines, and nothing else."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the project with the example saved where the page says."""
    for name in ("patterns", "attnbench", "reports", "tests"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    for name in ("run_bench.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    page = (ROOT / "CONTRIBUTING.md").read_text()
    [place] = re.findall(r"Save it as `([^`]+)`", page)
    example = re.findall(r"<!-- the example.*?-->\n```python\n(.*?)^```", page, re.DOTALL | re.M)[0]
    (tmp_path / place).write_text(example)
    assert len(example.splitlines()) <= 60
    return tmp_path


def run(house: Path, *arguments: str) -> str:
    """Run Python in the copy; the answer is what it printed."""
    said = subprocess.run(
        [sys.executable, *arguments],
        cwd=house,
        env={**os.environ, "PYTHONPATH": str(house)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout[-3000:] + said.stderr[-3000:]
    return said.stdout


def test_the_example_passes_the_contract_and_appears_everywhere(house: Path) -> None:
    contract = "tests/test_patterns_contract.py"
    passed = run(house, "-m", "pytest", "-q", "-p", "no:xdist", contract, "-k", "dilated")
    assert re.search(r"^\d\d+ passed", passed, re.MULTILINE)
    assert "dilated" in run(house, "run_bench.py", "list")
    run(house, "-m", "doctest", "patterns/sparse/dilated.py")
    matrix = run(house, "run_bench.py", "run", "--preset", "quick", "--dry-run")
    assert "dilated" in matrix
    command = ["run", "--pattern", "dilated", "--length", "256", "--source", "gaussian"]
    run(house, "run_bench.py", *command, "--out", "R", "--budget", "1")
    run(house, "run_bench.py", "report", "R")
    assert "dilated" in (house / "R" / "report.html").read_text()

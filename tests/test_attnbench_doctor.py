"""The doctor: what works, and the remedy for what does not."""

from pathlib import Path

import pytest
import torch

from attnbench import doctor
from attnbench.doctor import examine, told
from patterns.errors import BadInput
from patterns.kernels import tile_choice


def named(runs: Path) -> dict[str, doctor.Finding]:
    return {one.what: one for one in examine(runs)}


def test_what_is_needed_here_is_here(tmp_path: Path):
    findings = examine(tmp_path / "runs")
    assert [one.what for one in findings if one.needed and not one.fine] == []
    assert {"python", "torch", "cpu", "full@sdpa", "numpy"} <= {one.what for one in findings}


def test_what_is_missing_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(doctor, "_PACKAGES", {"no-such": ("no_such_module", True, "this test")})
    found = named(tmp_path)["no-such"]
    assert (found.fine, found.needed) == (False, True)
    assert found.told == "missing: pip install no-such (this test)"
    assert "FIX no-such" in told([found])


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path):
    (tmp_path / "file").write_text("")
    found = named(tmp_path / "file" / "runs")[str(tmp_path / "file" / "runs")]
    assert not found.fine
    assert "--out" in found.told


def test_a_line_a_finding(tmp_path: Path):
    findings = examine(tmp_path)
    assert len(told(findings).splitlines()) == len(findings)


@pytest.mark.parametrize(
    ("found", "mark", "said"),
    [
        ("shipped", "ok", "shipped"),
        ("safe", "-", "run_bench.py retune"),
        (BadInput("cannot use tile sizes from there"), "FIX", "cannot use tile sizes"),
    ],
)
def test_tile_sizes_are_looked_at(
    found: str | BadInput, mark: str, said: str, monkeypatch: pytest.MonkeyPatch
):
    def answer(_: object) -> str:
        if isinstance(found, BadInput):
            raise found
        return found

    monkeypatch.setattr(tile_choice, "told", answer)
    text = told([doctor._tiles(torch.device("cuda"))])
    assert text.startswith(mark)
    assert said in text

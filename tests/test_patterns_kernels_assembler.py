"""The newest ptxas is taken on Hopper, another device or an order of the user's is left alone."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

from patterns.kernels import assembler  # noqa: E402


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is remembered from one test to the next, and nothing of it stays."""
    before = triton.knobs.nvidia.__dict__.get("ptxas")
    monkeypatch.delenv("TRITON_PTXAS_PATH", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    for kept in (assembler._chosen, assembler.prepare):
        kept.cache_clear()
    yield
    for kept in (assembler._chosen, assembler.prepare):
        kept.cache_clear()
    triton.knobs.nvidia.__dict__.pop("ptxas", None)
    if before is not None:
        triton.knobs.nvidia.ptxas = before
    os.environ.pop("TRITON_PTXAS_PATH", None)


def ptxas(folder: Path, release: str) -> str:
    """A program that says it is this release."""
    path = folder / "bin" / "ptxas"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
    path.chmod(0o755)
    return str(path)


def test_the_newest_of_all_is_taken_on_hopper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    path = ptxas(tmp_path, "99.10")  # newer than 99.9, though less as text
    older = ptxas(tmp_path / "older", "99.9")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(Path(older).parent), prepend=":")
    assert assembler.version(0) == "99.10"
    assert assembler.sound(0)
    assembler.prepare(0)
    assert triton.knobs.nvidia.ptxas.path == path
    assert os.environ["TRITON_PTXAS_PATH"] == path  # processes that this one starts use it too
    from triton.backends.nvidia import compiler

    assert "release 99.10" in compiler.get_ptxas_version(90)


def test_on_other_devices_tritons_own_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    ptxas(tmp_path, "99.9")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (8, 0))
    own = triton.knobs.nvidia.ptxas
    assembler.prepare(0)
    assert triton.knobs.nvidia.ptxas == own
    assert assembler.version(0) == own.version
    assert assembler.sound(0)  # whatever its version: only Hopper has these products


@pytest.mark.parametrize(("release", "right"), [("12.8", False), ("12.9", True), ("13.0", True)])
def test_what_somebody_named_is_taken_and_judged(
    release: str, right: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("TRITON_PTXAS_PATH", ptxas(tmp_path, release))
    ptxas(tmp_path / "newer", "99.9")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "newer"))
    assert assembler.version(0) == release
    assert assembler.sound(0) == right


def test_a_broken_ptxas_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    path = Path(ptxas(tmp_path, "99.9"))
    path.write_text("#!/bin/sh\nexit 1\n")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert assembler.version(0) not in (None, "99.9")

"""What Triton's compiler makes of the kernels that patterns launch, for Hopper, without a GPU.

The interpreter of the other tests takes what the compiler refuses. Launches are caught and compiled
with the arguments that they came with, in a process of their own: Triton decides when a kernel is
defined whether it is interpreted.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from machine_code import unwritten_reads, unwritten_reads_of

from patterns import Pattern, pattern

pytest.importorskip("triton")

COMPILED = os.environ.get("ATTNBENCH_COMPILED_KERNELS") == "1"
SHARED_BYTES = 227 * 1024  # that a program may have on Hopper
LAUNCHES = {
    "combiner-fixed[block=64]": 7,
    "combiner-fixed[block=64,summary=variational,sink=4,near=1]": 7,
    "combiner-logsparse": 12,
    "combiner-logsparse[causal=false]": 13,
    "combiner-logsparse[summary=variational]": 12,
    "combiner-axial-rowmajor": 8,
    "combiner-axial-vertical": 14,
    "axial": 6,
    "strided[causal=false]": 10,
    "fixed[tail=2]": 6,
    "logsparse[keys=suffix]": 3,
}
"""How many launches forward and backward take, at 1024 tokens."""


@pytest.mark.skipif(COMPILED, reason="this is the process that it starts")
def test_the_kernels_compile() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "ATTNBENCH_COMPILED_KERNELS": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{len(LAUNCHES) + 3} passed" in ran.stdout


@pytest.mark.skipif(COMPILED, reason="runs once")
def test_a_uniform_register_that_one_way_leaves_unwritten_is_seen() -> None:
    listing = """
        /*0000*/                   UMOV UR4, 0x400 ;
        /*0010*/              @!P0 BRA `(.L_x_0) ;
        /*0020*/                   UIADD3 UR6, UP0, UR4, 0x40, URZ ;
    .L_x_0:
        /*0030*/                   UIADD3.X UR7, UR{}, -0x7fffffe0, URZ, UP0, !UPT ;
        /*0040*/                   EXIT ;
    """
    assert unwritten_reads_of(listing.format(4)) == []
    (read,) = unwritten_reads_of(listing.format(6))
    assert read.startswith("UIADD3.X UR7, UR6")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The kernels that were compiled in place of being launched."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class Hopper:
        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, _device: int) -> int:
            return 0

    found: list[Any] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **more: Any) -> Any:
        found.append(run(self, *args, grid=grid, warmup=True, **more))
        return found[-1]

    driver.set_active(Hopper())
    monkeypatch.setattr(JITFunction, "run", compile_only)
    return found


@pytest.mark.skipif(not COMPILED, reason="runs in the process of compiled kernels")
@pytest.mark.parametrize("spec", LAUNCHES)
def test_what_is_launched_compiles_for_hopper(
    monkeypatch: pytest.MonkeyPatch, launched: list[Any], spec: str
) -> None:
    from patterns.kernels import logsparse_call, logsparse_tiles

    tiles, cuda = logsparse_tiles.tiles, torch.device("cuda")  # on a CPU they are tiny
    monkeypatch.setattr(logsparse_call, "tiles", lambda width, kind, _: tiles(width, kind, cuda))
    form: Pattern = pattern(spec)
    monkeypatch.setattr(type(form), "_refusal", lambda *_: None)
    q, k, v = torch.randn(3, 1, 2, 1024, 64, dtype=torch.bfloat16).unbind()
    inputs = [x.requires_grad_() for x in (q, k[:, :1], v[:, :1])]
    form.attend(*inputs, backend="triton").backward(torch.ones_like(q))
    assert len(launched) == LAUNCHES[spec]
    for one in launched:
        assert 0 <= one.metadata.shared <= SHARED_BYTES
        assert not unwritten_reads(one.asm["cubin"]), one.name


@pytest.mark.skipif(not COMPILED, reason="runs in the process of compiled kernels")
def test_the_attention_waits_for_summaries_that_let_it_begin(
    monkeypatch: pytest.MonkeyPatch, launched: list[Any]
) -> None:
    from patterns.kernels import fixed

    monkeypatch.setattr(fixed, "may_overlap", lambda _: True)
    form: Pattern = pattern("combiner-fixed[block=256]")
    monkeypatch.setattr(type(form), "_refusal", lambda *_: None)
    with torch.no_grad():
        form.attend(*torch.randn(3, 1, 2, 1024, 64, dtype=torch.bfloat16), backend="triton")
    summaries, attention = launched
    assert "griddepcontrol.launch_dependents" in summaries.asm["ptx"]
    assert attention.asm["ptx"].index("griddepcontrol.wait") < attention.asm["ptx"].index(
        "st.global"
    )
    assert (summaries.metadata.launch_pdl, attention.metadata.launch_pdl) == (False, True)


@pytest.mark.skipif(not COMPILED, reason="runs in the process of compiled kernels")
@pytest.mark.parametrize("summary", ["max", "variational"])
def test_each_launch_of_logsparse_waits_for_the_one_that_lets_it_begin(
    monkeypatch: pytest.MonkeyPatch, launched: list[Any], summary: str
) -> None:
    from patterns.kernels import logsparse_call, logsparse_tiles

    tiles, cuda = logsparse_tiles.tiles, torch.device("cuda")
    monkeypatch.setattr(logsparse_call, "tiles", lambda width, kind, _: tiles(width, kind, cuda))
    monkeypatch.setattr(logsparse_call, "may_overlap", lambda _: True)
    monkeypatch.setattr(logsparse_call, "packs_halves", lambda _: True)
    form: Pattern = pattern(f"combiner-logsparse[summary={summary}]")
    monkeypatch.setattr(type(form), "_refusal", lambda *_: None)
    with torch.no_grad():
        form.attend(*torch.randn(3, 1, 2, 1024, 64, dtype=torch.bfloat16), backend="triton")
    first, *others = [one.asm["ptx"] for one in launched]
    assert [one.metadata.launch_pdl for one in launched] == [False, True, True, True, True]
    assert "griddepcontrol.launch_dependents" in first
    for ptx in others:
        assert ptx.index("griddepcontrol.wait") < ptx.index("st.global")
    for ptx in others[:-1]:  # what the next one reads may be what the one before made
        assert ptx.index("griddepcontrol.wait") < ptx.index("griddepcontrol.launch_dependents")
    assert ("max.bf16x2" in others[-1]) == (summary == "max")

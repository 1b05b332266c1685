"""Remembered launches run what Triton itself would run, with the arguments it would hand over.

Kernels are really compiled, for Hopper; only loading and launching them is replaced by writing
down. In a process of its own, since Triton decides when a kernel is defined whether it is
interpreted.
"""

import importlib
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

COMPILED = os.environ.get("ATTNBENCH_COMPILED_KERNELS") == "1"
STARTED = pytest.mark.skipif(not COMPILED, reason="runs in the process of compiled kernels")


@pytest.mark.skipif(COMPILED, reason="this is the process that it starts")
def test_remembered_launches_in_a_process_of_compiled_kernels() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "ATTNBENCH_COMPILED_KERNELS": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "9 passed" in ran.stdout


@triton.jit
def scaled(out, x, count, step, scale, ROWS: tl.constexpr, TWICE: tl.constexpr = False):  # type: ignore[no-untyped-def]
    """A kernel that Triton compiles differently for most of its arguments."""
    place = tl.arange(0, ROWS)
    number = tl.load(x + place * step, mask=place < count) * scale
    tl.store(out + place, number + number if TWICE else number, mask=place < count)


class Launched:
    """What reached the driver: (kernel, grid, stream, arguments without constants)."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, ...]] = []
        self.options: list[tuple[Any, ...]] = []
        self.stream = 7
        self.device = 0
        self.loaded = 0

    def __call__(self, source: Any, metadata: Any) -> Any:
        taken = [kind != "constexpr" for kind in source.signature.values()]

        def run(*told: Any) -> None:
            grid, stream, kernel, arguments = told[:3], told[3], told[4], told[9:]
            assert told[5][0] == 4  # warps
            values = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments]
            real = tuple(x for x, one in zip(values, taken, strict=True) if one)
            self.all.append((kernel, grid, stream, real))
            self.options.append((metadata.launch_pdl, metadata.num_stages, metadata.maxnreg))

        return run


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Launched:
    """The driver below Triton, which writes down what it is to launch."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    found = Launched()

    class Utils:
        def get_device_properties(self, _device: int) -> dict[str, int]:
            return {"max_shared_mem": 227 * 1024}

        def load_binary(self, *_: Any) -> tuple[int, int, int, int, int]:
            found.loaded += 1
            return 1, found.loaded, 32, 0, 1024

    class Hopper:
        utils = Utils()
        launcher_cls = found

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return found.device

        def get_current_stream(self, _device: int) -> int:
            return found.stream

    driver.set_active(Hopper())
    scaled.device_caches.clear()
    return found


def tensors(dtype: torch.dtype, offset: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and input, the latter so many elements past a multiple of 16 bytes."""
    out, x = torch.zeros(2, 64, dtype=dtype)
    return out, x[offset : offset + 32]


@STARTED
def test_a_remembered_launch_is_the_one_of_triton(launched: Launched) -> None:
    from patterns.kernels.prepared import launch

    assert _direct(), "this version of Triton is not known: its launcher may have changed"
    cases = itertools.product(
        (torch.float32, torch.bfloat16),
        (0, 1, 8),
        [(32, 1, 1.0), (31, 16, 0.5), (1, 48, 1.0), (2**40, 50, 1.0), (32, True, 1.0)],
        (False, True),
    )
    kernels = set()
    for dtype, offset, (count, step, scale), twice in cases:
        out, x = tensors(dtype, offset)
        constants = {"ROWS": 32, "TWICE": twice, "num_warps": 4}
        scaled[(3,)](out, x, count, step, scale, **constants)
        for _ in range(3):
            launch(scaled, 3, out, x, count, step, scale, **constants)
        wanted, first, *later = launched.all[-4:]
        assert [first, *later] == [wanted] * 3
        kernels.add(wanted[0])
    assert len(kernels) > 20  # many to choose from


@STARTED
def test_triton_is_asked_once_for_arguments_of_a_kind(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _asked(monkeypatch)
    remembered = _launch()
    for offset, expected in ((0, 1), (0, 1), (1, 2), (1, 2), (0, 2), (4, 2)):  # 4: 16 bytes on
        remembered(*tensors(torch.float32, offset))
        assert len(asked) == expected, offset
    remembered(*tensors(torch.bfloat16, 0))
    assert len(asked) == 3
    launched.device = 1
    remembered(*tensors(torch.float32, 0))
    assert len(asked) == 4
    assert len(launched.all) == 8


@STARTED
def test_a_constant_may_be_left_to_its_default(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patterns.kernels.prepared import Launch

    asked = _asked(monkeypatch)
    remembered = Launch(scaled, 3, (32, 1, 0.5), {"ROWS": 32, "num_warps": 4})
    for _ in range(3):
        remembered(*tensors(torch.float32, 0))
    assert len(asked) == 1
    assert len({(kernel, grid) for kernel, grid, _, _ in launched.all}) == 1


@STARTED
def test_options_of_a_launch_are_its_own(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patterns.kernels.prepared import launch

    asked, numbers = _asked(monkeypatch), (32, 1, 0.5)
    options = [(early, stages, most) for early in (0, 1) for stages in (2, 3) for most in (40, 80)]
    for early, stages, most in options * 2:
        chosen = {"launch_pdl": True} if early else {}
        launch(
            scaled, 3, *tensors(torch.float32, 0), *numbers,
            ROWS=32, TWICE=False, num_warps=4, num_stages=stages, maxnreg=most, **chosen,
        )  # fmt: skip
    assert len(asked) == len(options)
    assert launched.options == options * 2


@STARTED
def test_the_environment_may_ask_for_launches_by_triton(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patterns.kernels import prepared

    with monkeypatch.context() as patch:
        patch.setenv("ATTNBENCH_DIRECT_LAUNCHES", "0")
        importlib.reload(prepared)
        asked, remembered = _asked(patch), _launch()
        for _ in range(3):
            remembered(*tensors(torch.float32, 0))
    assert len(asked) == len(launched.all) == 3
    importlib.reload(prepared)
    assert _direct()


@STARTED
def test_the_stream_is_the_current_one(launched: Launched) -> None:
    remembered = _launch()
    for stream in (7, 7, 8):
        launched.stream = stream
        remembered(*tensors(torch.float32, 0))
    assert [stream for _, _, stream, _ in launched.all] == [7, 7, 8]


@STARTED
def test_hooks_hear_of_every_launch(launched: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered = _launch()
    heard: list[Any] = []
    remembered(*tensors(torch.float32, 0))
    chain = type(triton.knobs.runtime.launch_enter_hook)()
    chain.add(heard.append)
    for hook in (chain, heard.append):
        monkeypatch.setattr(triton.knobs.runtime, "launch_exit_hook", hook)
        asked = _asked(monkeypatch)
        remembered(*tensors(torch.float32, 0))
        assert len(asked) == 1
    monkeypatch.undo()
    asked = _asked(monkeypatch)
    monkeypatch.setattr(scaled, "pre_run_hooks", [lambda *_, **__: heard.append(1)])
    remembered(*tensors(torch.float32, 0))
    assert (len(asked), heard) == (1, [1])


@STARTED
def test_what_was_compiled_and_not_launched_is_not_remembered(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.runtime.jit import JITFunction

    run, remembered = JITFunction.run, _launch()
    with monkeypatch.context() as patch:
        patch.setattr(JITFunction, "run", lambda *a, warmup, **more: run(*a, warmup=True, **more))
        for _ in range(2):
            remembered(*tensors(torch.float32, 0))
    assert launched.all == []
    remembered(*tensors(torch.float32, 0))
    assert len(launched.all) == 1


@STARTED
def test_another_version_of_triton_does_all_of_it(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    from patterns.kernels import prepared

    monkeypatch.setattr(prepared, "_DIRECT", False)
    asked, remembered = _asked(monkeypatch), _launch()
    for _ in range(3):
        remembered(*tensors(torch.float32, 0))
    assert len(asked) == len(launched.all) == 3


def _direct() -> bool:
    from patterns.kernels import prepared

    return prepared._DIRECT


def _launch() -> Any:
    from patterns.kernels.prepared import Launch

    return Launch(scaled, 3, (32, 1, 0.5), {"ROWS": 32, "TWICE": False, "num_warps": 4})


def _asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Triton was asked to launch from now on."""
    from triton.runtime.jit import JITFunction

    run, asked = JITFunction.run, list[Any]()

    def noted(self: Any, *arguments: Any, **more: Any) -> Any:
        asked.append(self)
        return run(self, *arguments, **more)

    monkeypatch.setattr(JITFunction, "run", noted)
    return asked

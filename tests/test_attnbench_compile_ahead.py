"""What is called before a run: all that may compile something, once, and no failure ends it."""

import pytest

import run_bench
from attnbench.compile_ahead import FirstCall, call_once, compile_ahead, first_calls
from attnbench.matrix import groups_of
from attnbench.presets import preset


def call(**changes: object) -> FirstCall:
    known = {
        "pattern": "local[window=4]", "backend": "sdpa", "batch": 1, "heads": 2, "kv_heads": 1,
        "length": 16, "dim": 8, "dtype": "float32", "device": "cpu", "backward": True,
    }  # fmt: skip
    return FirstCall(**{**known, **changes})  # type: ignore[arg-type]


def test_every_kernel_of_a_plan_is_called_once_and_dense_rows_are_not() -> None:
    groups = groups_of(preset("kernels", "cuda").parts)
    calls = first_calls(groups)
    assert len(calls) == len(set(calls))
    names = {one.pattern.partition("[")[0] for one in calls}
    assert {"combiner-fixed", "combiner-mixture", "logsparse", "axial"} <= names
    assert "full" not in names
    asked = {(c.pattern, c.length, c.dim) for g in groups for c in g.cases if c.asked != "full"}
    assert {(one.pattern, one.length, one.dim) for one in calls} == asked
    assert calls[0].length == max(one.length for one in calls)


def test_what_is_judged_is_called_with_gradients() -> None:
    calls = first_calls(groups_of(preset("full", "cuda").parts))
    judged = [one for one in calls if (one.heads, one.kv_heads) == (3, 1)]
    assert judged
    assert all(one.backward for one in judged)


@pytest.mark.parametrize("backward", [True, False])
def test_a_call_is_made(backward: bool) -> None:
    assert call_once(call(backward=backward)) == ""
    assert "no backend 'nothing'" in call_once(call(backend="nothing", backward=backward))


def test_processes_share_the_calls_and_failures_are_told() -> None:
    said: list[str] = []
    wrong = call(backend="nothing")
    failed = compile_ahead([call(), call(length=24), wrong], 2, said.append)
    assert list(failed) == [wrong]
    assert "called 3 implementations once in 2 processes" in said[-1]
    assert "1 failed" in said[-1]


def test_on_a_cpu_there_is_nothing_to_compile(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--device", "cpu", "--compile-ahead", "2", "--length", "32"]
    assert run_bench.main([*arguments, "--pattern", "local"]) == 2
    assert "--device cuda" in capsys.readouterr().err

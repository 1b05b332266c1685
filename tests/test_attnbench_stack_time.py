"""The time of a stack of layers, beside the sum of what single layers took."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import run_bench
from attnbench import engine, stack_time
from attnbench.measure_cost import Protocol
from attnbench.records import read
from attnbench.stack_time import StackRequest, expect_stack, table, time_stacks
from patterns import BadInput, Unsupported
from patterns.sparse.local import Local

SPEC = "masformer[full=1,window=4]"
SMALL = ("--layers", "3", "--heads", "2/1", "--dim", "8", "--device", "cpu", "--budget", "0.02")


def request_of(**changes: Any) -> StackRequest:
    given: dict[str, Any] = {
        "schedules": (SPEC,), "lengths": (64,), "layers": 3, "heads": 2, "kv_heads": 1, "dim": 8,
        "dtype": "float32", "device": "cpu",
    }  # fmt: skip
    return StackRequest(**{**given, **changes})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Single layers, measured until 5 rounds are there, however much they vary."""
    out = tmp_path_factory.mktemp("run") / "out"
    plan = request_of(lengths=(64, 128)).plan(60.0)
    assert engine.run(plan, out, protocol=Protocol(bound=1e3)).exit_code == 0
    return out


def test_the_prediction_is_the_sum_of_the_single_layers(run: Path, tmp_path: Path):
    typed = ["stack", "--pattern", SPEC, "--length", "64,128", *SMALL, "--times", str(run)]
    assert run_bench.main([*typed, "--out", str(tmp_path)]) == 0
    single = {
        (one["case"]["asked"], one["case"]["length"]): one["time"]["cold_ms"]["median"]
        for one in read(run)
    }
    found = json.loads((tmp_path / "stack.json").read_text())
    assert [(one["length"], one["stack"]) for one in found] == [
        (64, "full"), (64, SPEC), (128, "full"), (128, SPEC),
    ]  # fmt: skip
    for one in found:
        full, window = (single[name, one["length"]] for name in ("full", "local[window=4]"))
        expected = 3 * full if one["stack"] == "full" else full + 2 * window
        assert one["predicted_ms"] == pytest.approx(expected)
        assert one["predicted_speedup"] == pytest.approx(3 * full / expected)
        assert one["off"] == pytest.approx(one["ms"]["median"] / expected - 1)


def test_single_layers_are_measured_first_where_no_run_is_given(tmp_path: Path):
    typed = ["stack", "--pattern", SPEC, "--length", "32", *SMALL, "--out", str(tmp_path / "new")]
    assert run_bench.main(typed) == 0
    asked = {one["case"]["asked"] for one in read(tmp_path / "new")}
    assert asked == {"full", "local[window=4]"}
    assert len(json.loads((tmp_path / "new" / "stack.json").read_text())) == 2


def test_the_speed_up_is_that_of_full_attention_in_the_same_rounds(run: Path):
    full, mixed = time_stacks(request_of(), run, budget_s=0.1)
    assert full.speedup == 1
    assert full.ms["n"] >= 5
    assert mixed.speedup_interval[0] <= mixed.speedup <= mixed.speedup_interval[1]
    assert SPEC in table([full, mixed])


def test_every_layer_runs_its_own_pattern(run: Path, monkeypatch: pytest.MonkeyPatch):
    layers: list[str] = []
    own = Local.attend

    def attend(self: Local, *inputs: torch.Tensor, **more: Any) -> torch.Tensor:
        layers.append(self.spec)
        return own(self, *inputs, **more)

    monkeypatch.setattr(Local, "attend", attend)
    q, k, v = torch.randn(1, 2, 8, 4), torch.randn(1, 1, 8, 4), torch.randn(1, 1, 8, 4)
    patterns = request_of().stacks()[SPEC]
    stack_time._call(patterns, [(q, k, v), (q, k, v)])(0)
    assert layers == ["local[window=4]"] * 2


def test_without_times_of_the_layers_nothing_is_predicted_and_it_is_said(run: Path):
    other = time_stacks(request_of(lengths=(32,)), run, budget_s=0.1)
    assert [one.predicted_ms for one in other] == [None, None]
    assert "Measure it with run" in table(other)


def test_what_fails_while_it_is_timed_is_told(run: Path, monkeypatch: pytest.MonkeyPatch):
    def attend(self: Local, *inputs: torch.Tensor, **more: Any) -> torch.Tensor:
        raise Unsupported("not today")

    monkeypatch.setattr(Local, "attend", attend)
    with pytest.raises(Unsupported, match=r"masformer.* at length 64: not today"):
        time_stacks(request_of(), run, budget_s=0.1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pattern", "locl"), "did you mean 'local'"),
        (("--pattern", "masformer[full=4]"), "wants 4 full layers of 3"),
        (("--pattern", "local[causal=false]"), "is bidirectional"),
        (("--pattern", "local", "--budget", "0"), "--budget must be more than 0"),
        (("--pattern", "local", "--times", "no-such-run"), "no-such-run is not a run folder"),
    ],
)
def test_bad_input_is_one_line(words: tuple[str, ...], said: str, capsys: Any, tmp_path: Path):
    typed = ["stack", "--length", "64", *SMALL, *words, "--out", str(tmp_path / "out")]
    assert run_bench.main(typed) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(BadInput, match="at least 1 layer"):
        expect_stack(request_of(layers=0))

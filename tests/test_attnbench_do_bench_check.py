"""Two timers are compared fairly: interleaved, by medians, and with what explains a difference."""

import pytest

from attnbench import do_bench_check
from attnbench.do_bench_check import EMPTY, Row, compared, told
from attnbench.timing import Call, Clocks


def row(cold: float, do_bench: float, queued: float, held: float = 1.0) -> Row:
    medians = {"cold": cold, "do_bench": do_bench, "queued": queued, "held": held}
    times = {name: [ms] * 5 for name, ms in medians.items()}
    return Row(length=1024, ms=times, sm_mhz=dict.fromkeys(times, 1900.0))


@pytest.mark.parametrize(
    ("cold", "do_bench", "queued", "held", "verdict"),
    [
        (1.029, 1.0, 9.0, 9.0, "agree"),
        (0.0109, 0.0100, 9.0, 9.0, "agree"),  # 9 %, and within a microsecond
        (0.94, 1.0, 1.01, 0.94, "differ: with nothing held, they agree"),
        (0.94, 1.0, 1.01, 1.01, "differ: with as much flushed, they agree"),
        (0.96, 1.0, 0.96, 1.0, "DIFFER"),
    ],
)
def test_timers_agree_within_three_percent_or_a_microsecond(
    cold: float, do_bench: float, queued: float, held: float, verdict: str
):
    assert row(cold, do_bench, queued, held).verdict == verdict


def test_every_round_has_every_timer_on_every_call_in_an_order_of_its_own():
    seen: list[tuple[str, object]] = []

    def timer(name: str, ms: float):
        def timed(call: Call) -> float:
            seen.append((name, call(0)))
            return ms + len(seen) * 1e-6

        return timed

    calls = {1024: lambda _: "a", 2048: lambda _: "b"}
    timers = {"cold": timer("cold", 1.0), "do_bench": timer("do_bench", 2.0)}
    speeds = iter(range(1000, 2000))
    rows = compared(
        calls, timers, rounds=6, seed=0, clock=lambda: Clocks(sm_mhz=next(speeds), throttle=())
    )
    warm, rounds = seen[:4], [seen[4 + 4 * i : 8 + 4 * i] for i in range(6)]
    assert all(sorted(one) == sorted(warm) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1
    assert [one.length for one in rows] == [1024, 2048]
    assert len(rows[0].ms["cold"]) == 6
    assert rows[0].of("do_bench") == pytest.approx(2.0, abs=1e-3)
    assert 1000 < (rows[0].sm_mhz["cold"] or 0) < 1024


def test_a_table_has_a_line_a_length_with_its_verdict():
    empty = Row(length=EMPTY, ms=row(0.002, 0.002, 0.002).ms, sm_mhz={"cold": None})
    lines = told([empty, row(1.04, 1.0, 1.01)]).splitlines()
    assert len(lines) == 3
    assert "empty" in lines[1]
    assert lines[1].endswith("agree")
    assert "+40.00 µs  +4.0%" in lines[2]
    assert "1900/1900/1900/1900" in lines[2]


def test_only_a_difference_without_a_reason_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path
):
    rows = [row(1.04, 1.0, 1.01)]
    monkeypatch.setattr(do_bench_check, "measured", lambda *_, **__: rows)
    assert do_bench_check.main(["--json", str(tmp_path / "a.json")]) == 0
    assert '"verdict": "differ' in (tmp_path / "a.json").read_text()
    rows.append(row(0.9, 1.0, 0.9))
    assert do_bench_check.main([]) == 1
    assert "DIFFER" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"), [([], "sees no GPU"), (["--rounds", "0"], "--rounds")]
)
def test_bad_input_is_one_line(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert do_bench_check.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.gpu
def test_both_time_dense_attention_on_cuda():
    rows = do_bench_check.measured((4096,), rounds=5, seed=0)
    assert [one.length for one in rows] == [EMPTY, 4096]
    assert 0.5 < rows[1].of("cold") / rows[1].of("do_bench") < 2

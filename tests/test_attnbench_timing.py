"""The timing protocol, on a clock that the test moves."""

import random
from collections.abc import Callable

import pytest

from attnbench.statistics import interval, ratio, summary
from attnbench.timing import MIN_ROUNDS, Call, Clocks, Contender, Timed, time_group


class FakeWatch:
    """A device whose calls take what `costs` says, and which remembers who was called."""

    def __init__(self, noise: float = 0.0, drift: Callable[[float], float] | None = None) -> None:
        self.time = 0.0
        self.called: list[str] = []
        self._noise, self._random = noise, random.Random(0)
        self._drift = drift or (lambda now: 1.0)

    def now(self) -> float:
        return self.time

    def cold(self, name: str, call: Call) -> float:
        ms = call(0) * self._drift(self.time) * (1 + self._noise * self._random.random())
        self.time += ms / 1e3
        self.called.append(name)
        return ms

    def wall(self, call: Call) -> float | None:
        return None

    def graph(self, name: str, call: Call) -> Callable[[], float] | str:
        return "no graphs here"

    def clocks(self) -> Clocks | str | None:
        return Clocks(sm_mhz=1500, throttle=())

    def notes(self, name: str) -> dict[str, str]:
        return {"watched": name}


def costs(*milliseconds: float) -> list[Contender]:
    return [
        Contender(name="abcdef"[index], call=lambda _, ms=ms: ms)
        for index, ms in enumerate(milliseconds)
    ]


def time_them(contenders: list[Contender], watch: FakeWatch, **changes) -> dict[str, Timed]:
    return time_group(contenders, watch, **{"seed": 0, "budget_s": 10.0} | changes)


def rounds_of(called: list[str], names: str) -> list[str]:
    """Who came in which order, each name once for its slice, warm-ups left out."""
    order = [name for name, before in zip(called, [None, *called], strict=False) if name != before]
    slices = order[len(names) :]
    return ["".join(slices[at : at + len(names)]) for at in range(0, len(slices), len(names))]


def test_a_steady_contender_stops_at_the_bound_after_five_rounds():
    timed = time_them(costs(1.0), FakeWatch())["a"]
    assert (timed.stopped, len(timed.cold)) == ("bound", MIN_ROUNDS)
    assert summary(timed.cold)["median"] == pytest.approx(1.0)


def test_a_noisy_contender_goes_on_until_the_budget():
    watch = FakeWatch(noise=1.0)
    timed = time_them(costs(20.0), watch, bound=1e-6)["a"]
    assert timed.stopped == "budget"
    assert len(timed.cold) > MIN_ROUNDS
    assert watch.time <= 10.1


def test_there_are_five_rounds_whatever_the_budget():
    timed = time_them(costs(500.0), FakeWatch(noise=0.1), budget_s=0.0)["a"]
    assert len(timed.cold) == MIN_ROUNDS


def test_every_case_has_at_least_the_samples_that_were_asked_for():
    timed = time_them(costs(500.0, 0.1), FakeWatch(), min_samples=12)
    assert all(summary(one.cold)["n"] >= 12 for one in timed.values())


def test_every_round_has_every_contender_in_an_order_of_its_own():
    watch = FakeWatch(noise=1.0)
    time_them(costs(30.0, 20.0, 10.0), watch, bound=1e-9)
    found = rounds_of(watch.called, "abc")
    complete = [one for one in found if sorted(one) == ["a", "b", "c"]]
    assert len(complete) >= MIN_ROUNDS - 2  # where two slices of one name meet, they count as one
    assert len(set(complete)) > 1


def test_the_order_comes_from_the_seed():
    def called(seed: int) -> list[str]:
        watch = FakeWatch()
        time_them(costs(3.0, 2.0, 1.0), watch, seed=seed)
        return watch.called

    assert called(1) == called(1)
    assert called(1) != called(2)


def test_a_contender_within_its_bound_rests_while_others_go_on():
    draw = random.Random(1)
    noisy = Contender(name="noisy", call=lambda _: 10 + 10 * draw.random())
    timed = time_them([*costs(10.0), noisy], FakeWatch(), bound=1e-3)
    assert len(timed["a"].cold) == MIN_ROUNDS
    assert len(timed["noisy"].cold) > MIN_ROUNDS


def test_a_dense_contender_stays_for_as_long_as_any_other():
    draw = random.Random(1)
    noisy = Contender(name="noisy", call=lambda _: 10 + 10 * draw.random())
    dense = Contender(name="dense", call=lambda _: 10.0, dense=True)
    timed = time_them([dense, noisy], FakeWatch(), bound=1e-3)
    assert len(timed["dense"].cold) == len(timed["noisy"].cold)


def test_a_contender_that_raises_leaves_the_others_alone():
    def fails(_: int) -> float:
        raise RuntimeError("broken")

    timed = time_them([Contender(name="bad", call=fails), *costs(1.0)], FakeWatch())
    assert str(timed["bad"].error) == "broken"
    assert timed["a"].error is None
    assert len(timed["a"].cold) == MIN_ROUNDS


def test_a_contender_that_raises_later_leaves_the_others_alone():
    calls = iter([10.0] * 15)
    late = Contender(name="late", call=lambda _: next(calls))
    timed = time_them([late, *costs(10.0)], FakeWatch())
    assert isinstance(timed["late"].error, StopIteration)
    assert len(timed["a"].cold) == MIN_ROUNDS


def test_a_ratio_is_paired_so_that_a_drift_cancels():
    watch = FakeWatch(drift=lambda now: 1 + now)
    timed = time_them(costs(40.0, 10.0), watch, bound=1e-9)
    found = ratio(timed["a"].cold, timed["b"].cold)
    assert found.median == pytest.approx(4.0, rel=0.1)
    assert summary(timed["a"].cold)["p80"] > 1.5 * summary(timed["a"].cold)["p20"]


def test_clocks_and_notes_are_kept():
    timed = time_them(costs(1.0), FakeWatch())["a"]
    assert len(timed.clocks) == len(timed.cold)
    assert timed.notes == {"watched": "a", "graph_ms": "no graphs here"}


def test_a_summary_is_what_a_record_holds():
    found = summary([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [3.0, 4.0, 5.0]])
    assert found.keys() == {"median", "p20", "p80", "interval", "n", "samples"}
    assert (found["median"], found["n"]) == (3.0, 9)
    assert found["interval"][0] <= 3.0 <= found["interval"][1]
    assert found["samples"] == [1.0, 2.0, 3.0, 2.0, 3.0, 4.0, 3.0, 4.0, 5.0]
    assert summary([]) is None


def test_an_interval_covers_the_median_about_as_often_as_it_says():
    draw = random.Random(0)
    covered = 0
    for _ in range(200):
        found = interval([draw.gauss(10, 1) for _ in range(15)], resamples=400)
        covered += found.low <= 10 <= found.high
    assert 175 <= covered <= 200


@pytest.mark.gpu
def test_cold_time_on_cuda_is_device_time_and_graphs_replay():
    import torch

    from attnbench.contender import own_stream
    from attnbench.watch import CudaWatch

    device = torch.device("cuda")
    with own_stream(device), torch.no_grad():
        x = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
        watch = CudaWatch(device, copies=2, graph_bytes=1 << 30)
        matmul = Contender(name="matmul", call=lambda _: x @ x)
        syncs = Contender(name="syncs", call=lambda _: x.sum().item())
        timed = time_group([matmul, syncs], watch, seed=0, budget_s=2.0)
    cold, wall, graph = (
        summary(rounds)["median"]
        for rounds in (timed["matmul"].cold, timed["matmul"].wall, timed["matmul"].graph)
    )
    assert 0.1 < cold < wall
    assert graph == pytest.approx(cold, rel=0.5)
    assert timed["syncs"].graph == []
    assert "synchroniz" in timed["syncs"].notes["graph_ms"]
    assert "host" in timed["syncs"].notes
    assert "host" not in timed["matmul"].notes

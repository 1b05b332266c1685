"""Where the time of a run goes."""

from pathlib import Path

from attnbench import engine
from attnbench.matrix import Matrix
from attnbench.presets import Plan
from attnbench.records import RUN, read_document
from attnbench.spent import Spent, in_words, total


class Clock:
    """A clock that somebody sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_seconds_belong_to_the_step_that_was_under_way() -> None:
    clock = Clock()
    one = Spent(clock)
    for what, seconds in (("check", 2.0), ("time", 5.0), ("", 7.0), ("time", 1.0)):
        one.turn_to(what)
        clock.now += seconds
    assert total([one], 20.0) == {"check": 2.0, "time": 6.0, "else": 12.0}


def test_two_places_have_twice_the_seconds() -> None:
    clock = Clock()
    both = [Spent(clock), Spent(clock)]
    for one in both:
        one.turn_to("fidelity")
    clock.now += 3.0
    assert total(both, 4.0) == {"fidelity": 6.0, "else": 2.0}


def test_the_sentence_counts_timing_and_fidelity_as_measuring() -> None:
    said = in_words({"time": 60.0, "fidelity": 15.0, "check": 20.0, "inputs": 0.1, "else": 4.9})
    assert said == (
        "100 s, 75 % of them measuring "
        "(timing 60, checks and sizes 20, fidelity 15, starting and the rest 5)"
    )


def test_a_run_says_where_its_time_went_and_adds_to_it(tmp_path: Path) -> None:
    run, found = tmp_path / "run", []
    for lengths in ((32,), (32, 48)):
        part = Matrix(
            patterns=("full",), lengths=lengths, passes=("fwd",), heads=1, kv_heads=1, dim=16,
            dtype="float32", device="cpu", baselines=False,
        )  # fmt: skip
        engine.run(Plan(preset="own", parts=(part,), budget_s=5), run, extend=True)
        found.append((read_document(run, RUN) or {})["spent_s"])
    first, spent = found
    assert 0 < first["time"] < spent["time"]
    assert spent.keys() >= {"time", "first", "check", "inputs", "else"}

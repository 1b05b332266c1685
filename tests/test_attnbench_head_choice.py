"""Keys go to the heads where they take away the most harm, and never more than were asked for."""

import itertools
import random
from collections.abc import Sequence

import pytest

from attnbench.head_choice import Candidate, choose
from attnbench.schedule import schedule
from patterns import BadInput, pattern

NARROW, MIDDLE, WIDE = (pattern(f"sinks[window={window}]") for window in (4, 16, 64))


def candidate(one: object, keys: float, *harms: tuple[float, ...]) -> Candidate:
    return Candidate(pattern=one, keys=keys, harms=harms)  # type: ignore[arg-type]


def picked(candidates: list[Candidate], keys: float | None) -> list[list[object]]:
    rows = candidates[0].harms
    found = choose(candidates, keys=keys).patterns(len(rows))
    return [
        list(layer.patterns(len(row))) if hasattr(layer, "parts") else [layer] * len(row)
        for layer, row in zip(found, rows, strict=True)
    ]


def test_at_any_number_of_keys_every_head_has_what_harms_it_least() -> None:
    some = [
        candidate(NARROW, 8, (0.1, 0.9), (0.5, 0.2)),
        candidate(MIDDLE, 20, (0.3, 0.4), (0.1, 0.2)),
        candidate(WIDE, 68, (0.2, 0.3), (0.1, 0.1)),
    ]
    assert picked(some, None) == [[NARROW, WIDE], [MIDDLE, WIDE]]


def test_keys_go_where_they_help_most() -> None:
    some = [candidate(NARROW, 10, (0.5, 0.9, 0.5)), candidate(WIDE, 40, (0.4, 0.1, 0.3))]
    assert picked(some, 20.0) == [[NARROW, WIDE, NARROW]]
    assert picked(some, 30.0) == [[NARROW, WIDE, WIDE]]
    assert picked(some, 29.9) == [[NARROW, WIDE, NARROW]]
    assert picked(some, 40.0) == [[WIDE, WIDE, WIDE]]


def test_a_step_too_wide_leaves_its_keys_to_the_next_best() -> None:
    some = [
        candidate(NARROW, 0, (1.0, 0.2)),
        candidate(MIDDLE, 10, (0.99, 0.1)),
        candidate(WIDE, 100, (0.0, 0.1)),
    ]
    assert picked(some, 10.0) == [[NARROW, MIDDLE]]


@pytest.mark.parametrize("seed", range(6))
def test_no_other_choice_of_as_many_keys_harms_less(seed: int) -> None:
    """At the keys that some price of a key leads to; between them a step may not fit."""
    draw, heads, keys = random.Random(seed), 5, (1, 2, 4)
    harms = [[draw.random() for _ in range(heads)] for _ in keys]
    some = [
        candidate(one, many, tuple(row))
        for one, many, row in zip((NARROW, MIDDLE, WIDE), keys, harms, strict=True)
    ]

    def sums(ways: Sequence[int]) -> tuple[int, float]:
        return sum(keys[way] for way in ways), sum(harms[way][h] for h, way in enumerate(ways))

    every = [sums(ways) for ways in itertools.product(range(3), repeat=heads)]
    met = set()
    for price in (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5):
        priced = [
            [harms[way][head] + price * keys[way] for way in range(3)] for head in range(heads)
        ]
        total, _ = sums([row.index(min(row)) for row in priced])
        row = picked(some, total / heads)[0]
        found = sums([(NARROW, MIDDLE, WIDE).index(one) for one in row])  # type: ignore[arg-type]
        assert found[0] == total
        assert found[1] == pytest.approx(min(harm for many, harm in every if many <= total))
        met.add(total)
    assert len(met) > 2


def test_the_schedule_is_written_as_it_is_read() -> None:
    some = [
        candidate(NARROW, 8, (0.1, 0.1, 0.9), (0.1, 0.1, 0.1), (0.1, 0.1, 0.1), (0.9, 0.9, 0.9)),
        candidate(WIDE, 68, (0.2, 0.2, 0.2), (0.2, 0.2, 0.2), (0.2, 0.2, 0.2), (0.2, 0.2, 0.2)),
    ]
    found = choose(some)
    assert found.spec == (
        "0h0-1:sinks[window=4],0h2:sinks[window=64],1-2:sinks[window=4],3:sinks[window=64]"
    )
    assert schedule(found.spec) == found


def test_what_cannot_be_chosen_is_refused() -> None:
    with pytest.raises(BadInput, match="nothing to choose from"):
        choose([])
    some = [candidate(NARROW, 8, (0.1,)), candidate(WIDE, 68, (0.2,))]
    with pytest.raises(BadInput, match=r"fewest keys .* 8\.0 a query, and 7\.0 are asked for"):
        choose(some, keys=7.0)

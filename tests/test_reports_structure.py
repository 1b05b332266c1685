"""Regions and shares of cells against the definition, pair by pair."""

import numpy as np
import pytest
import torch

from attnbench import PATTERNS, pattern
from patterns.combiner.base import CombinerPattern
from reports.codes import HIDDEN
from reports.structure import ALL, DIRECT, MIXED, UNSEEN, Window, definition, regions, shares

LENGTH = 61
WHOLE = Window(total=LENGTH, query=0, key=0, length=LENGTH, bin_size=1)
BINS = Window(total=LENGTH, query=0, key=0, length=LENGTH, bin_size=8)
WHOLE_ROWS = torch.arange(LENGTH)
PART = Window(total=LENGTH, query=30, key=9, length=16, bin_size=1)


def small(name: str, causal: bool = True):
    return PATTERNS[name](**PATTERNS[name].tiny, causal=causal).resolve(LENGTH)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_shares_are_counted_pair_by_pair(name: str, causal: bool):
    made = small(name, causal)
    seen = made.support(LENGTH).numpy()
    visible = np.tril(np.ones_like(seen)) if causal else np.ones_like(seen)
    for window in (WHOLE, BINS, PART):
        found = shares(made, window)
        assert found is not None
        size = window.bin_size
        for row, column in np.ndindex(found.shape):
            i, j = window.query + row * size, window.key + column * size
            box = (slice(i, min(i + size, window.query + window.length)),
                   slice(j, min(j + size, window.key + window.length)))  # fmt: skip
            there, count = visible[box].sum(), (seen & visible)[box].sum()
            code = found[row, column]
            assert (code == HIDDEN) == (there == 0)
            if there:
                assert (code == 0) == (count == 0)
                assert (code == ALL) == (count == there)
                assert abs(code / ALL - count / there) <= 1 / ALL


@pytest.mark.parametrize(
    "name", sorted(name for name, kind in PATTERNS.items() if issubclass(kind, CombinerPattern))
)
def test_equal_labels_are_one_region_and_direct_keys_stand_apart(name: str):
    made = small(name)
    plans = made.partitions(WHOLE_ROWS, LENGTH)
    found = regions(made, WHOLE)
    if len(plans) > 1:
        assert found is None
        return
    assert found is not None
    plan = plans[0].numpy()
    assert np.array_equal(found == DIRECT, plan == -1)
    assert np.array_equal(found == UNSEEN, plan == -2)
    assert not (found == MIXED).any()
    pairs = {(int(a), int(b)) for a, b in zip(plan.flat, found.flat, strict=True) if a >= 0}
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    part = regions(made, PART)
    assert part is not None
    inside = plan[30:46, 9:25]
    assert np.array_equal(part == DIRECT, inside == -1)


def test_a_cell_of_several_regions_is_mixed_and_one_of_a_region_is_not():
    made = pattern("combiner-fixed[block=8]").resolve(LENGTH)
    found = regions(made, BINS)
    assert found is not None
    assert len(set(found[6, :6])) == 6
    assert found[6, 6] == DIRECT
    assert found[6, 7] == UNSEEN
    assert np.array_equal(found[5, :5], found[6, :5])
    finer = regions(pattern("combiner-fixed[block=4]").resolve(LENGTH), BINS)
    assert finer is not None
    assert (finer[6, :6] == MIXED).all()


def test_without_regions_or_knowledge_there_is_nothing_to_outline():
    assert regions(small("local"), WHOLE) is None
    assert definition("no-such-pattern[x=1]", 64) is None
    long = Window(total=1 << 16, query=0, key=0, length=1 << 16, bin_size=128)
    assert shares(pattern("local[window=4]").resolve(1 << 16), long) is None

"""Computed pairs: counted by hand in small, and no less than the definition needs."""

from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from attnbench.case import CostCase
from attnbench.computed import TILE, _Counter, _WholeCalls, computed_pairs, tiled_pairs
from patterns import PATTERNS


def case(spec: str, length: int = 256, **changes: Any) -> CostCase:
    """A cost case of two heads with one head of keys."""
    shape: dict[str, Any] = {"batch": 1, "heads": 2, "kv_heads": 1, "dim": 16, "causal": True}
    where = {"dtype": "float32", "device": "cpu", "seed": 0, "pass_": "fwd", "backend": "auto"}
    return CostCase(asked=spec, pattern=spec, length=length, **{**shape, **where, **changes})


def by_hand(queries: int, keys: int, causal: bool, window: int | None) -> int:
    """The pairs of the tiles that hold a visible pair, pair by pair."""
    seen = {
        (i // TILE, j // TILE)
        for i in range(queries)
        for j in range(keys)
        if (not causal or j <= i) and (window is None or j >= i - window)
    }
    return sum((i // TILE, j // TILE) in seen for i in range(queries) for j in range(keys))


@pytest.mark.parametrize(
    ("queries", "keys", "causal", "window"),
    [
        (100, 70, False, None), (300, 300, True, None), (384, 384, True, 40), (300, 300, True, 0),
        (260, 260, False, 130),
    ],
)  # fmt: skip
def test_tiles_are_those_that_hold_a_visible_pair(queries, keys, causal, window):
    found = tiled_pairs(queries, keys, causal=causal, window=window)
    assert found == by_hand(queries, keys, causal, window)


def test_the_textbook_softmax_computes_all_pairs_and_the_fused_kernel_skips_tiles():
    assert computed_pairs(case("full"), "eager") == (2 * 256 * 256, None)
    assert computed_pairs(case("full"), "sdpa") == (2 * 3 * TILE * TILE, None)
    assert computed_pairs(case("full[causal=false]", causal=False), "sdpa") == (2 * 256**2, None)


def test_attention_is_counted_before_a_kernel_is_chosen_for_it():
    # Without a device that has a fused kernel PyTorch would take it apart, and skip no tile.
    q = torch.empty(2, 3, 256, 16, device="meta")
    with _Counter() as counter, _WholeCalls(counter):
        out = scaled_dot_product_attention(q, q, q, is_causal=True)
    assert out.shape == q.shape
    assert counter.flops == 2 * 3 * 3 * TILE * TILE * 4 * 16


def test_blocks_are_computed_whole_on_either_backend():
    # Own blocks whole, the 15 summaries before the last block for all rows but those of the first
    # block, and what building the summaries takes.
    for backend in ("eager", "sdpa"):
        found = computed_pairs(case("combiner-fixed[block=16]"), backend)
        assert found == (2 * (256 * 16 + 240 * 15 + 15 * 16), None)


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_a_number_is_no_less_than_the_definition_needs(name: str):
    from attnbench.matrix import shape_of
    from patterns import pattern

    one = case(name)
    pairs, why = computed_pairs(one, "eager")
    assert (pairs is None) == (why is not None)
    if pairs is not None:
        assert pairs * 4 * one.dim >= pattern(name).cost(shape_of(one)).flops


def test_what_is_not_counted_says_why():
    assert computed_pairs(case("logsparse"), "eager") == (
        None, "not all of its products are matrix products"
    )  # fmt: skip
    assert computed_pairs(case("combiner-fixed"), "triton") == (
        None, "the tiles of backend triton are not counted"
    )  # fmt: skip


def test_it_stops_where_counting_would_take_long():
    pairs, why = computed_pairs(case("oracle-topk", 65536, heads=8), "eager")
    assert pairs is None
    assert "more than" in str(why)

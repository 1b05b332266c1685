"""What is true of Combiner-Open, beside what every pattern promises."""

import pytest
import torch
from contract import assert_as_good, draw_inputs
from torch import Tensor

from patterns import BadInput, Shape, pattern
from patterns.combiner.open import CombinerOpen
from patterns.combiner.rotary import asking_from, moved

ROTARY = 100.0  # a base at which a few tokens make a difference


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("length", [1, 7, 40, 67])
@pytest.mark.parametrize("rest", ["sink=0,near=0", "sink=3,near=1", "sink=9,near=2"])
@pytest.mark.parametrize("causal", ["true", "false"])
def test_without_opening_it_is_the_variational_combiner_fixed(
    length: int, rest: str, causal: str
) -> None:
    q, k, _ = draw_inputs(length)
    found = pattern(f"combiner-open[block=4,top=0,{rest},causal={causal}]").weights(q, k)
    fixed = pattern(f"combiner-fixed[block=4,summary=variational,{rest},causal={causal}]")
    close(found, fixed.weights(q, k))


@pytest.mark.parametrize("causal", ["true", "false"])
def test_with_every_region_opened_it_is_full_attention(causal: str) -> None:
    q, k, _ = draw_inputs(43)
    found = pattern(f"combiner-open[block=4,top=99,causal={causal}]").weights(q, k)
    close(found, pattern(f"full[causal={causal}]").weights(q, k))


def test_the_regions_that_weigh_most_are_opened_and_the_others_keep_their_summary() -> None:
    q, k, _ = draw_inputs(64, heads=1)
    closed = pattern("combiner-open[block=8,top=0,sink=0,near=0]").weights(q, k)
    opened = pattern("combiner-open[block=8,top=2,sink=0,near=0]").weights(q, k)
    full = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    for row in (24, 47, 63):
        last = row // 8
        masses = closed[0, 0, row, : 8 * last].view(last, 8).sum(dim=1)
        best = masses.topk(2).indices.tolist()
        for region in range(last):
            part = slice(8 * region, 8 * region + 8)
            weights = opened[0, 0, row, part] / opened[0, 0, row, row]
            if region in best:  # as in full attention: beside the own token's weight, exactly
                close(weights, (full[0, 0, row, part] - full[0, 0, row, row]).exp())
            else:
                close(weights, closed[0, 0, row, part] / closed[0, 0, row, row])


def test_it_finds_one_key_far_away_where_a_summary_does_not() -> None:
    q, k, v = (0.1 * x.detach() for x in draw_inputs(128, heads=1))
    k[:, :, 21] = 8.0  # answers the last query alone
    q[:, :, 127] = 8.0
    wanted = v[:, :, 21]
    found = pattern("combiner-open[block=8,top=1]").attend(q, k, v)[:, :, 127]
    summary = pattern("combiner-fixed[block=8,summary=variational,sink=4,near=2]")
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=0.0)
    assert (summary.attend(q, k, v)[:, :, 127] - wanted).abs().max() > 0.02


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("length", [17, 70, 129])
@pytest.mark.parametrize(
    "rest", ["", ",sink=11,near=0", ",top=3,sink=5,near=1", ",causal=false,top=3,sink=2"]
)
def test_a_region_query_that_was_moved_is_told_alike_by_map_and_fast_form(
    rest: str, length: int, backend: str
) -> None:
    form = pattern(f"combiner-open[block=8,rotary={ROTARY},ahead=5{rest}]")
    for dtype in (torch.float64, torch.bfloat16):
        assert_as_good(form, backend, draw_inputs(length, dtype=dtype))


def test_moving_a_query_is_turning_it_as_a_later_position_would() -> None:
    raw = draw_inputs(12).q
    place = torch.arange(12)
    close(moved(moved(raw, place, ROTARY), 30 - place, ROTARY), moved(raw, place * 0 + 30, ROTARY))
    turned = moved(raw, place, ROTARY)
    pair = torch.complex(raw[..., 1], raw[..., 5])  # the second of four pairs
    pair = pair * torch.polar(torch.ones(12), place * ROTARY ** -(1 / 4)).to(pair)
    torch.testing.assert_close(turned[..., 1], pair.real, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(turned[..., 5], pair.imag, rtol=1e-6, atol=1e-6)


def test_all_queries_of_a_block_ask_from_one_place_ahead_of_its_middle() -> None:
    raw = draw_inputs(16).q[:, :, :1].expand(-1, -1, 16, -1)
    asking = asking_from(moved(raw, torch.arange(16), ROTARY), 8, ROTARY, 20)
    middle = torch.tensor([3.5] * 8 + [11.5] * 8)
    close(asking, moved(raw, middle + 20, ROTARY))


def test_only_differences_of_positions_matter() -> None:
    form = pattern(f"combiner-open[block=8,rotary={ROTARY}]")
    raw = draw_inputs(60, heads=1)
    maps = []
    for start in (0, 1000):
        place = torch.arange(start, start + 60)
        maps.append(form.weights(moved(raw.q, place, ROTARY), moved(raw.k, place, ROTARY)))
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-9, atol=1e-10)


def test_where_the_region_asks_from_makes_a_difference() -> None:
    q, k, _ = draw_inputs(60)
    maps = [
        pattern(f"combiner-open[block=8{rest}]").weights(q, k)
        for rest in ("", f",rotary={ROTARY}", f",rotary={ROTARY},ahead=5")
    ]
    for one, other in ((0, 1), (1, 2)):
        assert (maps[one] - maps[other]).abs().max() > 0.01


@pytest.mark.parametrize("length", [64, 61, 5])
@pytest.mark.parametrize("causal", [True, False])
def test_the_cost_counts_direct_keys_opened_blocks_and_summaries(length: int, causal: bool) -> None:
    block, top, sink, near = 4, 2, 4, 1
    form = pattern(
        f"combiner-open[block={block},top={top},sink={sink},near={near},causal={causal}]"
    )
    attended = building = 0
    regions = range(1, -(-length // block))  # the sinks are block 0
    read: set[int] = set()
    for row in range(length):
        own = row // block
        far = [r for r in regions if (own - r if causal else abs(own - r)) > near]
        direct = sum(
            (key <= row or not causal) and (key < sink or key // block not in far)
            for key in range(length)
        )
        opened = min(top, len(far))
        attended += direct + len(far) - opened + block * opened
        building += opened
        read |= set(far)
    building += sum(min(length, block * (r + 1)) - block * r for r in read)
    cost = form.cost(Shape(batch=1, heads=1, kv_heads=1, length=length, dim=8, element_bytes=4))
    assert (cost.attended_pairs, cost.building_pairs) == (attended, building)


def test_an_odd_head_has_no_pairs_to_turn() -> None:
    inputs = draw_inputs(40, dim=7)
    with pytest.raises(BadInput, match="the head width 7 is odd"):
        pattern("combiner-open[block=4,rotary=10000]").attend(*inputs)


@pytest.mark.parametrize("field", ["top", "near", "sink", "rotary", "ahead"])
def test_parameters_without_meaning_are_refused(field: str) -> None:
    with pytest.raises(BadInput, match=rf"combiner-open\[{field}=...\] must not be negative"):
        CombinerOpen(**{field: -1})

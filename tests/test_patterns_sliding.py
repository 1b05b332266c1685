"""What is true of Combiner-Sliding, beside what every pattern promises."""

import pytest
import torch
from contract import assert_as_good, draw_inputs
from torch import Tensor

from patterns import BadInput, Shape, pattern
from patterns.combiner.rotary import moved
from patterns.combiner.sliding import CombinerSliding
from patterns.combiner.trailing import Singly, Trailing

ROTARY = 100.0  # a base at which a few tokens make a difference


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rest", ["", f",rotary={ROTARY},ahead=5"])
def test_where_a_block_begins_at_the_window_it_is_the_aligned_form(rest: str) -> None:
    """In the last row of a whole number of blocks."""
    for length in (16, 40, 64):
        q, k, _ = draw_inputs(length)
        last = torch.tensor([length - 1])
        slid = pattern(f"combiner-sliding[window=8,block=4,top=1,sink=0{rest}]")
        aligned = pattern(f"combiner-open[block=4,near=1,top=1,sink=0{rest}]")
        close(slid.weights(q, k, rows=last), aligned.weights(q, k, rows=last))


def test_without_opening_it_is_one_softmax_over_the_window_and_summaries_behind_it() -> None:
    q, k, v = draw_inputs(30, heads=1)
    form = pattern("combiner-sliding[window=5,block=4,top=0,sink=2]")
    scale, row = q.shape[-1] ** -0.5, 27
    direct = [0, 1, *range(23, 28)]
    keys, values, biases = [k[:, 0, direct]], [v[:, 0, direct]], [torch.zeros(2, 7).double()]
    for end in (22, 18, 14, 10, 6, 2):
        part = slice(max(2, end - 3), end + 1)
        asked = q[:, 0, part].mean(dim=1, keepdim=True)
        local = (scale * (asked @ k[:, 0, part].mT)).softmax(dim=-1)
        keys.append(local @ k[:, 0, part])
        values.append(local @ v[:, 0, part])
        biases.append(-(local * local.log()).sum(dim=-1))
    scores = scale * (q[:, 0, row, None] @ torch.cat(keys, 1).mT)[:, 0] + torch.cat(biases, 1)
    wanted = (scores.softmax(dim=-1)[:, None] @ torch.cat(values, 1))[:, 0]
    close(form.attend(q, k, v)[:, 0, row], wanted)


@pytest.mark.parametrize("causal", ["true", "false"])
def test_with_every_region_opened_it_is_full_attention(causal: str) -> None:
    q, k, v = draw_inputs(43)
    form = pattern(f"combiner-sliding[window=3,block=4,top=99,causal={causal}]")
    full = pattern(f"full[causal={causal}]")
    close(form.weights(q, k), full.weights(q, k))
    close(form.attend(q, k, v), full.attend(q, k, v))


@pytest.mark.parametrize("causal", ["true", "false"])
def test_a_window_over_everything_is_full_attention(causal: str) -> None:
    q, k, v = draw_inputs(21)
    form = pattern(f"combiner-sliding[window=21,block=4,causal={causal}]")
    close(form.attend(q, k, v), pattern(f"full[causal={causal}]").attend(q, k, v))


def test_a_token_more_at_the_start_moves_no_region() -> None:
    q, k, _ = draw_inputs(50, heads=1)
    longer = [torch.cat([x[:, :, :1], x], dim=2) for x in (q, k)]

    def apart(spec: str) -> float:
        maps = pattern(spec).weights(q, k)[..., -1, :], pattern(spec).weights(*longer)[..., -1, 1:]
        one, other = (x / x[..., -1:] for x in maps)  # beside the weight of the own token
        return float((one - other).detach().abs().max())

    assert apart("combiner-sliding[window=6,block=4,top=0,sink=0]") < 1e-12
    assert apart("combiner-open[near=1,block=4,top=0,sink=0]") > 1e-3


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("length", [17, 70, 129])
@pytest.mark.parametrize(
    "rest",
    ["", ",sink=11,window=1", ",top=3,sink=5,window=30", ",causal=false,top=3,sink=12,window=2"],
)
def test_a_region_query_that_was_moved_is_told_alike_by_map_and_fast_form(
    rest: str, length: int, backend: str
) -> None:
    form = pattern(f"combiner-sliding[block=8,rotary={ROTARY},ahead=5{rest}]")
    for dtype in (torch.float64, torch.bfloat16):
        assert_as_good(form, backend, draw_inputs(length, dtype=dtype))


@pytest.mark.parametrize("sign", [1, -1])
def test_all_queries_of_a_region_ask_from_one_place_past_its_middle(sign: int) -> None:
    raw, token = draw_inputs(16).q[0, :, :1].expand(-1, 16, -1), torch.arange(16)
    form = CombinerSliding(block=8, rotary=ROTARY, ahead=20)
    regions = Trailing(length=16, block=8, belong=token >= 0)
    pooled = regions.pool(form._unturned(moved(raw, token, ROTARY), token))
    asked = form._turned(pooled, token, sign)
    close(asked, moved(raw, token + sign * (20 - 3.5), ROTARY))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [64, 61, 9, 3])
@pytest.mark.parametrize("sink", [0, 4, 11])
def test_the_cost_counts_direct_keys_opened_blocks_and_summaries(
    length: int, sink: int, causal: bool
) -> None:
    window, block, top = 3, 4, 2
    form = CombinerSliding(window=window, block=block, top=top, sink=sink, causal=causal)
    attended = opened = 0
    read: dict[tuple[int, int], int] = {}
    for row in range(length):
        regions = 0
        for sign in (1,) if causal else (1, -1):
            end = row - sign * window
            while 0 <= end < length:
                tokens = [end - sign * step for step in range(block)]
                size = sum(sink <= token < length for token in tokens)
                if size:
                    read[sign, end] = size
                    regions += 1
                end -= sign * block
        visible = range(row + 1 if causal else length)
        attended += sum(abs(row - key) < window or key < sink for key in visible)
        opened += min(top, regions)
        attended += regions + min(top, regions) * (block - 1)
    cost = form.cost(Shape(batch=1, heads=1, kv_heads=1, length=length, dim=1, element_bytes=1))
    assert cost.attended_pairs == attended
    assert cost.building_pairs == sum(read.values()) + opened
    assert cost.bytes == 4 * length + 2 * len(read)


@pytest.mark.parametrize("length", [1, 5, 4096, 4097, 9000])
def test_rows_by_themselves_come_back_as_they_were(length: int) -> None:
    x = torch.arange(6.0 * length).view(1, 3, length, 2)
    rows = Singly(length)
    arranged = rows.arrange(x)
    assert arranged.shape[1] <= 4096
    assert torch.equal(rows.restore(arranged, 1, 0.0), x)


def test_an_odd_head_has_no_pairs_to_turn() -> None:
    inputs = draw_inputs(40, dim=7)
    with pytest.raises(BadInput, match="the head width 7 is odd"):
        pattern("combiner-sliding[block=4,rotary=10000]").attend(*inputs)


@pytest.mark.parametrize("field", ["top", "sink", "rotary", "ahead"])
def test_parameters_without_meaning_are_refused(field: str) -> None:
    with pytest.raises(BadInput, match=rf"combiner-sliding\[{field}=...\] must not be negative"):
        CombinerSliding(**{field: -1})

"""Schedules: how they are written, what they cost, and how far they reach."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench.evaluation import Evaluation, cases, resolved
from attnbench.excerpts import COPIED, FILLER, copies, excerpt_count, excerpts
from attnbench.language import Sizes
from attnbench.layers import PerHead, keys_of
from attnbench.reach import reach, rollout
from attnbench.schedule import schedule, schedules
from attnbench.stack import kept_tokens, predicted_time, stack_cost
from attnbench.statistics import mean_interval
from patterns import BadInput, Pattern, Unsupported, pattern
from patterns.base import Shape

SHAPE = Shape(batch=2, heads=8, kv_heads=2, length=64, dim=16, element_bytes=2)
SIZES = Sizes(layers=4, heads=4, kv_heads=2, dim=8, positions=512)


def names(text: str, layers: int) -> list[str]:
    return [one.spec for one in schedule(text).patterns(layers)]


def letters(text: str, layers: int) -> str:
    """F for a layer of full attention, a dot for another."""
    return "".join("F" if one == "full" else "." for one in names(text, layers))


def test_a_schedule_is_a_pattern_or_layers_or_a_name():
    assert names("local[window=4]", 2) == ["local[window=4]"] * 2
    assert names("0:full,1-2:local[window=4],3-:sinks[window=2,sink=1]", 5) == [
        "full", "local[window=4]", "local[window=4]", *["sinks[window=2,sink=1]"] * 2,
    ]  # fmt: skip
    assert names("masformer[full=1,window=1k,sink=2]", 2) == ["full", "sinks[window=1024,sink=2]"]
    assert schedule(pattern("full")).patterns(1) == (pattern("full"),)


@pytest.mark.parametrize(
    ("place", "found"),
    [("bottom", "FFF....."), ("top", ".....FFF"), ("interleaved", "F.F..F..")],
)
def test_masformer_keeps_full_attention_where_it_says(place: str, found: str):
    assert letters(f"masformer[full=3,window=4,place={place}]", 8) == found


def test_masformer_with_all_or_no_full_layers_is_the_pattern_itself():
    for place in ("bottom", "top", "interleaved"):
        assert letters(f"masformer[full=4,place={place}]", 4) == "FFFF"
        assert letters(f"masformer[full=0,place={place}]", 4) == "...."


@pytest.mark.parametrize(
    "text",
    [
        *(
            "full",
            "0-7:full,8-:local[window=32]",
            "3:full",
            "masformer[full=4,window=64,place=top]",
        ),
        "0-1:full,2-h0-1:full,2-h2:local[window=4],2-h3-:sinks[window=2]",
    ],
)
def test_a_spec_reads_back_as_itself(text: str):
    assert schedule(text).spec == text
    assert schedule(schedule(text).spec) == schedule(text)


def test_sweeps_multiply():
    assert [one.spec for one in schedules("0:full,1-:local[window=4|8]")] == [
        "0:full,1-:local[window=4]", "0:full,1-:local[window=8]",
    ]  # fmt: skip
    assert len(schedules("masformer[full=1|2|4,place=bottom|top]")) == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("masforme", "did you mean 'masformer'"),
        ("masformer[ful=1]", "did you mean 'full'"),
        ("masformer[place=middle]", "expects one of bottom, top, interleaved"),
        ("masformer[full=9]", "wants 9 full layers of 4"),
        ("masformer[full=-1]", "expected a whole number"),
        ("masformer[window=0]", "must be at least 1"),
        ("0-1:full", "leaves out layer 2 of 4"),
        ("0-:full,2:local", "gives layer 2 two patterns"),
        ("0-4:full", "beyond a model of 4 layers"),
        ("2-1:full", "end before they begin"),
        ("0-h1-0:full", "end before they begin"),
        ("0-h0:full,0-:full", "gives layer 0 two patterns"),
        ("0-hx:full", "cannot read '0-hx:full'.* such as 8-h0-2:full"),
        ("full,1-:local", "cannot read 'full'"),
        ("a-b:full", "cannot read 'a-b:full'"),
        ("0-:ful", "did you mean 'full'"),
        ("local[window=1|2]", "asks for 2 schedules"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, said: str):
    with pytest.raises(BadInput, match=said):
        schedule(text).patterns(4)


HEADS = "0:full,1-h1-2:full,1-h0:local[window=4],1-h3-:local[window=2]"


def test_heads_have_the_patterns_that_they_are_given():
    first, second = schedule(HEADS).patterns(2)
    assert first == pattern("full")
    assert isinstance(second, PerHead)
    assert [one.spec for one in second.patterns(5)] == [
        "local[window=4]", "full", "full", "local[window=2]", "local[window=2]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0-h0-2:full", "head 3 of 4 is left out in a layer: add h3:full"),
        ("0-h0-2:full,0-h2-:local", "head 2 has two patterns"),
        ("0-h0-4:full", "heads 0-4 are beyond the 4 query heads, 0 to 3"),
    ],
)
def test_heads_that_do_not_fit_the_model_are_refused(text: str, said: str):
    with pytest.raises(BadInput, match=said):
        stack_cost(schedule(text).patterns(2), replace(SHAPE, heads=4))
    with pytest.raises(BadInput, match=said):
        list(cases(asked(schedules=(text,)), SIZES, "t"))


def test_a_layer_with_patterns_by_head_costs_what_its_heads_cost():
    """8 query heads, 4 to a key-value head: 0 and 3-7 have windows of 4 and 2, 1 and 2 are full."""
    found = stack_cost(schedule(HEADS).patterns(2)[1:], SHAPE)
    shapes = {"local[window=4]": 1, "full": 2, "local[window=2]": 5}
    costs = [pattern(spec).cost(replace(SHAPE, heads=n, kv_heads=n)) for spec, n in shapes.items()]
    assert found.flops == sum(one.flops for one in costs)
    assert found.keys_per_query == pytest.approx(
        sum(one.attended_pairs for one in costs) / (2 * 8 * 64)
    )
    tokens = 64 + 1  # the first key-value head is read by a full head, the second by windows of 2
    assert found.kv_bytes == 2 * tokens * 2 * 16 * 2


def test_heads_share_their_keys_where_they_can():
    assert keys_of((0, 1, 2, 3), 2) == [0, 1]
    assert keys_of((0, 2), 2) == [0, 1]
    assert keys_of((0, 1, 2), 2) == [0, 0, 1]


def test_a_case_writes_heads_as_a_schedule_does():
    text = "0:full,1-2h0-2:full,1-2h3-:local"
    assert resolved(schedule(text).patterns(3), 64) == "0:full,1-2h0-2:full,1-2h3-:local[window=8]"
    assert resolved(schedule("0-h0:full,0-h1-:full").patterns(2), 64) == "0-1h0:full,0-1h1-:full"


def test_reach_takes_the_mean_over_heads():
    half = schedule("0-h0:full,0-h1:local[window=1]").patterns(1)
    full, own = (schedule(one).patterns(1) for one in ("full", "local[window=1]"))
    found = [reach(one, 32, heads=2)[0].distance for one in (half, full, own)]
    assert found[0] == pytest.approx((found[1] + found[2]) / 2)
    assert reach(half, 32, heads=2)[0].share == 1


def test_the_time_of_a_layer_by_heads_is_that_of_its_calls():
    layers = schedule("0:full,1-h0-3:full,1-h4-:local[window=2]").patterns(2)
    case = {
        "pass": "fwd", "batch": 1, "dim": 16, "dtype": "float32", "device": "cpu",
        "backend": "auto", "length": 64, "causal": True,
    }  # fmt: skip
    records = [
        {
            "kind": "cost", "status": "ok", "time": {"cold_ms": {"median": ms}},
            "case": case | {"asked": spec, "pattern": spec, "heads": heads, "kv_heads": kv},
        }
        for spec, heads, kv, ms in (
            ("full", 8, 2, 9.0), ("full", 4, 1, 5.0), ("local[window=2]", 4, 1, 1.5),
        )
    ]  # fmt: skip
    found = predicted_time(layers, replace(SHAPE, batch=1), records, dtype="float32", device="cpu")
    assert found.ms == pytest.approx(9.0 + 5.0 + 1.5)
    with pytest.raises(Unsupported, match=r"local\[window=2\] has no time.* 4/1 heads"):
        predicted_time(layers, replace(SHAPE, batch=1), records[:2], dtype="float32", device="cpu")


def test_a_stack_costs_the_sum_of_its_layers():
    full, local = pattern("full"), pattern("local[window=4]")
    found = stack_cost([full, local, local], SHAPE)
    costs = [one.cost(SHAPE) for one in (full, local, local)]
    assert found.flops == sum(one.flops for one in costs)
    assert found.scored_pairs == sum(one.scored_pairs for one in costs)
    per_query = [sum(range(1, 65)) / 64, *[(1 + 2 + 3 + 4 * 61) / 64] * 2]
    assert found.keys_per_query == pytest.approx(sum(per_query) / 3)
    tokens = 64 + 3 + 3
    assert found.kv_bytes == 2 * tokens * 2 * 2 * 16 * 2  # k and v, batch, heads, width, bytes


@pytest.mark.parametrize("length", [3, 9, 40])
@pytest.mark.parametrize("spec", ["full", "local[window=5]", "sinks[window=5,sink=2]", "local"])
def test_kept_tokens_are_those_that_a_later_token_sees(spec: str, length: int):
    one = pattern(spec).resolve(length)
    later = torch.arange(length, 3 * length)
    seen = one.support(3 * length, later)[:, :length].any(dim=0)
    assert kept_tokens(pattern(spec), length) == int(seen.sum())


def cost_record(asked: str, length: int, ms: float, **changes: Any) -> dict[str, Any]:
    case = {
        "asked": asked, "pattern": pattern(asked).resolve(length).spec, "backend": "auto",
        "causal": True, "length": length, "heads": 8, "kv_heads": 2, "dim": 16, "batch": 2,
        "dtype": "bfloat16", "device": "cuda", "pass": "fwd",
    }  # fmt: skip
    status = changes.pop("status", "ok")
    time = {"cold_ms": {"median": ms}} if status == "ok" else None
    return {"kind": "cost", "status": status, "case": case | changes, "time": time}


def predicted(layers: Sequence[str], records: list[dict[str, Any]]) -> Any:
    chosen: list[Pattern] = [pattern(one) for one in layers]
    return predicted_time(chosen, SHAPE, records, dtype="bfloat16", device="cuda")


def test_time_is_taken_from_measured_lengths():
    records = [
        cost_record("full", 64, 3.0),
        cost_record("local[window=4]", 32, 1.0),
        cost_record("local[window=4]", 256, 8.0),
        cost_record("local[window=4]", 4096, 999.0),  # there are nearer ones
    ]
    found = predicted(["full", "local[window=4]", "local[window=4]"], records)
    assert found.ms == pytest.approx(3.0 + 2 * 2.0)  # it grows as the length
    assert found.measured == {"full": (64,), "local[window=4]": (32, 256)}


def test_time_goes_by_automatic_values_too():
    assert predicted(["local"], [cost_record("local[window=8]", 64, 2.0)]).ms == 2.0
    assert predicted(["local[window=8]"], [cost_record("local", 64, 2.0)]).ms == 2.0


@pytest.mark.parametrize(
    "record",
    [
        cost_record("local[window=4]", 64, 1.0),
        cost_record("full", 32, 1.0),
        cost_record("full", 128, 1.0),
        cost_record("full", 64, 1.0, heads=16),
        cost_record("full", 64, 1.0, dtype="float32"),
        cost_record("full", 64, 1.0, causal=False),
        cost_record("full", 64, 1.0, backend="sdpa:flash"),
        cost_record("full", 64, 1.0, **{"pass": "fwdbwd"}),
        cost_record("full", 64, 1.0, status="oom"),
    ],
)
def test_time_that_was_not_measured_is_refused_with_what_to_do(record: dict[str, Any]):
    with pytest.raises(Unsupported, match="run --pattern 'full' --length 64 --heads 8/2 --dim 16"):
        predicted(["full"], [record])


def test_rollout_multiplies_half_attention_and_half_identity():
    first, second = torch.rand(2, 5, 5, dtype=torch.float64).softmax(dim=-1)
    eye = torch.eye(5, dtype=torch.float64)
    expected = (second + eye) / 2 @ ((first + eye) / 2)
    torch.testing.assert_close(rollout([first, second]), expected)
    torch.testing.assert_close(rollout([first, second]).sum(dim=1), torch.ones(5).double())
    with pytest.raises(BadInput, match="at least one layer"):
        rollout([])
    with pytest.raises(BadInput, match="of one size"):
        rollout([first, torch.eye(4)])


def test_a_window_reaches_further_with_every_layer_and_full_reaches_all_at_once():
    window, full = pattern("local[window=3]"), pattern("full")
    found = reach([window] * 3, 32)
    tokens = torch.arange(1, 33)
    for layers, one in enumerate(found, start=1):
        seen = tokens.clamp(max=2 * layers + 1)
        assert one.share == pytest.approx(float((seen / tokens).mean()))
        assert one.distance == pytest.approx(layers * found[0].distance, rel=0.2)
    assert reach([full], 32)[0].share == 1.0
    assert reach([window, full], 32)[1].share == 1.0
    with pytest.raises(BadInput, match="up to 4096"):
        reach([full], 4097)


def test_excerpts_do_not_overlap_and_come_from_all_over_the_text():
    found = excerpts(range(1000), 50, 10, seed=3)
    assert [len(one) for one in found] == [50] * 10
    assert all(one == list(range(one[0], one[0] + 50)) for one in found)
    assert all(one[0] // 100 == one[-1] // 100 == number for number, one in enumerate(found))
    assert found == excerpts(range(1000), 50, 10, seed=3)
    assert found != excerpts(range(1000), 50, 10, seed=4)
    with_start = excerpts(range(1000), 50, 10, seed=3, prefix=[-1])
    assert all(one[0] == -1 and len(one) == 50 for one in with_start)


def test_the_text_must_be_long_enough():
    assert len(excerpts(range(100), 10, 10, seed=0)) == 10
    with pytest.raises(BadInput, match=r"11 excerpts of 10 need 110: .* or --excerpts 10"):
        excerpts(range(100), 10, 11, seed=0)
    with pytest.raises(BadInput, match="has 5 tokens, expected 10 or more"):
        excerpts(range(5), 10, 1, seed=0)
    with pytest.raises(BadInput, match="at least 2 tokens, got 1"):
        excerpts(range(5), 1, 1, seed=0)


def test_copies_come_again_behind_the_filler():
    for one in copies(range(2000), 3, seed=0, prefix=[-1]):
        assert one[0] == -1
        assert len(one) == 1 + 2 * COPIED + FILLER == 1025
        assert one[1 : 1 + COPIED] == one[-COPIED:]
        assert len(set(one)) == 1 + COPIED + FILLER


def test_excerpts_are_sixteen_and_four_where_they_are_long():
    assert [excerpt_count(length) for length in (128, 2048, 4095, 4096, 8192)] == [16] * 3 + [4] * 2


def test_the_interval_of_a_mean_holds_it_and_tightens():
    few, many = mean_interval([1.0, 3.0, 2.0, 6.0]), mean_interval([1.0, 3.0, 2.0, 6.0] * 16)
    assert few["mean"] == many["mean"] == 3.0
    for found in (few, many):
        assert found["interval"][0] < 3.0 < found["interval"][1]
    spans = [found["interval"][1] - found["interval"][0] for found in (few, many)]
    assert spans[1] == pytest.approx(spans[0] / 4, rel=0.2)
    assert mean_interval([2.0, 2.0, 2.0])["interval"] == [2.0, 2.0]
    assert mean_interval([2.0]) == {"mean": 2.0, "interval": None}


def asked(**changes: Any) -> Evaluation:
    given: dict[str, Any] = {"model": "m", "schedules": ("fixed[block=8]",), "lengths": (256,)}
    return Evaluation(**{**given, **changes})


def test_beside_every_schedule_stand_full_uniform_and_the_window_at_equal_keys():
    specs = ("masformer[full=1,window=16,sink=4]", "fixed[block=8]")
    for group in cases(asked(schedules=specs, lengths=(256, 512)), SIZES, "t"):
        by_name = {one.case.asked: one for one in group}
        assert group[0].case.asked == "full"
        assert by_name.keys() >= {*specs, "full", "uniform"}
        for spec in specs:
            own, rival = by_name[spec], by_name[by_name[spec].rival]
            assert rival.cost.keys_per_query == own.rival_keys
            assert rival.cost.keys_per_query == pytest.approx(own.cost.keys_per_query, rel=0.02)
            assert (own.role, rival.role) == ("asked", "comparison")
        assert by_name["full"].rival is None
        assert by_name["uniform"].rival is None


def test_single_layers_are_swapped_where_the_schedule_changes_them():
    spec = "0:full,1-2:local[window=4],3:full"
    whole, single = (
        [one.case for one in group]
        for group in cases(asked(schedules=(spec,), sensitivity=(spec,)), SIZES, "t")
    )
    assert [(one.asked, one.layer, one.excerpts) for one in single] == [(spec, 1, 4), (spec, 2, 4)]
    assert all(one.layer is None for one in whole)


def test_a_case_says_the_pattern_of_every_layer():
    full, window = pattern("full"), pattern("local")
    assert resolved([full, full, window], 64) == "0-1:full,2:local[window=8]"
    assert resolved([window, window], 64) == "local[window=8]"


def test_a_length_beyond_the_positions_is_refused():
    with pytest.raises(BadInput, match="512 positions, got length 513"):
        list(cases(asked(lengths=(513,)), SIZES, "t"))


def test_the_committed_run_predicts_a_schedule():
    from attnbench.records import read

    shape = Shape(batch=1, heads=16, kv_heads=16, length=6_000, dim=64, element_bytes=2)
    records = read(Path(__file__).parents[1] / "docs" / "h100")
    sinks = "sinks[window=256]"
    found = [
        predicted_time(
            schedule(text).patterns(8), shape, records, dtype="bfloat16", device="cuda"
        ).ms
        for text in ("full", f"0-3:full,4-:{sinks}", sinks)
    ]
    assert found[1] == pytest.approx((found[0] + found[2]) / 2)
    assert found[2] < found[1] < found[0]


def test_a_schedule_in_a_file_is_called_by_the_files_name(tmp_path: Path) -> None:
    inside = "0h0:full,0h1-:local[window=8],1-:full"
    (tmp_path / "heads.txt").write_text(inside + "\n")
    found = schedule(f"@{tmp_path / 'heads.txt'}")
    assert found.spec == "@heads.txt"
    assert found.patterns(3) == schedule(inside).patterns(3)


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (None, "cannot read .*absent: No such file"),
        (b"\xff", "expected UTF-8 text"),
        (b"full|local", "cannot read 'full"),
        (b"local[window=8|16]", "holds 2 schedules"),
        (b"@other.txt", "holds 0 schedules"),
    ],
)
def test_a_file_without_a_schedule_is_refused(
    tmp_path: Path, inside: bytes | None, said: str
) -> None:
    path = tmp_path / ("absent" if inside is None else "heads.txt")
    if inside is not None:
        path.write_bytes(inside)
    with pytest.raises(BadInput, match=said):
        schedule(f"@{path}")

"""Our cold time beside Triton's `do_bench`, in one run: `python -m attnbench.do_bench_check`.

Dense SDPA forward at several lengths, each timed in turns by three timers, in random order, round
by round:

    cold      the protocol of records: L2 flushed, the stream held until all is queued
    do_bench  the median that `triton.testing.do_bench` returns
    queued    do_bench's way, written anew: its 256 MB flushed, calls queued one behind the other
    held      the same, with the stream held until all are queued

Where cold and do_bench differ, the last two tell why: held is as short as cold where do_bench had
the device wait for the host between the two events, and as long as do_bench where the reason is how
much was flushed.
The row `empty` times nothing between the two events: what they take themselves.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from attnbench.contender import own_stream
from attnbench.nvml import ClockReader
from attnbench.statistics import interval
from attnbench.timing import Call, Clocks
from attnbench.typed import lengths as typed_lengths
from attnbench.typed import positive
from attnbench.watch import watch_for
from patterns.errors import BadInput

EMPTY = 0  # the "length" of no call at all
_SHARE, _LEAST_MS = 0.03, 1e-3  # they agree within 3 % or a microsecond
_SAMPLES = 20  # of ours, in a round
_HEADS, _DIM = 16, 64
_TIMERS = ("cold", "do_bench", "queued", "held")
_THEIR_FLUSH = 256 * 1000 * 1000  # bytes that do_bench writes before each call
_HOLD_CYCLES = 20_000_000  # about 10 ms, longer than the host takes to queue a round

Timer = Callable[[Call], float]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the timers said of one length: the median of each round, by timer; and the SM clock."""

    length: int
    ms: Mapping[str, Sequence[float]]
    sm_mhz: Mapping[str, float | None]

    def of(self, timer: str) -> float:
        """Its median over rounds, in milliseconds."""
        return median(self.ms[timer])

    def agree(self, one: str, other: str) -> bool:
        """Whether two timers agree within 3 % or a microsecond."""
        away = abs(self.of(one) - self.of(other))
        return away <= max(_SHARE * self.of(other), _LEAST_MS)

    @property
    def verdict(self) -> str:
        """Whether cold and do_bench agree and, where not, what was seen of the reason."""
        if self.agree("cold", "do_bench"):
            return "agree"
        if not self.agree("queued", "do_bench"):
            return "DIFFER"
        if self.agree("held", "do_bench"):
            return "differ: with as much flushed, they agree"
        return "differ: with nothing held, they agree"


def compared(
    calls: Mapping[int, Call],
    timers: Mapping[str, Timer],
    *,
    rounds: int,
    seed: int,
    clock: Callable[[], Clocks | str] = lambda: "no clock",
) -> list[Row]:
    """Let every timer time every call, once a round, in random order.

    Args:
        calls: by length.
        timers: call -> milliseconds, by name.
        rounds: how often.
        seed: of the order.
        clock: read after each timing.
    """
    order = random.Random(seed)
    turns = [(length, name) for length in calls for name in timers]
    found: dict[tuple[int, str], list[float]] = {turn: [] for turn in turns}
    speeds: dict[tuple[int, str], list[int]] = {turn: [] for turn in turns}
    for length, name in turns:  # warm-up, not counted
        timers[name](calls[length])
    for _ in range(rounds):
        order.shuffle(turns)
        for length, name in turns:
            found[length, name].append(timers[name](calls[length]))
            if isinstance(read := clock(), Clocks):
                speeds[length, name].append(read.sm_mhz)
    return [
        Row(
            length=length,
            ms={name: found[length, name] for name in timers},
            sm_mhz={
                name: median(seen) if (seen := speeds[length, name]) else None for name in timers
            },
        )
        for length in calls
    ]


def told(rows: Sequence[Row]) -> str:
    """The rows as a table, times in microseconds with half their interval."""
    lines = [
        f"{'length':>8}"
        + "".join(f"{name:>18}" for name in _TIMERS)
        + f"{'cold - do_bench':>22}  SM MHz  verdict"
    ]
    for row in rows:
        cells = []
        for name in _TIMERS:
            seen = interval(row.ms[name])
            cells.append(f"{1e3 * seen.median:9.2f} ± {1e3 * (seen.high - seen.low) / 2:4.2f} µs")
        away = row.of("cold") - row.of("do_bench")
        share = away / row.of("do_bench") if row.of("do_bench") else 0.0
        clocks = "/".join("-" if x is None else f"{x:.0f}" for x in row.sm_mhz.values())
        lines.append(
            f"{row.length or 'empty':>8}"
            + "".join(f"{cell:>18}" for cell in cells)
            + f"{1e3 * away:+12.2f} µs {share:+6.1%}  {clocks}  {row.verdict}"
        )
    return "\n".join(lines)


def measured(lengths: Sequence[int], *, rounds: int, seed: int) -> list[Row]:
    """Time dense SDPA forward on the GPU: one sequence of 16 heads, 64 wide, bfloat16, causal.

    Raises:
        BadInput: there is no GPU, or no Triton.
    """
    if not torch.cuda.is_available():
        raise BadInput("do_bench times CUDA alone, and PyTorch sees no GPU here")
    try:
        from triton.testing import do_bench
    except ImportError:
        raise BadInput("triton is not installed: pip install triton") from None
    device = torch.device("cuda")
    calls: dict[int, Call] = {EMPTY: lambda _: None}
    generator = torch.Generator(device).manual_seed(seed)
    for length in lengths:
        shape = (1, _HEADS, length, _DIM)
        q, k, v = (
            torch.randn(shape, generator=generator, device=device, dtype=torch.bfloat16)
            for _ in range(3)
        )
        # Not through a pattern: do_bench holds no stream, and would time what Python takes.
        calls[length] = _on_any_copy(partial(scaled_dot_product_attention, q, k, v, is_causal=True))
    with own_stream(device), torch.no_grad():
        watch = watch_for(device)

        def cold(call: Call) -> float:
            return median(watch.cold(str(id(call)), call) for _ in range(_SAMPLES))

        def theirs(call: Call) -> float:
            return float(do_bench(lambda: call(0), return_mode="median"))

        flush = torch.empty(_THEIR_FLUSH, dtype=torch.int8, device=device)
        queued, held = (partial(_queued, flush, hold) for hold in (False, True))
        timers: dict[str, Timer] = {
            "cold": cold,
            "do_bench": theirs,
            "queued": queued,
            "held": held,
        }
        clock = ClockReader(device).read
        return compared(calls, timers, rounds=rounds, seed=seed, clock=clock)


def _on_any_copy(work: Callable[[], object]) -> Call:
    return lambda _copy: work()


def _queued(flush: torch.Tensor, hold: bool, call: Call) -> float:
    """The median of one round, in milliseconds."""
    cuda: Any = torch.cuda  # its events have no types
    events = [
        (cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)) for _ in range(_SAMPLES)
    ]
    if hold:
        cuda._sleep(_HOLD_CYCLES)
    for start, end in events:
        flush.zero_()
        start.record()
        call(0)
        end.record()
    torch.cuda.synchronize(flush.device)
    return median(float(start.elapsed_time(end)) for start, end in events)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 where a length differs for no reason that was seen, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="attnbench.do_bench_check", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--length", default="1k..16k", metavar="L", help="default 1k..16k")
    parser.add_argument("--rounds", default="15", metavar="N", help="default 15")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round")
    asked = parser.parse_args(arguments)
    try:
        rows = measured(
            typed_lengths(asked.length), rounds=positive(asked.rounds, "--rounds"), seed=0
        )
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    if asked.json:
        document = [
            {"length": row.length, "ms": row.ms, "sm_mhz": row.sm_mhz, "verdict": row.verdict}
            for row in rows
        ]
        asked.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(told(rows))
    return int(any(row.verdict == "DIFFER" for row in rows if row.length != EMPTY))


if __name__ == "__main__":
    sys.exit(main())

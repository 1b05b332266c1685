"""Where a pattern overtakes dense attention by each clock, against crossovers planted by hand."""

from pathlib import Path

import pandas as pd
import pytest
from report_run import PATTERNS, make

from reports.frame import clocks
from reports.frame.scaling import with_speedup
from reports.frame.tidy import settings
from reports.run import read
from reports.sections import cost
from reports.text import TIMES

K = 1024
LENGTHS = (K, 2 * K, 4 * K, 8 * K)


def frame(**times: tuple[float | None, ...]) -> pd.DataFrame:
    """Dense attention at 1 ms by each clock, and one pattern with these."""
    rows = []
    for at, length in enumerate(LENGTHS):
        same = {"pass": "fwd", "status": "ok", "length": length, "group": f"g{length}",
                "simulated": False}  # fmt: skip
        dense = {"asked": "full", "name": "full", "backend": "sdpa:cudnn", "ran": "sdpa:cudnn"}
        dense |= dict.fromkeys(("ms", "graph_ms", "wall_ms"), 1.0) | {"speedup": 1.0}
        own = {"asked": "local", "name": "local", "backend": "auto", "ran": "triton"}
        own |= {clock: values[at] for clock, values in times.items()}
        own["speedup"] = 1 / own["ms"]
        rows += [same | dense | {"line": "full"}, same | own | {"line": "local"}]
    return pd.DataFrame(rows)


def test_each_clock_has_a_crossover_of_its_own():
    found = clocks.overtaking(
        frame(ms=(2, 1.5, 0.5, 0.25), graph_ms=(0.5, 0.4, 0.2, None), wall_ms=(9, 8, 4, 2))
    )
    assert len(found) == 1
    row = found.iloc[0]
    # The logarithm passes 0 this far between 2k and 4k: log 1.5 of log 3.
    assert int(row["cold"].replace(",", "")) == pytest.approx(2 * K * 2**0.3691, rel=1e-3)
    assert row["x cold"] == f"4{TIMES} at 8k"
    assert (row["graph"], row["x graph"]) == ("before 1k", f"5{TIMES} at 4k")
    assert (row["eager wall"], row["x eager wall"]) == ("not by 8k", f"0.5{TIMES} at 8k")


def test_a_clock_that_was_never_read_says_nothing():
    none = (None,) * 4
    row = clocks.overtaking(frame(ms=(2, 1, 1, 0.5), graph_ms=none, wall_ms=none)).iloc[0]
    assert row["graph"] is None
    assert row["x eager wall"] is None


def test_the_cost_section_states_them_for_every_pattern_and_pass(tmp_path: Path):
    some = [one for one in PATTERNS if one[0].startswith(("full", "local", "combiner-fixed"))]
    run = read(make(tmp_path, patterns=some, captured=(), maps=0))
    table = next(
        one for one in cost.sections(run)[0].blocks if getattr(one, "key", "") == "crossovers"
    )
    part = with_speedup(settings(run.cost)[0])
    lines = part[part.name.ne("full") & part.status.eq("ok")].groupby(["asked", "backend", "pass"])
    assert len(table.frame) == lines.ngroups
    assert list(table.frame.columns) == [
        "pattern", "pass", "cold from", f"{TIMES} cold", "graph from", f"{TIMES} graph",
        "eager wall from", f"{TIMES} eager wall",
    ]  # fmt: skip

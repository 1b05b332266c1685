"""What torch.compile did while something ran, and where it gave up and ran something else.

Past its recompile limit the compiler runs a function as plain Python, with a warning at most:
FlexAttention becomes dense attention with all scores in memory. It says so once a function, so
that it has to be made to forget before each group of cases.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attnbench.guards import Fired

_LIMIT = "limit exceeded"  # in the compiler's own name of it
_LONGEST = 120


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What the compiler has counted.

    graphs: that it made.
    breaks: why graphs were broken, or functions left to Python -> how often.
    limits: which limits on recompilations were hit -> how often.
    """

    graphs: int
    breaks: Mapping[str, int]
    limits: Mapping[str, int]

    def since(self, before: "Compiled") -> "Compiled":
        """What was added since then."""
        return Compiled(
            graphs=self.graphs - before.graphs,
            breaks=_more(self.breaks, before.breaks),
            limits=_more(self.limits, before.limits),
        )

    @property
    def document(self) -> dict[str, Any] | None:
        """What a record holds; None where nothing was compiled."""
        if self == NOTHING:
            return None
        return {"graphs": self.graphs, "breaks": dict(self.breaks), "limits": dict(self.limits)}

    @property
    def fired(self) -> Fired:
        """What makes the time one of something else than the compiled form."""
        found = {}
        if self.limits:
            found["recompiles"] = (
                f"torch.compile gave up, and what ran is not compiled: {_first(self.limits)}"
            )
        if self.breaks:
            found["graph_break"] = f"torch.compile left parts to Python: {_first(self.breaks)}"
        return found


NOTHING = Compiled(graphs=0, breaks={}, limits={})


def seen_so_far() -> Compiled:
    """The compiler's counts of this process; nothing where it has not been loaded."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is None:
        return NOTHING
    counters: Mapping[str, Mapping[str, int]] = dynamo.counters
    given_up = _short(counters.get("unimplemented", {}))
    limits = {reason: times for reason, times in given_up.items() if _LIMIT in reason}
    others = {reason: times for reason, times in given_up.items() if _LIMIT not in reason}
    breaks = _short(counters.get("graph_break", {}))
    for reason, times in others.items():
        breaks[reason] = breaks.get(reason, 0) + times
    return Compiled(
        graphs=counters.get("stats", {}).get("unique_graphs", 0),
        breaks=breaks,
        limits=limits,
    )


def forget() -> None:
    """Let the compiler begin anew, so that a limit hit before is not hit for good."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()


def _short(reasons: Mapping[str, int]) -> dict[str, int]:
    """Reasons by their first line, which tells what and leaves out how to search for more."""
    found: dict[str, int] = {}
    for reason, times in reasons.items():
        line = reason.strip().splitlines()[0][:_LONGEST] if reason.strip() else "no reason given"
        found[line] = found.get(line, 0) + times
    return found


def _more(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    added = {reason: times - before.get(reason, 0) for reason, times in now.items()}
    return {reason: times for reason, times in added.items() if times > 0}


def _first(reasons: Mapping[str, int]) -> str:
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return next(iter(reasons)) + more

"""PyTorch's profiler, without the lines that its library writes to stderr."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.profiler import ProfilerActivity, profile

_SILENT = "6"  # above every level of messages


@contextmanager
def profiled(*activities: ProfilerActivity, memory: bool = False) -> Iterator[list[Any]]:
    """Profile a block; the list holds the raw events (name(), start_ns(), nbytes()) after it."""
    os.environ.setdefault("KINETO_LOG_LEVEL", _SILENT)  # read when the first profile starts
    events: list[Any] = []
    # One cycle: to accumulate over cycles changes nothing, but saves a warning.
    with profile(activities=list(activities), profile_memory=memory, acc_events=True) as seen:
        yield events
    results = getattr(seen.profiler, "kineto_results", None)
    events += [] if results is None else results.events()

"""How a sample is taken: by a plain clock on the CPU, by events on a held stream on CUDA."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from attnbench.nvml import ClockReader
from attnbench.timing import Call, Clocks, Watch

_cuda: Any = torch.cuda  # much of it has no types

_FIRST_HOLD_MS = 2.0
_HOLD_LIMIT_MS = 200.0
_HOLD_MARGIN = 1.5  # times the host's own time, so that the work waits for the host and not it
_TRIES = 4
_CALIBRATION_CYCLES = 4_000_000
_LONGEST_GRAPH_MS = 25.0
_MOST_COPIES = 12


def watch_for(device: torch.device, *, copies: int = 1, graph_bytes: int = 0) -> Watch:
    """The watch of a device; see `CudaWatch` for the arguments."""
    if device.type == "cuda":
        return CudaWatch(device, copies=copies, graph_bytes=graph_bytes)
    return CpuWatch()


class CpuWatch:
    """The wall time of a call: on the CPU it is what the caller waits and what the work takes."""

    def now(self) -> float:
        """See `Watch`."""
        return time.perf_counter()

    def cold(self, name: str, call: Call) -> float:
        """See `Watch`."""
        start = time.perf_counter_ns()
        call(0)
        return (time.perf_counter_ns() - start) / 1e6

    def wall(self, call: Call) -> float | None:
        """See `Watch`."""
        return None

    def graph(self, name: str, call: Call) -> Callable[[], float] | str:
        """See `Watch`."""
        return "there are no CUDA graphs on the CPU"

    def clocks(self) -> Clocks | str | None:
        """See `Watch`."""
        return None

    def notes(self, name: str) -> dict[str, str]:
        """See `Watch`."""
        return {}


class CudaWatch:
    """Device time: L2 is flushed, the stream held until all is queued, events bracket the call.

    Everything runs on the stream that is current where it is used, which must not be the default
    one: graphs are captured on the very stream that warmed up, autograd's nodes included.
    """

    def __init__(self, device: torch.device, *, copies: int, graph_bytes: int) -> None:
        """Make the buffer that flushes L2, and find out how long a cycle is.

        Args:
            device: a CUDA device.
            copies: how many copies of the inputs a graph should go through.
            graph_bytes: memory that all graphs together may keep.
        """
        self._device = device
        self._copies = max(1, min(copies, _MOST_COPIES))
        self._graph_bytes = graph_bytes
        size = 2 * torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(max(size, 1 << 24), dtype=torch.int8, device=device)
        self._hold_ms: dict[str, float] = {}
        self._notes: dict[str, dict[str, str]] = {}
        self._reader = ClockReader(device)
        self._cycles_per_ms = self._calibrated()

    def now(self) -> float:
        """See `Watch`."""
        return time.perf_counter()

    def cold(self, name: str, call: Call) -> float:
        """See `Watch`. A sample whose call began before it was queued is taken again."""
        return self._held(name, self._flush.zero_, lambda: call(0))

    def wall(self, call: Call) -> float | None:
        """See `Watch`."""
        torch.cuda.synchronize(self._device)
        start = time.perf_counter_ns()
        result = call(0)
        torch.cuda.synchronize(self._device)
        taken = (time.perf_counter_ns() - start) / 1e6
        del result
        return taken

    def graph(self, name: str, call: Call) -> Callable[[], float] | str:
        """See `Watch`. The copies of the inputs together are larger than L2."""
        alone = self._held(name, lambda: None, lambda: call(0))
        waited = "host" in self.notes(name)  # for Python, so that the time says nothing
        if alone > _LONGEST_GRAPH_MS and not waited:
            return f"a call of {alone:.0f} ms hides its launches"
        if reason := _synchronises(call):
            return f"no graph can be captured: {reason}"
        torch.cuda.empty_cache()  # what is reserved beyond this is the graph's own
        before = torch.cuda.memory_reserved(self._device)
        captured = self._captured(call)
        if isinstance(captured, str):
            return captured
        kept = max(0, torch.cuda.memory_reserved(self._device) - before)
        if kept > self._graph_bytes:
            captured.reset()
            return "no memory left to keep its graph"
        self._graph_bytes -= kept

        def replay() -> float:
            taken = self._held(f"{name} graph", lambda: None, captured.replay)
            return taken / self._copies

        replay()
        return replay

    def clocks(self) -> Clocks | str | None:
        """See `Watch`."""
        return self._reader.read()

    def notes(self, name: str) -> dict[str, str]:
        """See `Watch`."""
        return self._notes.get(name, {})

    def _held(self, name: str, before: Callable[[], object], work: Callable[[], object]) -> float:
        """Milliseconds of `work` on the device, queued after `before` while the stream is held."""
        start = _cuda.Event(enable_timing=True)
        end = _cuda.Event(enable_timing=True)
        gave_up = "host" in self.notes(name)  # it waits for the device itself: holding is in vain
        hold_ms = 0.0 if gave_up else self._hold_ms.get(name, _FIRST_HOLD_MS)
        for _ in range(1 if gave_up else _TRIES):
            began = time.perf_counter()
            if not gave_up:
                _cuda._sleep(int(hold_ms * self._cycles_per_ms))
            before()
            start.record()
            result = work()
            end.record()
            queued_ms = (time.perf_counter() - began) * 1e3
            held = not start.query()
            end.synchronize()
            del result
            if held or gave_up:
                break
            hold_ms = min(_HOLD_LIMIT_MS, max(2 * hold_ms, _HOLD_MARGIN * queued_ms))
        else:
            self._notes.setdefault(name, {})["host"] = (
                "the call began before it was queued whole, so its time includes waits for Python"
            )
        self._hold_ms[name] = min(_HOLD_LIMIT_MS, _HOLD_MARGIN * queued_ms + 0.05)
        return float(start.elapsed_time(end))

    def _captured(self, call: Call) -> Any:
        """The graph of one call on each copy, or why there is none."""
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        try:
            for copy in range(self._copies):
                call(copy)
            torch.cuda.synchronize(self._device)
            stream = torch.cuda.current_stream(self._device)
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                for copy in range(self._copies):
                    call(copy)
            graph.replay()
            torch.cuda.synchronize(self._device)
        except Exception as error:  # whatever a pattern does that a capture forbids
            # Before 2.12 a capture that failed kept the allocator from ever freeing again.
            with suppress(Exception):
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
            torch.cuda.synchronize(self._device)
            return f"no graph can be captured: {str(error).splitlines()[0]}"
        return graph

    def _calibrated(self) -> float:
        """Cycles of `_sleep` in a millisecond."""
        start = _cuda.Event(enable_timing=True)
        end = _cuda.Event(enable_timing=True)
        _cuda._sleep(_CALIBRATION_CYCLES)
        start.record()
        _cuda._sleep(_CALIBRATION_CYCLES)
        end.record()
        end.synchronize()
        return _CALIBRATION_CYCLES / max(float(start.elapsed_time(end)), 1e-3)


def copies_beyond_cache(device: torch.device, bytes_of_one: int) -> int:
    """How many copies of the inputs are together larger than twice the L2 cache."""
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return max(1, min(_MOST_COPIES, -(-2 * cache // max(1, bytes_of_one))))


def _synchronises(call: Call) -> str | None:
    """Why the call waits for the device, which a capture forbids, or None."""
    with _sync_is_error():
        try:
            call(0)
        except RuntimeError as error:
            return str(error).splitlines()[0]
    return None


@contextmanager
def _sync_is_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

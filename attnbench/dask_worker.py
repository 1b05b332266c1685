"""What runs in a Dask worker: it keeps the worker process of its device, and passes messages on.

The Dask worker itself never measures: whatever a pattern does, it goes on. `serve` is a Dask task,
so that its one thread, hence the device, belongs to one group at a time; the others are called
beside it.
"""

import asyncio
import importlib
import platform
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from attnbench.child import AnyJob, Setup
from attnbench.version import source_hash, version
from attnbench.worker import Broken, Worker

_IDLE_S = 60.0  # without a task, after which a process is not needed, or forgotten
_LOOK_S = 1.0  # how often it looks whether whoever asked is still there
_MAPS = "maps"  # as in a run folder
_STARTED_WITH = source_hash()  # the code of this process, whatever becomes of the files


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a process is to do; `job` None: start, and say what machine this is."""

    token: str  # of the process, and the topic of its messages
    setup: Setup
    job: AnyJob | None
    timeout_s: float
    starting_s: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a Dask worker says of itself."""

    name: str
    host: str
    threads: int
    gpu_share: bool  # whether it was started with --resources GPU=1
    cuda: bool
    gpu: str | None  # which one it would use, by its UUID
    torch: str
    version: str | None  # of the code; None where a plugin is not there
    missing: str | None = None  # that plugin


async def report(plugins: Sequence[Path], dask_worker: Any) -> Report:
    """Say what this Dask worker is, and which code it has."""
    torch = await asyncio.to_thread(importlib.import_module, "torch")  # heartbeats go on
    missing = next((path.name for path in plugins if not path.is_file()), None)
    version.cache_clear()  # a plugin may have changed since the last run
    same = source_hash() == _STARTED_WITH
    return Report(
        name=str(dask_worker.name),
        host=platform.node(),
        threads=dask_worker.state.nthreads,
        gpu_share="GPU" in dask_worker.state.total_resources,
        cuda=torch.cuda.is_available(),
        gpu=_gpu(torch) if torch.cuda.is_available() else None,
        torch=torch.__version__,
        version=None if missing else version(*plugins) if same else _STARTED_WITH,
        missing=missing,
    )


def _gpu(torch: Any) -> str | None:
    with suppress(RuntimeError, AttributeError):
        return str(torch.cuda.get_device_properties(0).uuid)
    return None


def serve(order: Order) -> None:
    """Have a process do a job, and send what it says to whoever listens to its token."""
    from distributed import get_worker

    here = get_worker()
    held = _hold(order)
    over = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(here, here.get_current_task(), order.token, over), daemon=True
    )
    watcher.start()
    try:
        _passed_on(held, order, lambda message: here.log_event(order.token, message))
    finally:
        over.set()
        _leave(held)


def take_map(token: str, name: str) -> bytes:
    """The map file that a record came with."""
    path = _held[token].maps / name
    content = path.read_bytes()
    path.unlink()
    return content


def end(token: str) -> None:
    """End a process."""
    with _lock:
        held = _held.pop(token, None)
    if held is not None:
        held.close()


@dataclass(kw_only=True)
class _Held:
    """A process that waits for its next job."""

    token: str
    worker: Worker
    folder: "tempfile.TemporaryDirectory[str]"  # in place of the run folder, which is elsewhere
    up: bool = False
    idle: threading.Timer | None = field(default=None)

    @property
    def maps(self) -> Path:
        return Path(self.folder.name) / _MAPS

    def close(self) -> None:
        if self.idle is not None:
            self.idle.cancel()
        self.worker.close()
        self.folder.cleanup()


_held: dict[str, _Held] = {}  # token -> the process of this device: one, but for a moment
_lock = threading.Lock()


def _hold(order: Order) -> _Held:
    """The process of this token, made if there is none; those of others end."""
    with _lock:
        others = [held for token, held in _held.items() if token != order.token]
        held = _held.get(order.token)
        _held.clear()
        if held is None:
            folder = tempfile.TemporaryDirectory(prefix="attnbench-")
            worker = Worker(replace(order.setup, run=Path(folder.name)), {})
            held = _Held(token=order.token, worker=worker, folder=folder)
        elif held.idle is not None:
            held.idle.cancel()
            held.idle = None
        _held[order.token] = held
    for other in others:
        other.close()
    return held


def _leave(held: _Held) -> None:
    """Until the next job; a process that nobody asks for ends."""

    def forget() -> None:
        with _lock:
            if held.idle is None:  # a job came in this very moment
                return
            _held.pop(held.token, None)
        held.close()

    with _lock:
        if held.token in _held:
            held.idle = threading.Timer(_IDLE_S, forget)
            held.idle.daemon = True
            held.idle.start()


def _passed_on(held: _Held, order: Order, tell: Callable[[dict[str, Any]], None]) -> None:
    def received(timeout_s: float) -> dict[str, Any]:
        message = held.worker.receive(timeout_s)
        if isinstance(message, Broken):
            end(held.token)
            return {"broken": asdict(message)}
        return _with_map(message, held)

    if not held.up:
        hello = received(order.starting_s)
        held.up = "hello" in hello
        if order.job is None or not held.up:
            tell(hello)
            return
    assert order.job is not None, "the first order of a process has no job"
    held.worker.send(order.job)
    going = True
    while going:
        message = received(order.timeout_s)
        going = bool(message.keys() & {"step", "record"})
        tell(message)


def _with_map(message: dict[str, Any], held: _Held) -> dict[str, Any]:
    """A record says which map there is to fetch."""
    if "record" in message:
        name = f"{message['record']['case_key']}.npz"
        if (held.maps / name).is_file():
            message["map"] = name
    return message


def _watch(here: Any, key: str, token: str, over: threading.Event) -> None:
    """End the process, and so the task, once nobody waits for it any more."""
    while not over.wait(_LOOK_S):
        task = here.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            end(token)

"""A worker process as its parent sees it: orders go in, messages come out, and it can be ended."""

import contextlib
import json
import os
import pickle
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnbench.case import Status
from attnbench.child import AnyJob, Setup

_ROOT = Path(__file__).parents[1]
_TAIL = 2000  # characters of output that a record keeps
_PATIENCE_S = 10.0  # for a process that was killed to be gone
_TRACE_S = 0.3  # for a process that hangs to say where
_SHORTAGE = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc",
             "memoryerror")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Broken:
    """How a worker ended before its work did."""

    status: Status
    how: str  # such as "died of SIGSEGV"
    output: str  # the last of what it printed


class Worker:
    """One process, made anew by whoever holds it once it is broken."""

    def __init__(self, setup: Setup, environment: Mapping[str, str]) -> None:
        """Start the process, and do not wait for it."""
        handle, name = tempfile.mkstemp(prefix="attnbench-worker-", suffix=".log")
        os.close(handle)
        self._log = Path(name)
        self._printed = self._log.open("rb")
        self._kills_before = _memory_kills()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                # -P: another checkout in the current folder must not be measured in place of ours.
                [sys.executable, "-P", "-m", "attnbench.child", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**_environment(), **environment},
                start_new_session=True,  # Ctrl-C is the parent's business
            )
        if sys.platform != "win32":  # both hold it open: a kill leaves no file behind
            self._log.unlink()
        self._inbox: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._mark = 0
        threading.Thread(target=self._read, daemon=True).start()
        self._order(sys.path)
        self._order(setup)

    def send(self, job: AnyJob) -> None:
        """Ask for a group, or for the ceilings of the device."""
        self._order(job)

    def receive(self, timeout_s: float) -> dict[str, Any] | Broken:
        """The next message, or how the process ended; one that says nothing for so long is ended.

        Keys of a message: `hello` (the facts of the machine), `ceilings`, `step`, `record`, `done`,
        `gone` (the device's context is lost) or `refused` (the run folder takes no more; in place
        of `hello`: a file that was named cannot be used).
        """
        try:
            message = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            self._trace()
            self.close(keep_output=True)
            return self._broken("timeout", f"said nothing for {timeout_s:.0f} s")
        if message is None:
            return self._ended()
        self._mark = message.pop("at", self._mark)
        return message

    def output(self) -> str:
        """The last of what was printed since the step began, without the folders in it."""
        if self._printed.closed:
            return ""
        self._printed.seek(0)
        content = self._printed.read()
        mark = self._mark if self._mark <= len(content) else 0
        text = content[mark:].decode(errors="replace").strip()
        return re.sub(r'(File ")[^"\n]*[/\\]', r"\1", text)[-_TAIL:]

    def close(self, *, keep_output: bool = False) -> None:
        """End the process and what it started."""
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_S)
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        if not keep_output:
            self._forget_output()

    def _ended(self) -> Broken:
        """It ended by itself: by which signal, or with which exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_S)
        code = self._process.returncode
        kills = _memory_kills()
        self.close(keep_output=True)
        if code is None:
            return self._broken("crashed", "closed its channel")
        if code >= 0:
            return self._broken("crashed", f"ended with exit code {code}")
        name = signal.Signals(-code).name
        if name == "SIGKILL" and kills != self._kills_before:
            return self._broken("oom", "was killed by the system, which ran out of memory")
        return self._broken("crashed", f"died of {name}")

    def _broken(self, status: Status, how: str) -> Broken:
        output = self.output()
        self._forget_output()
        if status == "crashed" and any(part in output.lower() for part in _SHORTAGE):
            status = "oom"
        return Broken(status=status, how=how, output=output)

    def _forget_output(self) -> None:
        self._printed.close()
        self._log.unlink(missing_ok=True)

    def _trace(self) -> None:
        """Have it write where it is."""
        if hasattr(signal, "SIGUSR1"):
            with contextlib.suppress(OSError):
                self._process.send_signal(signal.SIGUSR1)
            time.sleep(_TRACE_S)

    def _order(self, order: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is dead, which the next `receive` tells
            pickle.dump(order, self._process.stdin)
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError), self._process.stdout as lines:
            for line in lines:  # the last one may be torn
                self._inbox.put(json.loads(line))
        self._inbox.put(None)


def _environment() -> dict[str, str]:
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def _memory_kills() -> int | None:
    """How many processes the system has ended because memory ran out; None where it won't say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)

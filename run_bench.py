#!/usr/bin/env python3
"""The command line: one function a sub-command. `python run_bench.py --help` lists them."""

import argparse
import errno
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from attnbench.arguments import parser
from attnbench.requests import frontier_options, matrix_options
from attnbench.stop import Terminated, terminable
from attnbench.typed import memory_bytes, positive, seconds_of, whole

if TYPE_CHECKING:
    from attnbench.engine import Result
    from attnbench.presets import Plan

_RUNS = Path("runs")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a write raises names no file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was typed; returns 0, 1 (something is wrong), 2 (bad input), 130 or 143 (ended)."""
    typed = parser(_COMMANDS).parse_args(arguments)
    typed.typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with terminable():
            code: int = typed.command(typed)
    except Terminated:
        print("ended by SIGTERM: the group in flight is lost, the rest is kept", file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("stopped at once: the group in flight is lost, the rest is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None and error.errno not in _NO_ROOM:
            raise
        what = "write" if error.filename is None else f"use {error.filename}"
        print(f"cannot {what}: {error.strerror}", file=sys.stderr)
        return 2
    except (ValueError, NotImplementedError, RuntimeError) as error:
        known = _exit_code_of(error)
        if known is None:
            raise
        print(error, file=sys.stderr)
        return known
    return code


def quick(_typed: argparse.Namespace) -> int:
    """Without a command: the quick preset, then its report."""
    typed = parser(_COMMANDS).parse_args(["run"])
    typed.typed = ["run"]
    typed.out = _fresh_folder("quick")
    code = run(typed)
    if code in (0, 1):
        report(typed.out)
    return code


def run(typed: argparse.Namespace) -> int:
    """Measure what is asked for and not yet there."""
    from attnbench import engine, launches
    from attnbench.child import end_with_parent
    from attnbench.measure_cost import Protocol
    from attnbench.presets import overridden, preset
    from attnbench.requests import engine_options
    from attnbench.typed import retried

    retry, whole_s = retried(typed.retry), seconds_of(typed.budget)
    count, launch = positive(typed.launches, "--launches"), positive(typed.launch, "--launch")
    if launch > 1:
        end_with_parent(os.getppid())
    budget_s = None if whole_s is None else whole_s / count
    options = matrix_options(typed)
    where = engine_options(typed)
    _load_plugins(typed)
    plan = overridden(preset(typed.preset, where.pop("device")), options, budget_s)
    if max(count, launch) > 1:
        repeated = launches.timing_only(plan)
        plan = repeated if launch > 1 else plan
    if typed.dry_run:
        return _dry_run(plan)
    folder = typed.out or _fresh_folder(plan.preset)
    result = engine.run(
        plan,
        folder,
        command=sys.argv[1:],
        retry=retry,
        extend=typed.extend,
        protocol=Protocol(order_seed=whole(typed.order_seed, "--order-seed") + launch - 1),
        **where,
    )
    if count > 1 and not result.stopped:
        result = launches.repeat(result, count, partial(_launch, typed, budget_s))
    return _told(result, folder, report=typed.command is run)


def report(typed: argparse.Namespace | Path) -> int:
    """Write the report of a run, and say where it is."""
    import reports

    folder = typed if isinstance(typed, Path) else typed.run
    print(f"report: {reports.write(folder)}")
    return 0


def inspect(typed: argparse.Namespace) -> int:
    """Draw the maps of one pattern on one source, or maps that a run has kept."""
    import reports
    from attnbench.inspection import Wrong, inspected
    from attnbench.requests import kept_maps, wanted_maps

    _load_plugins(typed)
    kept = kept_maps(typed.pattern)
    row = None if typed.row is None else whole(typed.row, "--row")
    try:
        made = kept or inspected(wanted_maps(typed))
    except Wrong as error:
        print(error, file=sys.stderr)
        return 1
    out = typed.out or _RUNS / f"map-{time.strftime('%Y%m%d-%H%M%S')}"
    print(f"map: {reports.inspect(made, out, row=row)}")
    return 0


def compare(typed: argparse.Namespace) -> int:
    """Say what changed between two runs; 1 where it got worse by more than the threshold."""
    import json

    from patterns.errors import BadInput
    from reports import comparison

    if not 0 < typed.threshold < math.inf:
        raise BadInput(f"--threshold must be more than 0 percent, got {typed.threshold}")
    found = comparison.compare(typed.a, typed.b, threshold=typed.threshold / 100)
    if typed.json:
        document = comparison.as_document(found)
        typed.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if typed.markdown:
        typed.markdown.write_text(comparison.as_markdown(found), encoding="utf-8")
    print(comparison.as_text(found))
    if typed.out:
        from reports.change_page import write_comparison

        print(f"report: {write_comparison(found, typed.out)}")
    return found.exit_code


def advise(typed: argparse.Namespace) -> int:
    """Say which pattern to use at a length, under a budget."""
    import json

    from patterns.errors import BadInput
    from reports import advice

    if typed.max_error is not None and not typed.max_error >= 0:
        raise BadInput(f"--max-error must be 0 or more, got {typed.max_error}")
    found = advice.advise(
        typed.run,
        length=positive(typed.length, "--length"),
        one=typed.one,
        max_error=typed.max_error,
        max_bytes=memory_bytes(typed.max_memory, "--max-memory") if typed.max_memory else None,
        source=typed.source,
    )
    print(json.dumps(advice.as_document(found), indent=2) if typed.json else advice.as_text(found))
    return 0


def frontier(typed: argparse.Namespace) -> int:
    """Find the longest length at which patterns fit into memory."""
    from attnbench.frontier_run import search
    from attnbench.typed import retried

    _load_plugins(typed)
    asked, retry = frontier_options(typed), retried(typed.retry)
    folder = typed.out or _fresh_folder("frontier")
    result = search(
        asked, folder, command=sys.argv[1:], retry=retry, plugins=tuple(typed.plugin or ())
    )
    return _told(result, folder, report=True)


def merge(typed: argparse.Namespace) -> int:
    """Join runs of one version of the code into one."""
    from attnbench.merge import merge as join

    told = join(typed.runs, typed.out)
    double = f", {told['double']} of them in more than one" if told["double"] else ""
    print(f"{typed.out}: {told['records']} records of {len(typed.runs)} runs{double}")
    return 0


def list_all(typed: argparse.Namespace) -> int:
    """List patterns, sources and presets."""
    from attnbench.listing import as_json, as_text

    _load_plugins(typed)
    print(as_json() if typed.json else as_text())
    return 0


def doctor(_typed: argparse.Namespace) -> int:
    """Say what works here; 1 where something that is needed does not."""
    from attnbench.doctor import examine, told

    findings = examine()
    print(told(findings))
    return int(any(one.needed and not one.fine for one in findings))


def export(typed: argparse.Namespace) -> int:
    """Copy a run, with its report, without its single samples and map files."""
    from attnbench.records import export as copy
    from attnbench.typed import figure_kinds

    print(f"copy: {copy(typed.run, typed.out, figures=figure_kinds(typed.figures))}")
    return 0


def capture(typed: argparse.Namespace) -> int:
    """Capture q, k, v of a model's layers."""
    from attnbench.capture import main as capture_main

    return capture_main(typed.rest)


def evaluate(typed: argparse.Namespace) -> int:
    """Swap patterns and schedules into a language model, and see what it loses."""
    from attnbench import evaluate as evaluating
    from attnbench.evaluation import expect_sense
    from attnbench.model_requests import evaluation
    from attnbench.stack_table import stack_table
    from attnbench.typed import retried

    started = time.monotonic()
    retry, budget_s = retried(typed.retry), seconds_of(typed.budget)
    asked = evaluation(typed)
    expect_sense(asked)
    loaded = evaluating.load(asked, typed.text)
    if typed.dry_run:
        print(stack_table(asked, loaded.reader.sizes, loaded.digest, typed.times))
        return 0
    folder = typed.out or _fresh_folder("evaluate")
    result = evaluating.evaluate(
        asked,
        loaded,
        folder,
        command=sys.argv[1:],
        retry=retry,
        extend=typed.extend,
        until=math.inf if budget_s is None else started + budget_s,
    )
    return _told(result, folder, report=True)


def choose(typed: argparse.Namespace) -> int:
    """Print the schedule in which every head has the pattern that harms it least."""
    from attnbench import evaluate as evaluating
    from attnbench.calibration import calibrated, expect_choice, told
    from attnbench.head_choice import choose as choose_heads
    from attnbench.matching import wanted_keys
    from attnbench.model_requests import calibration

    asked = calibration(typed)
    expect_choice(asked)
    loaded = evaluating.load(asked, typed.text)
    candidates = calibrated(asked, loaded)
    keys = None if asked.keys is None else wanted_keys(asked.keys, asked.length)
    found = choose_heads(candidates, keys=keys)
    print(told(candidates, found, loaded.reader.sizes), file=sys.stderr)
    if typed.out:
        typed.out.write_text(found.spec + "\n", encoding="utf-8")
    print(found.spec)
    return 0


def stack(typed: argparse.Namespace) -> int:
    """Time the prefill of a stack of attention layers against what single ones predict."""
    import json

    from attnbench import engine
    from attnbench.model_requests import stack_request
    from attnbench.stack_time import expect_stack, table, time_stacks

    budget_s = seconds_of(typed.budget) or 120.0
    asked = stack_request(typed)
    expect_stack(asked)
    times, folder = typed.times, typed.out or _fresh_folder("stack")
    code = 0
    if times is None:  # half the time for single layers, half for the stacks
        result = engine.run(asked.plan(budget_s / 2), folder, command=sys.argv[1:])
        code = _told(result, folder, report=False)
        if result.stopped:
            return code
        times = folder
    found = time_stacks(asked, times, budget_s=budget_s / 2)
    print(table(found))
    folder.mkdir(parents=True, exist_ok=True)
    document = [one.document() for one in found]
    (folder / "stack.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return code


def profile(typed: argparse.Namespace) -> int:
    """Time each kernel of one call by itself."""
    import json

    from attnbench.kernel_times import as_document, as_text, profiled_call
    from attnbench.requests import profile_request

    found = profiled_call(profile_request(typed))
    if typed.json:
        document = as_document(found)
        typed.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(as_text(found))
    return 0


def retune(typed: argparse.Namespace) -> int:
    """Measure tile sizes of the fused kernels on this GPU, and keep them."""
    from attnbench.requests import retune_request
    from attnbench.retune_run import retune as measured

    print(measured(retune_request(typed), partial(print, flush=True)))
    return 0


_COMMANDS = {
    "default": quick,
    "run": run,
    "report": report,
    "inspect": inspect,
    "compare": compare,
    "advise": advise,
    "frontier": frontier,
    "merge": merge,
    "list": list_all,
    "doctor": doctor,
    "export": export,
    "capture": capture,
    "evaluate": evaluate,
    "choose": choose,
    "stack": stack,
    "profile": profile,
    "retune": retune,
}


def _launch(
    typed: argparse.Namespace, budget_s: float | None, number: int, folder: Path
) -> list[str]:
    """The command line of one further launch: what was typed, into a folder of its own."""
    options = ["--out", str(folder), "--launches", "1", "--launch", str(number)]
    if budget_s is not None:
        options += ["--budget", str(budget_s / 60)]
    return [sys.executable, __file__, *typed.typed, *options]


def _told(result: "Result", folder: Path, *, report: bool) -> int:
    """Say how a run ended and how to go on; its exit code."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(result.statuses.items()))
    print(f"{folder}: {counts or 'nothing measured'}")
    if result.stopped:
        print(f"stopped; the same command with --out {folder} goes on")
    elif report:
        print(f"report: python run_bench.py report {folder}")
    return result.exit_code


def _dry_run(plan: "Plan") -> int:
    from attnbench.listing import dry_run

    print(dry_run(plan))
    return 0


def _load_plugins(typed: argparse.Namespace) -> None:
    """Add the patterns of plugins, and say which installed ones cannot be used."""
    from attnbench.plugins import load, load_installed, tried
    from attnbench.requests import engine_of

    for sentence in load_installed()[1]:
        print(sentence, file=sys.stderr)
    if typed.plugin:
        if hasattr(typed, "engine") and engine_of(typed) != "inline":
            tried(typed.plugin)
        load(typed.plugin)


def _fresh_folder(name: str) -> Path:
    return _RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _exit_code_of(error: Exception) -> int | None:
    """The exit code of an error that is told in one line; None where it is one of ours."""
    from attnbench.outcome import DeviceLost
    from patterns.errors import BadInput, Unsupported

    if isinstance(error, BadInput | Unsupported):
        return 2
    return 1 if isinstance(error, DeviceLost) else None


if __name__ == "__main__":
    sys.exit(main())

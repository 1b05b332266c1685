"""The command line as a parser; `attnbench.typed` reads the values of what was typed."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from attnbench.model_arguments import add_capture, add_choose, add_evaluate, add_stack
from attnbench.requests import DEFAULT_ENGINE
from attnbench.typed import DTYPES

Commands = Mapping[str, Callable[[argparse.Namespace], int]]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print it, and exit with 2."""
        self.exit(2, f"{self.prog}: {message} (--help shows what there is)\n")


def parser(commands: Commands) -> Parser:
    """The whole command line; `commands` are what runs for each sub-command."""
    top = Parser(
        prog="run_bench.py",
        description="Benchmark attention patterns: what they cost, how far they are from full "
        "softmax attention, and what they attend to. Without a command: the quick preset, then "
        "its report.",
    )
    top.set_defaults(command=commands["default"])
    below = top.add_subparsers(title="commands", metavar="COMMAND", parser_class=Parser)
    adders = {
        "run": (_add_run, "measure, and keep records in a run folder"),
        "report": (_add_report, "write the report of a run"),
        "inspect": (_add_inspect, "draw the map of one pattern on one source"),
        "compare": (_add_compare, "say what changed between two runs; 1 where it got worse"),
        "advise": (_add_advise, "say which pattern to use at a length, under a budget"),
        "frontier": (_add_frontier, "find the longest length that fits into memory"),
        "merge": (_add_merge, "join runs of one version of the code into one"),
        "list": (_add_list, "list patterns, sources and presets"),
        "doctor": (_add_nothing, "say what works on this machine, and what to do about the rest"),
        "export": (_add_export, "copy a run without its single samples"),
        "capture": (add_capture, "capture q, k, v of a model's layers"),
        "evaluate": (add_evaluate, "swap patterns into a language model, and see what it loses"),
        "choose": (add_choose, "choose a pattern for each head of a model, from a text"),
        "stack": (add_stack, "time the prefill of a stack of layers against what is predicted"),
        "profile": (_add_profile, "time each GPU kernel of one pattern by itself"),
        "retune": (_add_retune, "measure tile sizes of the fused kernels on this GPU"),
    }
    for name, (add, told) in adders.items():
        sentence = told[0].upper() + told[1:] + "."
        # `capture` reads all that follows by itself, options and --help included.
        own: dict[str, Any] = {"add_help": False, "prefix_chars": "\0"} if name == "capture" else {}
        one = below.add_parser(name, help=told, description=sentence, **own)
        add(one)
        one.set_defaults(command=commands[name])
    return top


def _add_run(one: argparse.ArgumentParser) -> None:
    one.add_argument("--preset", default="quick", help="quick (default), full, kernels or maps")
    one.add_argument(
        "--pattern",
        action="append",
        metavar="SPEC",
        help="such as 'combiner-fixed[block=32|64]'; may be repeated; all if left out",
    )
    one.add_argument("--length", metavar="L", help="1k..64k doubles, 1024,3000 lists")
    one.add_argument("--batch", metavar="B", help="sequences")
    one.add_argument("--heads", metavar="H", help="16, or 32/8 for 8 key-value heads")
    one.add_argument("--dim", metavar="D", help="head width")
    one.add_argument("--dtype", choices=DTYPES)
    one.add_argument("--pass", dest="passes", metavar="P", help="of fwd, bwd, fwdbwd, with commas")
    one.add_argument("--bidirectional", action="store_true", help="for all patterns and sources")
    one.add_argument(
        "--source",
        action="append",
        metavar="SPEC",
        help="what to judge on: captured, captured:FILE, needle[depth=0.5], ...; may be repeated",
    )
    one.add_argument("--device", choices=("cpu", "cuda"), help="cuda where there is one")
    one.add_argument("--backend", metavar="NAMES", help="of auto, eager, sdpa, ..., with commas")
    one.add_argument("--seed", metavar="N", help="of the inputs (default 0)")
    one.add_argument("--order-seed", metavar="N", default="0", help="of the order of timing")
    one.add_argument("--out", metavar="RUN", type=Path, help="the run folder; an old one goes on")
    one.add_argument(
        "--retry",
        action="append",
        metavar="STATUS",
        help="do cases of these statuses again, such as oom,timeout,crashed",
    )
    one.add_argument("--budget", metavar="MIN", type=float, help="minutes for the whole run")
    one.add_argument(
        "--launches",
        metavar="N",
        default="1",
        help="time everything in so many processes one after the other (default 1), so that "
        "intervals hold what drifts between them; a --budget is shared by them",
    )
    one.add_argument("--launch", metavar="N", default="1", help=argparse.SUPPRESS)  # one of them
    one.add_argument("--no-baselines", action="store_true", help="no rows to compare with")
    one.add_argument("--extend", action="store_true", help="add this matrix to an old run folder")
    _add_places(one)
    _add_plugin(one)
    one.add_argument("--dry-run", action="store_true", help="list the cases, with what they need")
    one.add_argument(
        "--compile-ahead",
        metavar="N",
        help="let so many processes compile the kernels of a GPU before anything is measured, in "
        "the time of the run; 0: none (default: as many as are worth it, the first time)",
    )


def _add_places(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--engine",
        choices=("local", "inline", "dask"),
        help="local: in a process that a crash does not end; inline: in this one; dask: in those "
        f"of a cluster (default {DEFAULT_ENGINE}; --scheduler implies dask)",
    )
    one.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster: tcp://host:port")
    one.add_argument("--gpus", metavar="N", help="so many GPUs of this machine, or all")
    one.add_argument(
        "--workers",
        metavar="N",
        help="on the CPU: so many processes, a thread each; with dask: wait for so many",
    )
    one.add_argument(
        "--timeout",
        metavar="S",
        type=float,
        help="seconds without a sign of life after which a case has hung; 60 to 120 by the budget",
    )


def _add_plugin(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--plugin",
        action="append",
        metavar="FILE",
        type=Path,
        help="a Python file with patterns of your own; may be repeated",
    )


def _add_report(one: argparse.ArgumentParser) -> None:
    one.add_argument("run", metavar="RUN", type=Path, help="a run folder")


def _add_compare(one: argparse.ArgumentParser) -> None:
    one.add_argument("a", metavar="RUN_A", type=Path, help="the run folder from before")
    one.add_argument("b", metavar="RUN_B", type=Path, help="the run folder from now")
    one.add_argument(
        "--threshold",
        metavar="PCT",
        type=float,
        default=5.0,
        help="more than so many percent worse is a regression, with exit code 1 (default 5)",
    )
    one.add_argument("--json", metavar="FILE", type=Path, help="write every case, for programs")
    one.add_argument("--markdown", metavar="FILE", type=Path, help="write what is told, for people")
    one.add_argument("--out", metavar="FOLDER", type=Path, help="draw it: a page with its figures")


def _add_advise(one: argparse.ArgumentParser) -> None:
    one.add_argument("run", metavar="RUN", type=Path, help="a run folder with times and errors")
    one.add_argument("--length", metavar="L", required=True, help="tokens, such as 32k")
    one.add_argument("--max-error", metavar="X", type=float, help="of the output; none if left out")
    one.add_argument("--max-memory", metavar="SIZE", help="above the inputs, such as 2GiB")
    one.add_argument(
        "--pass", dest="one", default="fwd", choices=("fwd", "bwd", "fwdbwd"), help="default fwd"
    )
    one.add_argument("--source", metavar="SPEC", help="of the errors; captured ones if left out")
    one.add_argument("--json", action="store_true", help="for programs")


def _add_frontier(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--pattern", action="append", metavar="SPEC", help="may be repeated; all if left out"
    )
    one.add_argument(
        "--memory",
        metavar="SIZE",
        help="for the inputs and the call, such as 24GiB; all that the GPU has, on a CPU 1GiB",
    )
    one.add_argument(
        "--pass", dest="passes", default="fwd", metavar="P", help="of fwd, bwd, fwdbwd (fwd)"
    )
    one.add_argument("--length", default="16384k", metavar="L", help="the longest to look at (16M)")
    one.add_argument(
        "--seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="beyond a call that takes longer, nothing is tried (default 10)",
    )
    one.add_argument("--batch", default="1", metavar="B", help="sequences (default 1)")
    one.add_argument("--heads", metavar="H", help="16 on a GPU, 4 on a CPU; 32/8 for grouped ones")
    one.add_argument("--dim", default="64", metavar="D", help="head width (default 64)")
    one.add_argument("--dtype", choices=DTYPES)
    one.add_argument("--bidirectional", action="store_true")
    one.add_argument("--backend", default="auto")
    one.add_argument("--device", choices=("cpu", "cuda"), help="cuda where there is one")
    one.add_argument("--out", metavar="RUN", type=Path, help="the run folder; an old one goes on")
    one.add_argument(
        "--retry", action="append", metavar="STATUS", help="do cases of this status again"
    )
    _add_plugin(one)


def _add_merge(one: argparse.ArgumentParser) -> None:
    one.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folders")
    one.add_argument("--out", metavar="RUN", type=Path, required=True, help="the new run folder")


def _add_inspect(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "pattern",
        metavar="SPEC",
        help="such as 'combiner-fixed[block=64]'; or a run folder, or a map file (.npz) of one",
    )
    one.add_argument("--source", default="captured", metavar="SPEC", help="q, k, v to draw it on")
    one.add_argument("--length", metavar="L", help="tokens; all that the source has, up to 2k")
    _add_plugin(one)
    one.add_argument("--layer", metavar="L", help="of a captured source: one, 0,5 or all (first)")
    one.add_argument("--head", metavar="H", help="query heads: one, 0,2 or all (the first four)")
    one.add_argument("--bins", metavar="N", help="of a map's side at most (512)")
    one.add_argument("--row", metavar="N", help="the query whose weights are drawn")
    one.add_argument("--tokens", action="store_true", help="show the text of your own capture")
    one.add_argument("--bidirectional", action="store_true")
    one.add_argument("--backend", default="auto")
    one.add_argument("--device", choices=("cpu", "cuda"), help="cuda where there is one")
    one.add_argument("--out", type=Path, metavar="FOLDER", help="where the files go")


def _add_list(one: argparse.ArgumentParser) -> None:
    one.add_argument("--json", action="store_true", help="for programs")
    _add_plugin(one)


def _add_export(one: argparse.ArgumentParser) -> None:
    one.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    one.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the copy goes")
    one.add_argument(
        "--figures",
        metavar="KINDS",
        default="png,svg,pdf",
        help="which files of figures come along (default png,svg,pdf)",
    )


def _add_profile(one: argparse.ArgumentParser) -> None:
    one.add_argument("pattern", metavar="SPEC", help="such as 'combiner-fixed[block=64]'")
    _add_shape(one)
    one.add_argument("--batch", default="1", metavar="B", help="sequences (default 1)")
    one.add_argument(
        "--pass", dest="one", default="fwd", choices=("fwd", "bwd", "fwdbwd"), help="default fwd"
    )
    one.add_argument("--bidirectional", action="store_true")
    one.add_argument("--backend", default="auto")
    one.add_argument("--repeat", default="10", metavar="N", help="calls, whose median counts (10)")
    one.add_argument("--json", metavar="FILE", type=Path, help="write it, for programs")


def _add_retune(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--pattern",
        action="append",
        metavar="SPEC",
        help="whose kernels; may be repeated; one of each family if left out",
    )
    _add_shape(one)
    one.add_argument("--budget", metavar="MIN", type=float, default=10.0, help="minutes (10)")
    one.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="where the sizes go; a file other than the usual one is used where the environment "
        "variable ATTNBENCH_TILES names it",
    )


def _add_shape(one: argparse.ArgumentParser) -> None:
    one.add_argument("--length", default="16k", metavar="L", help="tokens (default 16k)")
    one.add_argument("--heads", default="16", metavar="H", help="16 (default), or 32/8")
    one.add_argument("--dim", default="64", metavar="D", help="head width (default 64)")
    one.add_argument("--dtype", choices=DTYPES[:3], default="bfloat16", help="default bfloat16")


def _add_nothing(_one: argparse.ArgumentParser) -> None:
    pass

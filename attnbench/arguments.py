"""The command line as a parser, and what was typed as the values that it stands for.

Nothing heavy is imported before an argument needs it, so that --help answers at once.
"""

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

Commands = Mapping[str, Callable[[argparse.Namespace], int]]

_DTYPES = ("bfloat16", "float16", "float32", "float64")


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
        "list": (_add_list, "list patterns, sources and presets"),
        "doctor": (_add_nothing, "say what works on this machine, and what to do about the rest"),
        "export": (_add_export, "copy a run without its single samples"),
        "capture": (_add_capture, "capture q, k, v of a model's layers"),
        "evaluate": (_add_evaluate, "swap patterns into a language model, and see what it loses"),
    }
    for name, (add, told) in adders.items():
        sentence = told[0].upper() + told[1:] + "."
        one = below.add_parser(name, help=told, description=sentence, add_help=name != "capture")
        add(one)
        one.set_defaults(command=commands[name])
    return top


def _add_run(one: argparse.ArgumentParser) -> None:
    one.add_argument("--preset", default="quick", help="quick (default), full or maps")
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
    one.add_argument("--dtype", choices=_DTYPES)
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
        "--retry", action="append", metavar="STATUS", help="do cases of this status again"
    )
    one.add_argument("--budget", metavar="MIN", type=float, help="minutes for the whole run")
    one.add_argument("--no-baselines", action="store_true", help="no rows to compare with")
    one.add_argument("--extend", action="store_true", help="add this matrix to an old run folder")
    one.add_argument("--dry-run", action="store_true", help="list the cases, with what they need")


def _add_report(one: argparse.ArgumentParser) -> None:
    one.add_argument("run", metavar="RUN", type=Path, help="a run folder")


def _add_inspect(one: argparse.ArgumentParser) -> None:
    one.add_argument("pattern", metavar="SPEC", help="such as 'combiner-fixed[block=64]'")
    one.add_argument("--source", default="captured", metavar="SPEC", help="q, k, v to draw it on")
    one.add_argument("--length", metavar="L", help="tokens; all that the source has, up to 2k")
    one.add_argument("--layer", help="of a captured source; its first if left out")
    one.add_argument("--head", type=int, default=0, help="number of a query head")
    one.add_argument("--row", type=int, help="the query whose weights are drawn")
    one.add_argument("--bidirectional", action="store_true")
    one.add_argument("--backend", default="auto")
    one.add_argument("--device", choices=("cpu", "cuda"), help="cuda where there is one")
    one.add_argument("--out", type=Path, metavar="FOLDER", help="where the files go")


def _add_list(one: argparse.ArgumentParser) -> None:
    one.add_argument("--json", action="store_true", help="for programs")


def _add_export(one: argparse.ArgumentParser) -> None:
    one.add_argument("run", metavar="RUN", type=Path, help="a run folder")
    one.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the copy goes")


def _add_capture(one: argparse.ArgumentParser) -> None:
    one.add_argument("rest", nargs=argparse.REMAINDER, help="--help shows them")


def _add_evaluate(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "model", metavar="MODEL", help="smollm2, a folder, a GGUF file, or owner/name on the hub"
    )
    one.add_argument(
        "--pattern",
        action="append",
        metavar="SPEC",
        required=True,
        help="a pattern, or a schedule such as 'masformer[full=8,window=1024]' or "
        "'0-7:full,8-:local[window=1024]'; may be repeated",
    )
    one.add_argument("--length", metavar="L", default="1k", help="of an excerpt (default 1k)")
    one.add_argument("--text", metavar="FILE", type=Path, required=True, help="to read (UTF-8)")
    one.add_argument("--excerpts", metavar="N", help="16, and 4 from 4096 tokens on, if left out")
    one.add_argument("--seed", metavar="N", default="0", help="of where excerpts start (default 0)")
    one.add_argument("--sensitivity", action="store_true", help="swap one layer at a time as well")
    one.add_argument("--dtype", choices=_DTYPES, default="float32", help="the model's")
    one.add_argument("--device", choices=("cpu", "cuda"), help="cuda where there is one")
    one.add_argument("--backend", default="auto", help="what the patterns run on")
    one.add_argument("--out", metavar="RUN", type=Path, help="the run folder; an old one goes on")
    one.add_argument(
        "--retry", action="append", metavar="STATUS", help="do cases of this status again"
    )
    one.add_argument("--extend", action="store_true", help="add these to an old run folder")
    one.add_argument(
        "--dry-run", action="store_true", help="only list what the stacks of layers cost"
    )
    one.add_argument(
        "--times", metavar="RUN", type=Path, help="predict times from this run (with --dry-run)"
    )


def _add_nothing(_one: argparse.ArgumentParser) -> None:
    pass


def matrix_options(typed: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Matrix` that somebody asked for.

    Raises:
        BadInput: a value that cannot be read.
    """
    found: dict[str, Any] = {}
    if typed.pattern:
        found["patterns"] = tuple(typed.pattern)
    if typed.length is not None:
        found["lengths"] = lengths(typed.length)
    if typed.passes:
        found["passes"] = _passes(typed.passes)
    if typed.source:
        found["sources"] = tuple(typed.source)
    if typed.backend:
        found["backends"] = tuple(name.strip() for name in typed.backend.split(","))
    if typed.heads:
        found["heads"], found["kv_heads"] = _heads(typed.heads)
    for name in ("batch", "dim"):
        if getattr(typed, name):
            found[name] = _positive(getattr(typed, name), f"--{name}")
    if typed.seed:
        found["seed"] = whole(typed.seed, "--seed")
    if typed.dtype:
        found["dtype"] = typed.dtype
    if typed.bidirectional:
        found["causal"] = False
    if typed.no_baselines:
        found["baselines"] = False
    return found


def lengths(text: str) -> tuple[int, ...]:
    """Read ``1k..64k`` (doubling), ``1024,3000`` (a list), or both with commas between them.

    Raises:
        BadInput: it is neither, or holds a length below 1.
    """
    from patterns.errors import BadInput

    found: list[int] = []
    for part in text.split(","):
        first, dots, last = part.partition("..")
        start, end = _positive(first, "--length"), _positive(last if dots else first, "--length")
        if end < start:
            raise BadInput(f"--length {part.strip()} ends before it begins")
        while start <= end:
            found.append(start)
            start *= 2
    return tuple(sorted(set(found)))


def device_of(asked: str | None) -> str:
    """The device that was asked for, or the best there is.

    Raises:
        BadInput: it is not there.
    """
    import torch

    from patterns.errors import BadInput

    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise BadInput("--device cuda: PyTorch sees no CUDA device; 'doctor' says more")
    return asked or ("cuda" if there else "cpu")


def whole(text: str, what: str) -> int:
    """A whole number, such as 4096 or 4k.

    Raises:
        BadInput: it is none.
    """
    from patterns.errors import BadInput
    from patterns.grammar import parse_size

    try:
        return parse_size(text)
    except BadInput as error:
        raise BadInput(f"{what}: {error}") from None


def _positive(text: str, what: str) -> int:
    from patterns.errors import BadInput

    found = whole(text, what)
    if found < 1:
        raise BadInput(f"{what} must be at least 1, got {found}")
    return found


def _passes(text: str) -> tuple[str, ...]:
    from attnbench.case import PASSES
    from patterns.errors import BadInput
    from patterns.grammar import near_match

    found = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in found:
        if name not in PASSES:
            raise BadInput(f"unknown pass {name!r}: {near_match(name, PASSES)}")
    return found


def _heads(text: str) -> tuple[int, int]:
    from patterns.errors import BadInput

    match = re.fullmatch(r"\s*(\d+)\s*(?:/\s*(\d+)\s*)?", text)
    heads, kv_heads = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not heads or not kv_heads or heads % kv_heads:
        raise BadInput(
            "--heads expects a number such as 16, or 32/8 for 32 query heads in 8 key-value "
            f"groups, got {text!r}"
        )
    return heads, kv_heads

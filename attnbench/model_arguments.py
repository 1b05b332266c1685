"""The options of the commands that are about models; `attnbench.model_requests` reads them."""

import argparse
from pathlib import Path

from attnbench.typed import DTYPES


def add_capture(one: argparse.ArgumentParser) -> None:
    """Of `capture`, which reads the rest by itself."""
    one.add_argument("rest", nargs=argparse.REMAINDER, help="--help shows them")


def add_evaluate(one: argparse.ArgumentParser) -> None:
    """Of `evaluate`."""
    _add_model(one)
    one.add_argument(
        "--pattern",
        action="append",
        metavar="SPEC",
        help="a pattern, or a schedule such as 'masformer[full=8,window=1024]' or "
        "'0-7:full,8-:local[window=1024]'; may be repeated",
    )
    one.add_argument(
        "--preset",
        choices=("swap",),
        help="swap: every causal pattern at equal keys and MASFormer's placements, at 1k, 2k, 4k",
    )
    one.add_argument("--length", metavar="L", help="of an excerpt (default 1k)")
    one.add_argument(
        "--keys",
        metavar="N|SPEC",
        help="set block, window, stride and the like, where left out, so that every pattern "
        "attends to N keys a query, or to as many as this one",
    )
    one.add_argument(
        "--text",
        metavar="FILE",
        type=Path,
        help="to read (UTF-8); the topics of this Python's help if left out",
    )
    one.add_argument("--excerpts", metavar="N", help="16, and 4 from 4096 tokens on, if left out")
    one.add_argument("--seed", metavar="N", default="0", help="of where excerpts start (default 0)")
    one.add_argument(
        "--sensitivity",
        action="store_true",
        help="swap one layer at a time as well, at the shortest length",
    )
    one.add_argument("--out", metavar="RUN", type=Path, help="the run folder; an old one goes on")
    one.add_argument(
        "--retry", action="append", metavar="STATUS", help="do cases of this status again"
    )
    one.add_argument("--extend", action="store_true", help="add these to an old run folder")
    one.add_argument("--budget", metavar="MIN", type=float, help="minutes, loading included")
    one.add_argument(
        "--dry-run", action="store_true", help="only list what the stacks of layers cost"
    )
    one.add_argument(
        "--times", metavar="RUN", type=Path, help="predict times from this run (with --dry-run)"
    )


def add_choose(one: argparse.ArgumentParser) -> None:
    """Of `choose`."""
    _add_model(one)
    one.add_argument(
        "--pattern",
        action="append",
        metavar="SPEC",
        required=True,
        help="that a head may get, such as 'sinks[window=16|64]' or full; repeated",
    )
    one.add_argument(
        "--text",
        metavar="FILE",
        type=Path,
        required=True,
        help="to judge on (UTF-8): another one than `evaluate` is to read",
    )
    one.add_argument(
        "--keys",
        metavar="N|SPEC",
        help="that a query may attend to, mean over heads: N, or as many as this pattern",
    )
    one.add_argument("--length", metavar="L", default="1k", help="of an excerpt (default 1k)")
    one.add_argument("--excerpts", metavar="N", default="4", help="to judge on (default 4)")
    one.add_argument(
        "--copies",
        metavar="N",
        default="4",
        help="texts whose end was there before, to judge on as well (default 4)",
    )
    one.add_argument("--seed", metavar="N", default="0", help="of where they start (default 0)")
    one.add_argument("--out", metavar="FILE", type=Path, help="for the schedule, beside stdout")


def add_stack(one: argparse.ArgumentParser) -> None:
    """Of `stack`."""
    one.add_argument(
        "--pattern",
        action="append",
        metavar="SPEC",
        required=True,
        help="a pattern or a schedule, such as 'masformer[full=8,window=1024]'; may be repeated",
    )
    one.add_argument("--length", metavar="L", default="16k,64k", help="default 16k,64k")
    one.add_argument("--layers", metavar="N", default="30", help="of the stack (default 30)")
    one.add_argument("--batch", metavar="B", default="1", help="sequences (default 1)")
    one.add_argument("--heads", metavar="H", default="16", help="16 (default), or 9/3")
    one.add_argument("--dim", metavar="D", default="64", help="head width (default 64)")
    one.add_argument("--dtype", choices=DTYPES, help="bfloat16 on cuda, float32 on the CPU")
    one.add_argument("--device", choices=("cpu", "cuda"), help="cuda where there is one")
    one.add_argument("--seed", metavar="N", default="0", help="of the inputs (default 0)")
    one.add_argument(
        "--times",
        metavar="RUN",
        type=Path,
        help="predict from this run; if left out, single layers are measured first, into --out",
    )
    one.add_argument(
        "--out", metavar="RUN", type=Path, help="the run folder; stack.json goes there"
    )
    one.add_argument("--budget", metavar="MIN", type=float, help="minutes (default 2)")


def _add_model(one: argparse.ArgumentParser) -> None:
    """The model, and how it runs."""
    one.add_argument(
        "model", metavar="MODEL", help="smollm2, a folder, a GGUF file, or owner/name on the hub"
    )
    one.add_argument("--dtype", choices=DTYPES, default="float32", help="the model's")
    one.add_argument("--device", choices=("cpu", "cuda"), help="cuda where there is one")
    one.add_argument("--backend", default="auto", help="what the patterns run on")

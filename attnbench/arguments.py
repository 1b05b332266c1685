"""The command line as a parser, and what was typed as the values that it stands for.

Nothing heavy is imported before an argument needs it, so that --help answers at once.
"""

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from attnbench.inspection import Wanted
    from attnbench.mapfile import Maps

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
        "compare": (_add_compare, "say what changed between two runs; 1 where it got worse"),
        "advise": (_add_advise, "say which pattern to use at a length, under a budget"),
        "merge": (_add_merge, "join runs of one version of the code into one"),
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


def _add_places(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--engine",
        choices=("local", "inline"),
        help="inline (default): in this process; local: in one that a crash does not end, not yet "
        "verified on CUDA; --gpus, --workers and --timeout imply it",
    )
    one.add_argument("--gpus", metavar="N", help="so many GPUs of this machine, or all")
    one.add_argument("--workers", metavar="N", help="on the CPU: so many processes, a thread each")
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
            found[name] = positive(getattr(typed, name), f"--{name}")
    if typed.seed:
        found["seed"] = whole(typed.seed, "--seed")
    if typed.dtype:
        found["dtype"] = typed.dtype
    if typed.bidirectional:
        found["causal"] = False
    if typed.no_baselines:
        found["baselines"] = False
    return found


def engine_options(typed: argparse.Namespace, device: str) -> dict[str, Any]:
    """Where and how cases are run, as `attnbench.engine.run` takes it.

    Raises:
        BadInput: options that do not go together, or a number that makes no sense.
    """
    from attnbench.places import places
    from patterns.errors import BadInput

    if typed.timeout is not None and not typed.timeout > 0:
        raise BadInput(f"--timeout must be more than 0 seconds, got {typed.timeout}")
    needing = [name for name in ("gpus", "workers", "timeout") if getattr(typed, name) is not None]
    if typed.engine == "inline" and needing:
        raise BadInput(f"--{needing[0]} needs worker processes: leave --engine inline out")
    plugins = tuple(typed.plugin or ())
    if typed.engine != "local" and not needing:
        return {"plugins": plugins}
    chosen = places(device, gpus=typed.gpus, workers=typed.workers)
    return {"places": chosen, "timeout_s": typed.timeout, "plugins": plugins}


def retried(typed: list[str] | None) -> tuple[str, ...]:
    """The statuses whose cases are done again.

    Raises:
        BadInput: one that does not exist.
    """
    from attnbench.case import STATUSES
    from patterns.errors import BadInput
    from patterns.grammar import near_match

    found = tuple(name.strip() for names in typed or () for name in names.split(","))
    for status in found:
        if status not in STATUSES:
            raise BadInput(f"unknown status {status!r}: {near_match(status, STATUSES)}")
    return found


def wanted_maps(typed: argparse.Namespace) -> "Wanted":
    """What `inspect` is to draw.

    Raises:
        BadInput: a value that cannot be read.
    """
    from attnbench.inspection import Wanted
    from attnbench.matrix import with_causality
    from patterns import pattern

    return Wanted(
        pattern=with_causality(pattern(typed.pattern), not typed.bidirectional),
        source=typed.source,
        layers=_some(typed.layer),
        heads=_numbers(typed.head),
        length=None if typed.length is None else positive(typed.length, "--length"),
        bins=512 if typed.bins is None else positive(typed.bins, "--bins"),
        backend=typed.backend,
        device=device_of(typed.device),
        tokens=typed.tokens,
    )


def kept_maps(text: str) -> list["Maps"]:
    """The maps of a file or a run folder; [] where the text is neither, so a pattern.

    Raises:
        BadInput: the folder holds no maps, or a file cannot be read.
    """
    from attnbench.mapfile import load_map
    from patterns import PATTERNS
    from patterns.errors import BadInput

    path = Path(text)
    if text.partition("[")[0].strip() in PATTERNS:  # also where a folder has that name
        return []
    if path.suffix == ".npz":
        return [load_map(path)]
    if not path.is_dir():
        return []
    found = sorted((path / "maps").glob("*.npz")) or sorted(path.glob("*.npz"))
    if not found:
        raise BadInput(f"{path} holds no maps: expected a run folder with maps/*.npz in it")
    return [load_map(one) for one in found]


def lengths(text: str) -> tuple[int, ...]:
    """Read ``1k..64k`` (doubling), ``1024,3000`` (a list), or both with commas between them.

    Raises:
        BadInput: it is neither, or holds a length below 1.
    """
    from patterns.errors import BadInput

    found: list[int] = []
    for part in text.split(","):
        first, dots, last = part.partition("..")
        start, end = positive(first, "--length"), positive(last if dots else first, "--length")
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


def memory_bytes(text: str, what: str) -> float:
    """A size of memory, such as 2GiB, 512MiB or 1.5 GB, in bytes.

    Raises:
        BadInput: it is none.
    """
    from patterns.errors import BadInput

    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", text.strip().upper())
    if match is None or float(match[1]) <= 0:
        raise BadInput(f"{what} expects a size such as 2GiB or 512MiB, got {text!r}")
    power = " KMGT".index(match[2] or " ")
    return float(match[1]) * float((1024 if match[3] else 1000) ** power)


def positive(text: str, what: str) -> int:
    """A whole number above 0, such as 4096 or 4k.

    Raises:
        BadInput: it is none.
    """
    from patterns.errors import BadInput

    found = whole(text, what)
    if found < 1:
        raise BadInput(f"{what} must be at least 1, got {found}")
    return found


def _some(text: str | None) -> tuple[str, ...] | None:
    """Names with commas between them; () for all, None where nothing was typed."""
    if text is None:
        return None
    return () if text == "all" else tuple(name.strip() for name in text.split(","))


def _numbers(text: str | None) -> tuple[int, ...] | None:
    """Numbers of heads with commas between them; () for all, None where nothing was typed."""
    names = _some(text)
    return None if names is None else tuple(whole(name, "--head") for name in names)


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

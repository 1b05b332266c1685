"""What was typed on the command line, as the values that it stands for.

Nothing heavy is imported before an argument needs it, so that --help answers at once.
"""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

DEFAULT_ENGINE = "local"

if TYPE_CHECKING:
    from attnbench.case import Pass
    from attnbench.evaluation import Evaluation
    from attnbench.frontier import Frontier
    from attnbench.inspection import Wanted
    from attnbench.mapfile import Maps
    from attnbench.stack_time import StackRequest


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


def engine_of(typed: argparse.Namespace) -> str:
    """The engine that was asked for, or that other options imply.

    Raises:
        BadInput: options that do not go together.
    """
    from patterns.errors import BadInput

    given = {name for name in ("gpus", "workers", "timeout") if getattr(typed, name) is not None}
    engine = typed.engine or ("dask" if typed.scheduler else "local" if given else DEFAULT_ENGINE)
    if engine == "inline" and given:
        raise BadInput(f"--{sorted(given)[0]} needs worker processes: leave --engine inline out")
    if engine == "dask" and not typed.scheduler:
        raise BadInput("--engine dask needs --scheduler tcp://host:port")
    if engine != "dask" and typed.scheduler:
        raise BadInput(f"--scheduler is for --engine dask, and asked was {engine}")
    if engine == "dask" and "gpus" in given:
        raise BadInput(
            "--gpus is for this machine: in a cluster each worker has a GPU; --workers says how "
            "many to wait for"
        )
    return engine


def engine_options(typed: argparse.Namespace) -> dict[str, Any]:
    """Where and how cases are run, as `attnbench.engine.run` takes it, and on which `device`.

    Raises:
        BadInput: options that do not go together, or a number that makes no sense.
    """
    from attnbench.dask_cluster import Scheduler
    from attnbench.dask_cluster import device_of as device_of_cluster
    from attnbench.places import places
    from patterns.errors import BadInput

    engine = engine_of(typed)
    if typed.timeout is not None and not typed.timeout > 0:
        raise BadInput(f"--timeout must be more than 0 seconds, got {typed.timeout}")
    found: dict[str, Any] = {"plugins": tuple(typed.plugin or ()), "timeout_s": typed.timeout}
    if engine == "dask":
        count = None if typed.workers is None else positive(typed.workers, "--workers")
        scheduler = Scheduler(address=typed.scheduler, workers=count)
        device = device_of_cluster(scheduler, typed.device)
        return found | {"scheduler": scheduler, "device": device}
    device = device_of(typed.device)
    if engine == "local":
        found["places"] = places(device, gpus=typed.gpus, workers=typed.workers)
    return found | {"device": device}


def evaluation(typed: argparse.Namespace) -> "Evaluation":
    """What `evaluate` is to do.

    Raises:
        BadInput: a value that cannot be read, or neither a preset nor a pattern.
    """
    from attnbench.evaluation import Evaluation
    from attnbench.swap_table import swap_table
    from patterns.errors import BadInput

    given: dict[str, Any] = swap_table() if typed.preset == "swap" else {"lengths": (1024,)}
    if typed.pattern:
        given["schedules"] = tuple(typed.pattern)
        given.pop("sensitivity", None)
    if "schedules" not in given:
        raise BadInput("nothing is asked for: expected --pattern or --preset swap")
    if typed.sensitivity:
        given["sensitivity"] = given["schedules"]
    if typed.keys is not None:
        given["keys"] = typed.keys
    if typed.length is not None:
        given["lengths"] = lengths(typed.length)
    return Evaluation(
        model=typed.model,
        excerpts=None if typed.excerpts is None else whole(typed.excerpts, "--excerpts"),
        seed=whole(typed.seed, "--seed"),
        dtype=typed.dtype,
        device=device_of(typed.device),
        backend=typed.backend,
        **given,
    )


def stack_request(typed: argparse.Namespace) -> "StackRequest":
    """Which stacks `stack` is to time.

    Raises:
        BadInput: a value that cannot be read.
    """
    from attnbench.stack_time import StackRequest

    device = device_of(typed.device)
    heads, kv_heads = _heads(typed.heads)
    return StackRequest(
        schedules=tuple(typed.pattern),
        lengths=lengths(typed.length),
        layers=positive(typed.layers, "--layers"),
        batch=positive(typed.batch, "--batch"),
        heads=heads,
        kv_heads=kv_heads,
        dim=positive(typed.dim, "--dim"),
        dtype=typed.dtype or ("bfloat16" if device == "cuda" else "float32"),
        device=device,
        seed=whole(typed.seed, "--seed"),
    )


def frontier_options(typed: argparse.Namespace) -> "Frontier":
    """What `frontier` is to look for.

    Raises:
        BadInput: a value that cannot be read, or more memory than there is.
    """
    import psutil
    import torch

    from attnbench.frontier import Frontier
    from attnbench.matrix import with_causality
    from patterns import PATTERNS, patterns
    from patterns.errors import BadInput

    device = device_of(typed.device)
    on_gpu = device == "cuda"
    if on_gpu:
        there = torch.cuda.get_device_properties(torch.device(device)).total_memory
    else:
        there = psutil.virtual_memory().available
    memory = there if on_gpu else 1 << 30
    if typed.memory:
        memory = int(memory_bytes(typed.memory, "--memory"))
    if memory > there:
        raise BadInput(f"--memory {typed.memory} is more than this machine has to give")
    heads, kv_heads = _heads(typed.heads or ("16" if on_gpu else "4"))
    specs = typed.pattern or list(PATTERNS)
    return Frontier(
        patterns=tuple(
            with_causality(one, not typed.bidirectional) for spec in specs for one in patterns(spec)
        ),
        passes=_passes(typed.passes),
        memory_bytes=memory,
        heads=heads,
        kv_heads=kv_heads,
        dim=positive(typed.dim, "--dim"),
        dtype=typed.dtype or ("bfloat16" if on_gpu else "float32"),
        device=device,
        batch=positive(typed.batch, "--batch"),
        backend=typed.backend,
        length=positive(typed.length, "--length"),
        most_seconds=typed.seconds,
    )


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


def figure_kinds(text: str) -> tuple[str, ...]:
    """Kinds of files, with commas between them.

    Raises:
        BadInput: one that no figure has.
    """
    from attnbench.records import FIGURE_KINDS
    from patterns.errors import BadInput
    from patterns.grammar import near_match

    found = tuple(name.strip() for name in text.split(","))
    for name in found:
        if name not in FIGURE_KINDS:
            raise BadInput(f"unknown kind of figure {name!r}: {near_match(name, FIGURE_KINDS)}")
    return found


def _passes(text: str) -> "tuple[Pass, ...]":
    from attnbench.case import PASSES
    from patterns.errors import BadInput
    from patterns.grammar import near_match

    found = dict.fromkeys(name.strip() for name in text.split(","))
    for name in found:
        if name not in PASSES:
            raise BadInput(f"unknown pass {name!r}: {near_match(name, PASSES)}")
    return tuple(one_pass for name in found for one_pass in PASSES if one_pass == name)


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

"""What a whole command line asks for, as the value that the work behind it takes.

Nothing heavy is imported before an argument needs it, so that --help answers at once.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.typed import (
    device_of,
    head_numbers,
    heads_of,
    lengths,
    memory_bytes,
    names,
    passes,
    positive,
    whole,
)

DEFAULT_ENGINE = "local"

if TYPE_CHECKING:
    from attnbench.frontier import Frontier
    from attnbench.inspection import Wanted
    from attnbench.kernel_times import Profile
    from attnbench.mapfile import Maps
    from attnbench.retune_run import Retune


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
    if typed.passes is not None:
        found["passes"] = passes(typed.passes)
    if typed.source:
        found["sources"] = tuple(typed.source)
    if typed.backend is not None:
        found["backends"] = tuple(name.strip() for name in typed.backend.split(","))
    if typed.heads is not None:
        found["heads"], found["kv_heads"] = heads_of(typed.heads)
    for name in ("batch", "dim"):
        if getattr(typed, name) is not None:
            found[name] = positive(getattr(typed, name), f"--{name}")
    if typed.seed is not None:
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
    found: dict[str, Any] = {
        "plugins": tuple(typed.plugin or ()),
        "timeout_s": typed.timeout,
        "compile_ahead": _compile_ahead(typed, engine),
    }
    if engine == "dask":
        count = None if typed.workers is None else positive(typed.workers, "--workers")
        scheduler = Scheduler(address=typed.scheduler, workers=count)
        device = device_of_cluster(scheduler, typed.device)
        return found | {"scheduler": scheduler, "device": device}
    device = device_of(typed.device)
    if engine == "local":
        found["places"] = places(device, gpus=typed.gpus, workers=typed.workers)
    return found | {"device": device}


def _compile_ahead(typed: argparse.Namespace, engine: str) -> int | None:
    """How many processes compile ahead; None: as many as are worth it."""
    from patterns.errors import BadInput

    if typed.compile_ahead is None:
        return 0 if engine == "inline" else None
    if engine == "dask":
        raise BadInput("--compile-ahead is for the GPUs of this machine: leave --engine dask out")
    count = whole(typed.compile_ahead, "--compile-ahead")
    if count and device_of(typed.device) != "cuda":
        raise BadInput("--compile-ahead is for --device cuda: nothing is compiled on a CPU")
    return count


def retune_request(typed: argparse.Namespace) -> "Retune":
    """Which kernels `retune` is to tune.

    Raises:
        BadInput: a value that cannot be read.
    """
    from attnbench.retune_run import USUAL, Retune
    from patterns import patterns
    from patterns.errors import BadInput

    if not typed.budget > 0:
        raise BadInput(f"--budget must be more than 0 minutes, got {typed.budget}")
    heads, kv_heads = heads_of(typed.heads)
    return Retune(
        patterns=tuple(one for spec in typed.pattern or USUAL for one in patterns(spec)),
        length=positive(typed.length, "--length"),
        heads=heads,
        kv_heads=kv_heads,
        dim=positive(typed.dim, "--dim"),
        dtype=typed.dtype,
        budget_s=60 * typed.budget,
        out=typed.out,
    )


def profile_request(typed: argparse.Namespace) -> "Profile":
    """Which call `profile` is to take apart.

    Raises:
        BadInput: a value that cannot be read.
    """
    from attnbench.case import CostCase
    from attnbench.kernel_times import Profile
    from attnbench.matrix import asked_name, with_causality
    from patterns import pattern

    length = positive(typed.length, "--length")
    heads, kv_heads = heads_of(typed.heads)
    one = with_causality(pattern(typed.pattern), not typed.bidirectional)
    case = CostCase(
        asked=asked_name(one),
        pattern=one.resolve(length).spec,
        backend=typed.backend,
        causal=one.causal,
        length=length,
        heads=heads,
        kv_heads=kv_heads,
        dim=positive(typed.dim, "--dim"),
        dtype=typed.dtype,
        device="cuda",
        seed=0,
        pass_=typed.one,
        batch=positive(typed.batch, "--batch"),
    )
    return Profile(case=case, repeat=positive(typed.repeat, "--repeat"))


def frontier_options(typed: argparse.Namespace) -> "Frontier":
    """What `frontier` is to look for.

    Raises:
        BadInput: a value that cannot be read, or more memory than there is.
    """
    import psutil
    import torch

    from attnbench.frontier import Frontier
    from attnbench.matrix import expect_backends, with_causality
    from patterns import PATTERNS, patterns
    from patterns.errors import BadInput

    device = device_of(typed.device)
    on_gpu = device == "cuda"
    if on_gpu:
        there = torch.cuda.get_device_properties(torch.device(device)).total_memory
    else:
        there = psutil.virtual_memory().available
    memory = there if on_gpu else 1 << 30
    if typed.memory is not None:
        memory = int(memory_bytes(typed.memory, "--memory"))
    if memory > there:
        raise BadInput(f"--memory {typed.memory} is more than this machine has to give")
    heads, kv_heads = heads_of(("16" if on_gpu else "4") if typed.heads is None else typed.heads)
    specs = typed.pattern or list(PATTERNS)
    chosen = [with_causality(x, not typed.bidirectional) for spec in specs for x in patterns(spec)]
    expect_backends(chosen, [typed.backend])
    return Frontier(
        patterns=tuple(chosen),
        passes=passes(typed.passes),
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
        layers=names(typed.layer),
        heads=head_numbers(typed.head),
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

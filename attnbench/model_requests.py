"""What a command line about models asks for, as the value that the work behind it takes."""

import argparse
from typing import TYPE_CHECKING, Any

from attnbench.typed import device_of, heads_of, lengths, positive, whole

if TYPE_CHECKING:
    from attnbench.calibration import Calibration
    from attnbench.evaluation import Evaluation
    from attnbench.stack_time import StackRequest


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


def calibration(typed: argparse.Namespace) -> "Calibration":
    """What `choose` is to do.

    Raises:
        BadInput: a value that cannot be read.
    """
    from attnbench.calibration import Calibration

    return Calibration(
        model=typed.model,
        patterns=tuple(typed.pattern),
        length=positive(typed.length, "--length"),
        excerpts=whole(typed.excerpts, "--excerpts"),
        copies=whole(typed.copies, "--copies"),
        seed=whole(typed.seed, "--seed"),
        keys=typed.keys,
        dtype=typed.dtype,
        device=device_of(typed.device),
        backend=typed.backend,
    )


def stack_request(typed: argparse.Namespace) -> "StackRequest":
    """Which stacks `stack` is to time.

    Raises:
        BadInput: a value that cannot be read.
    """
    from attnbench.stack_time import StackRequest

    device = device_of(typed.device)
    heads, kv_heads = heads_of(typed.heads)
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

"""Single values as they were typed on the command line: lengths, sizes, heads, devices, statuses.

Nothing heavy is imported before an argument needs it, so that --help answers at once.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnbench.case import Pass


DTYPES = ("bfloat16", "float16", "float32", "float64")
_MOST = 1 << 40  # of any size that is counted: beyond, nothing could even be asked for


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


def seconds_of(minutes: float | None) -> float | None:
    """The seconds of a --budget; None where none was typed.

    Raises:
        BadInput: it is no time.
    """
    from patterns.errors import BadInput

    if minutes is not None and not minutes > 0:
        raise BadInput(f"--budget must be more than 0 minutes, got {minutes}")
    return None if minutes is None else 60 * minutes


def positive(text: str, what: str) -> int:
    """A whole number above 0, such as 4096 or 4k.

    Raises:
        BadInput: it is none, or larger than anything.
    """
    from patterns.errors import BadInput

    found = whole(text, what)
    if found < 1:
        raise BadInput(f"{what} must be at least 1, got {found}")
    if found > _MOST:
        raise BadInput(f"{what} must be at most {_MOST}, got {found}")
    return found


def names(text: str | None) -> tuple[str, ...] | None:
    """Names with commas between them; () for all, None where nothing was typed."""
    if text is None:
        return None
    return () if text == "all" else tuple(name.strip() for name in text.split(","))


def head_numbers(text: str | None) -> tuple[int, ...] | None:
    """Numbers of heads with commas between them; () for all, None where nothing was typed."""
    found = names(text)
    return None if found is None else tuple(whole(name, "--head") for name in found)


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


def passes(text: str) -> "tuple[Pass, ...]":
    """Passes with commas between them.

    Raises:
        BadInput: one that there is not.
    """
    from attnbench.case import PASSES
    from patterns.errors import BadInput
    from patterns.grammar import near_match

    found = dict.fromkeys(name.strip() for name in text.split(","))
    for name in found:
        if name not in PASSES:
            raise BadInput(f"unknown pass {name!r}: {near_match(name, PASSES)}")
    return tuple(one_pass for name in found for one_pass in PASSES if one_pass == name)


def heads_of(text: str) -> tuple[int, int]:
    """Query heads and key-value heads: `16`, or `32/8` where they differ.

    Raises:
        BadInput: no such numbers, or the first is no multiple of the second.
    """
    from patterns.errors import BadInput

    match = re.fullmatch(r"\s*(\d+)\s*(?:/\s*(\d+)\s*)?", text)
    heads, kv_heads = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not heads or not kv_heads or heads % kv_heads:
        raise BadInput(
            "--heads expects a number such as 16, or 32/8 for 32 query heads in 8 key-value "
            f"groups, got {text!r}"
        )
    return heads, kv_heads

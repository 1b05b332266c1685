"""Numbers and lists as text for people."""

import math
from collections.abc import Iterable

TIMES, DASH, MINUS = "\u00d7", "\u2013", "\u2212"
"""A multiplication sign, what stands where there is nothing, and a minus sign."""


def size_text(tokens: float) -> str:
    """4096 as 4k, 3000 as 3000."""
    whole = round(tokens)
    if whole >= 1 << 20 and whole % (1 << 20) == 0:
        return f"{whole >> 20}M"
    return f"{whole >> 10}k" if whole >= 1024 and whole % 1024 == 0 else str(whole)


def ms_text(ms: float) -> str:
    """A time with the unit that fits: 12 µs, 0.84 ms, 1.2 s."""
    if not math.isfinite(ms):
        return DASH
    if ms < 0.9995:
        return f"{three(ms * 1000)} µs"
    return f"{three(ms)} ms" if ms < 999.5 else f"{three(ms / 1000)} s"


def bytes_text(count: float) -> str:
    """A number of bytes in binary units: 512 KiB, 1.5 GiB."""
    if not math.isfinite(count):
        return DASH
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{three(count)} {unit}"
        count /= 1024
    return f"{three(count)} TiB"


def rate_text(flops_per_s: float) -> str:
    """A rate of computing with the unit that fits: 12 GFLOP/s, 0.84 TFLOP/s as 840 GFLOP/s."""
    if not math.isfinite(flops_per_s):
        return DASH
    for unit in ("", "k", "M", "G", "T"):
        if abs(flops_per_s) < 999.5:
            return f"{three(flops_per_s)} {unit}FLOP/s"
        flops_per_s /= 1000
    return f"{three(flops_per_s)} PFLOP/s"


def above_text(names: Iterable[str], shown: int = 2) -> str:
    """What lies above the axes: so many by name, the others by their number."""
    named = list(names)
    if not shown:
        return f"above: {len(named)} pattern{'s' if len(named) > 1 else ''}"
    rest = f" and {len(named) - shown} more" if len(named) > shown else ""
    return f"above: {', '.join(named[:shown])}{rest}"


def two_digits(x: float) -> float:
    """Rounded to two significant digits: 259 as 260, 11800 as 12000."""
    return float(f"{x:.2g}")


def three(x: float) -> str:
    """At least three digits, never an exponent: 0.0123, 1.23, 12.3, 1230."""
    if not math.isfinite(x) or x == 0:
        return "0" if x == 0 else DASH
    digits = 2 - math.floor(math.log10(abs(x)))
    text = f"{round(x, digits):.{max(0, digits)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def ratio_text(x: float) -> str:
    """How many times: 2.5 and a multiplication sign."""
    return f"{three(x)}{TIMES}"


def three_places(x: float) -> str:
    """Three significant digits; small numbers with an exponent."""
    return f"{x:.1e}" if 0 < abs(x) < 1e-3 else three(x)


def joined(words: Iterable[str]) -> str:
    """a, b and c."""
    found = list(words)
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)

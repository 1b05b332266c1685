"""What any pattern should beat: the uniform map, and a window with sinks at equal keys."""

from patterns.base import Pattern, Shape
from patterns.sparse.sinks import Sinks
from patterns.uniform import Uniform

SINKS = 4  # leading tokens that the window is given


def uniform(*, causal: bool) -> Pattern:
    """The pattern that knows nothing of q and k."""
    return Uniform(causal=causal)


def equal_keys(pattern: Pattern, length: int, *, causal: bool) -> Pattern:
    """The window with 4 sinks whose attended pairs a query are closest to those of a pattern.

    The narrowest window has one token, the widest one sees everything.
    """
    return window_of_keys(keys_per_query(pattern, length), length, causal=causal)


def window_of_keys(wanted: float, length: int, *, causal: bool) -> Pattern:
    """The window with 4 sinks whose attended pairs a query are closest to a number."""
    low, high = 1, length
    while low < high:
        middle = (low + high) // 2
        if keys_per_query(_window(middle, causal), length) < wanted:
            low = middle + 1
        else:
            high = middle
    below, above = _window(max(1, low - 1), causal), _window(low, causal)
    missing = wanted - keys_per_query(below, length)
    return below if missing < keys_per_query(above, length) - wanted else above


def keys_per_query(pattern: Pattern, length: int) -> float:
    """Attended pairs of one head, a query."""
    shape = Shape(batch=1, heads=1, kv_heads=1, length=length, dim=1, element_bytes=1)
    return pattern.cost(shape).attended_pairs / length


def _window(window: int, causal: bool) -> Pattern:
    return Sinks(window=window, sink=SINKS, causal=causal)

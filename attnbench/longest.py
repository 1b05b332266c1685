"""The longest length at which something still works, by doubling and then bisection."""

from collections.abc import Callable

_STEPS = 16  # lengths from one power of two to the next: neighbours are 3 to 6 % apart


def stepped(index: int) -> int:
    """Lengths of five binary digits and zeros: 16, 17, ... 31, 32, 34, ... 62, 64, 68, ..."""
    return (_STEPS + index % _STEPS) << (index // _STEPS)


def index_of(length: int) -> int:
    """The index of the longest such length that is not longer than this one.

    Args:
        length: at least 16.
    """
    bits = length.bit_length() - _STEPS.bit_length()
    return bits * _STEPS + (length >> bits) - _STEPS


def longest(
    works: Callable[[int], bool], *, first: int, most: int
) -> tuple[int | None, int | None]:
    """The longest length that works, and the next one, which does not.

    What does not work at one length is taken not to work at a longer one. Lengths are those of
    `stepped`, so that the two are within 6 % of each other.

    Args:
        works: is asked of one length after the other, never of the same one twice.
        first: the first length, below which none is asked.
        most: none above is asked.

    Returns:
        (None, first) where not even the first works, (the last one, None) where all do.
    """
    good, last = index_of(first), index_of(most)
    if not works(stepped(good)):
        return None, stepped(good)
    while good < last:
        bad = min(good + _STEPS, last)
        if not works(stepped(bad)):
            break
        good = bad
    else:
        return stepped(good), None
    while bad - good > 1:
        middle = (good + bad) // 2
        if works(stepped(middle)):
            good = middle
        else:
            bad = middle
    return stepped(good), stepped(bad)

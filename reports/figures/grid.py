"""Small multiples: panels of one size in as many columns as the figure is wide."""

from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def rows_needed(count: int, columns: int) -> int:
    """How many rows hold this many panels."""
    return -(-count // columns)


def panels(
    figure: Figure,
    count: int,
    columns: int,
    *,
    left: float,
    right: float = 0.1,
    top: float = 0.34,
    bottom: float = 0.4,
    gap: tuple[float, float] = (0.2, 0.45),
) -> Iterator[Axes]:
    """Axes from left to right and from top to bottom; margins and gaps are in inches."""
    width, height = figure.get_size_inches()
    rows = rows_needed(count, columns)
    across = (width - left - right - gap[0] * (columns - 1)) / columns
    down = (height - top - bottom - gap[1] * (rows - 1)) / rows
    for index in range(count):
        row, column = divmod(index, columns)
        x = left + column * (across + gap[0])
        y = height - top - (row + 1) * down - row * gap[1]
        yield figure.add_axes((x / width, y / height, across / width, down / height))

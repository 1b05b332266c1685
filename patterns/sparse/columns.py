"""The rows as a grid, each column looking along itself: what strided and axial share.

The past of every column is one piece; bidirectional, the future is another one, over the reversed
rows. Both are plainly causal, so that no mask is laid over them.
"""

from torch import Tensor

from patterns.dense import Visibility
from patterns.pieces import Columns, Layout, Piece, Reversed


def column_pieces(k: Tensor, v: Tensor, *, width: int, skip: int, causal: bool) -> list[Piece]:
    """Every query against the keys of its column that lie at least `skip` grid rows before it.

    Bidirectional: or after it. No piece where no query has such a key.
    """
    grid = Columns(k.shape[2], width)
    if grid.grid_rows <= skip:
        return []
    late = Columns(k.shape[2], width, skip=skip)
    layouts: list[tuple[Layout, Layout]] = [(late, grid)]
    if not causal:
        layouts.append((Reversed(late), Reversed(grid)))
    return [
        Piece(
            layout=queries,
            k=keys.arrange(k)[:, :, :-skip],
            v=keys.arrange(v)[:, :, :-skip],
            visible=Visibility(causal=True),
        )
        for queries, keys in layouts
    ]


def column_pairs(length: int, *, width: int, skip: int, causal: bool) -> int:
    """How many pairs of one column lie at least `skip` grid rows apart."""
    full, rest = divmod(length, width)
    # Grid row r sees r - skip + 1 rows of its column.
    past = width * _triangle(full - skip) + rest * max(0, full - skip + 1)
    return past if causal else 2 * past


def _triangle(n: int) -> int:
    return n * (n + 1) // 2 if n > 0 else 0

"""How many products the forward kernels of Combiner-Logsparse make (see `patterns.computed`).

The loops over tiles are those of `patterns.kernels.logsparse_forward` and of its `window_range`;
`patterns.kernels.logsparse_own` makes some of the same.
"""

import torch
from torch import Tensor

from patterns.kernels.logsparse_call import Call


def computed_pairs(call: Call) -> int:
    """Products of one forward call, over all heads."""
    length, rows = call.length, call.tiles.rows
    first = torch.arange(-call.front, length, rows)
    asking = _tokens(call, first)
    seen = asking + _window(call, first) + _sinks(call)
    run = first - call.lag
    told = torch.where(run >= 0, _told(call), 0)
    building = torch.where(run >= 0, _building(call, run), 0)
    if not call.form.causal:  # the runs of the other side are counted from the end
        begin = (length - first - rows - call.lag).clamp(min=0) // rows * rows
        end = (length - first - call.lag).clamp(min=0)
        for step in range(2):  # a tile of queries touches two at most
            ahead = begin + step * rows
            told += torch.where(ahead < end, _told(call), 0)
            building += torch.where(ahead < end, _building(call, ahead), 0)
    attention = int((asking * (seen + told) + building).sum())
    return call.lines * (attention + call.sides * _weighing(call))


def _tokens(call: Call, first: Tensor) -> Tensor:
    """Those in the tiles that begin there."""
    rows, length = call.tiles.rows, call.length
    return (first + rows).clamp(max=length) - first.clamp(0, length)


def _window(call: Call, first: Tensor) -> Tensor:
    """Tokens of other tiles that are read directly."""
    if not call.reading["WINDOW"]:
        return torch.zeros_like(first)
    rows, length, leaf = call.tiles.rows, call.length, call.block
    low = ((first - call.lag) // leaf * leaf).clamp(min=0)
    # All tiles before but the furthest are whole, and that one may begin before the first token.
    before = (first - low + rows - 1).clamp(min=0) // rows
    found = first - (first - before * rows).clamp(min=0)
    found = torch.where(before > 0, found.clamp(min=0), 0)
    if call.form.causal:
        return found
    bound = ((length - first - rows - call.lag) // leaf * leaf).clamp(min=0)
    after = (length - 1 - bound - first).clamp(min=0) // rows
    end = (first + (after + 1) * rows).clamp(max=length)
    return found + torch.where(after > 0, end - (first + rows).clamp(max=length), 0)


def _sinks(call: Call) -> int:
    """Tokens of the tiles of 16 that hold the sinks."""
    return min(-(-call.sink // 16) * 16, call.length)


def _told(call: Call) -> int:
    """Regions that a run tells its queries: those inside it, and one longer of each level."""
    inner = call.tiles.rows // 2 if call.reading["INNER"] else 0
    return inner + (_levels(call) if call.reading["OUTER"] else 0)


def _building(call: Call, run: Tensor) -> Tensor:
    """Tokens of a run times the regions inside it, whose keys they are."""
    inner = call.tiles.rows // 2 if call.reading["INNER"] else 0
    return inner * _tokens(call, run)


def _weighing(call: Call) -> int:
    """Tokens in chunks of one side times the regions of whole units that may hold one."""
    tokens = min(call.chunks * call.chunk_units * call.unit, call.length)
    return tokens * _levels(call)


def _levels(call: Call) -> int:
    most: int = call.weighing["LEVELS"]
    return min(most, call.units.bit_length())

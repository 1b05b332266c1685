"""Which tiles of a map hold visible pairs, from the tiles' corners alone: no map is made.

A tile is a range of consecutive queries against a range of consecutive keys. Ranges are tensors
of positions that broadcast against each other, first and last included.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class TilePair(NamedTuple):
    """Tiles, off the diagonal or on it: all queries before, after or at the very same positions."""

    first_query: Tensor
    last_query: Tensor
    first_key: Tensor
    last_key: Tensor
    length: int

    @property
    def least(self) -> Tensor:
        """The least of query - key in the tile; every number up to `most` occurs."""
        return self.first_query - self.last_key

    @property
    def most(self) -> Tensor:
        """The largest of query - key in the tile."""
        return self.last_query - self.first_key


class Cover(NamedTuple):
    """Whether a tile holds some visible pair, and whether surely all of its pairs are visible.

    `every` may miss a tile (two rules may only together see all of it); `some` may not.
    """

    some: Tensor
    every: Tensor

    def __or__(self, other: "Cover") -> "Cover":
        return Cover(self.some | other.some, self.every | other.every)


def near(pair: TilePair, reach: int) -> Cover:
    """Pairs at most `reach` apart."""
    some = (pair.least <= reach) & (pair.most >= -reach)
    return Cover(some, (pair.least >= -reach) & (pair.most <= reach))


def multiple_apart(pair: TilePair, step: int) -> Cover:
    """Pairs whose distance is a multiple of `step`, 0 included."""
    some = pair.most // step * step >= pair.least
    return Cover(some, torch.full_like(some, step == 1))


def same_block(pair: TilePair, block: int) -> Cover:
    """Pairs in one block of consecutive tokens."""
    first_query, last_query = pair.first_query // block, pair.last_query // block
    first_key, last_key = pair.first_key // block, pair.last_key // block
    some = (first_query <= last_key) & (first_key <= last_query)
    every = (first_query == last_key) & (first_key == last_query)
    return Cover(some, every)


def keys_below(pair: TilePair, count: int) -> Cover:
    """Every query against the first `count` keys."""
    any_query = pair.first_query >= 0
    return Cover(any_query & (pair.first_key < count), any_query & (pair.last_key < count))


def block_ends(pair: TilePair, block: int, tail: int) -> Cover:
    """Every query against the last `tail` keys of each block, a short last block included."""
    end = ((pair.first_key // block + 1) * block).clamp(max=pair.length)
    some = end - tail <= pair.last_key  # otherwise the tile ends before the first tail begins
    every = (end - tail <= pair.first_key) & (pair.last_key < end)
    any_query = pair.first_query >= 0
    return Cover(any_query & some, any_query & every)


def power_apart(pair: TilePair) -> Cover:
    """Pairs at a distance of 0, 1, 2, 4, 8, ..."""
    nearest = torch.maximum(pair.least, -pair.most)  # of tiles off the diagonal
    farthest = torch.maximum(pair.most, -pair.least)
    power = farthest.clone()
    for shift in (1, 2, 4, 8, 16, 32):
        power |= power >> shift
    some = power - (power >> 1) >= nearest  # the largest power of two in reach
    return Cover(some, torch.zeros_like(some))


def digit_ends(pair: TilePair) -> Cover:
    """Later queries against the ends of the blocks that their binary digits cut.

    Of tiles of 2^n aligned keys, only the last one is seen by queries beyond the tile; the pairs
    of a tile with itself are not told.
    """
    end = pair.last_key + 1
    some = (pair.first_query >= end) & (pair.first_query < end + (end & -end))
    return Cover(some, torch.zeros_like(some))

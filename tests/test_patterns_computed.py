"""What the tiles of an implementation compute is what a count over its map says."""

import math

import pytest
import torch
from torch import Tensor

from patterns import PATTERNS, Pattern, Shape
from patterns.combiner.fixed import CombinerFixed
from patterns.computed import band_pairs, counting
from patterns.full import Full
from patterns.sparse.axial import Axial
from patterns.sparse.base import SparsePattern
from patterns.sparse.fixed import Fixed
from patterns.sparse.local import Local
from patterns.sparse.logsparse import LogSparse
from patterns.sparse.sinks import Sinks
from patterns.sparse.strided import Strided

HEADS = 2
NOT_PAIRS = ("rfa", "uniform")  # they multiply no queries with keys


def counted(pattern: Pattern, length: int, backend: str, dim: int = 16) -> int | None:
    """Pairs of one head, as counted while it runs."""
    q, k, v = torch.randn(3, 1, HEADS, length, dim).unbind()
    with counting() as tally:
        pattern.attend(q, k, v, backend=backend)
    if tally.pairs is None:
        return None
    assert tally.pairs % HEADS == 0
    return tally.pairs // HEADS


def touched(visible: Tensor, rows: int, columns: int) -> int:
    """Pairs in the tiles of a map that hold a visible one, counted tile by tile."""
    tiles = [part for band in visible.split(rows) for part in band.split(columns, dim=1)]
    return sum(part.numel() for part in tiles if part.any())


@pytest.mark.parametrize(
    ("queries", "keys", "left", "right"),
    [
        (300, 300, None, 0),
        (300, 300, 20, 0),
        (70, 300, 40, 40),
        (300, 90, None, None),
        (1, 1, 0, 0),
    ],
)
def test_the_tiles_of_a_band_are_those_that_hold_some_of_it(
    queries: int, keys: int, left: int | None, right: int | None
):
    away = torch.arange(queries)[:, None] - torch.arange(keys)
    band = (away <= (math.inf if left is None else left)) & (
        -away <= (math.inf if right is None else right)
    )
    found = band_pairs(queries, keys, left=left, right=right, rows=32, columns=16)
    assert found == touched(band, 32, 16)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", sorted(PATTERNS.keys() - set(NOT_PAIRS)))
def test_no_implementation_computes_less_than_its_definition_needs(name: str, causal: bool):
    pattern = PATTERNS[name](causal=causal)
    for length in (1, 200):
        q = torch.randn(1, HEADS, length, 16)
        shape = Shape(batch=1, heads=HEADS, kv_heads=HEADS, length=length, dim=16, element_bytes=4)
        needed = pattern.cost(shape).scored_pairs // HEADS
        runs = [backend for backend in pattern.backends if not pattern._refusal(backend, q)]
        assert runs
        for backend in runs:
            found = counted(pattern, length, backend)
            assert found is not None
            assert needed <= found, backend


@pytest.mark.parametrize("name", NOT_PAIRS)
def test_what_makes_no_products_of_queries_and_keys_counts_none(name: str):
    assert counted(PATTERNS[name](), 100, "eager") is None


def test_dense_attention_skips_what_is_causal_only_where_it_is_fused():
    causal = torch.ones(300, 300).tril().bool()
    assert counted(Full(), 300, "sdpa") == touched(causal, 128, 128)
    assert counted(Full(), 300, "eager") == counted(Full(causal=False), 300, "sdpa") == 300**2


def test_nothing_is_counted_while_nobody_listens():
    with counting() as tally:
        pass
    q = torch.randn(1, 1, 8, 4)
    Full().attend(q, q, q)
    assert tally.pairs is None


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    "pattern",
    [Local(window=40), Local(window=40, causal=False), Fixed(block=100), LogSparse()],
    ids=lambda pattern: pattern.spec,
)
def test_flex_computes_its_visible_blocks(pattern: SparsePattern):
    from patterns.kernels.flex import attend_flex

    q = torch.randn(1, HEADS, 300, 16)
    with counting() as tally:
        attend_flex(pattern, q, q, q, 0.25, compiled=False)
    assert tally.pairs == HEADS * touched(pattern.support(300), 128, 128)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 20, 90])
def test_the_window_kernel_computes_the_tiles_that_its_window_touches(window: int, causal: bool):
    pattern = Local(window=window, causal=causal)
    assert counted(pattern, 150, "triton") == touched(pattern.support(150), 32, 16)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("sink", [3, 20, 64, 100])
def test_the_window_kernel_computes_sinks_beyond_the_tiles_of_its_window(sink: int, causal: bool):
    length, window = 150, 20
    near = Local(window=window, causal=causal).support(length)
    sinks = Sinks(window=window, sink=sink, causal=causal)
    expected = touched(near, 32, 16)
    for rows_near in near.split(32):
        seen = rows_near.any(dim=0).nonzero().flatten()
        begin, end = int(seen[0]) // 16 * 16, -(-int(seen[-1] + 1) // 16) * 16
        beyond = [key for key in range(sink) if key < begin or (key >= end and not causal)]
        tiles = {key // 16 for key in beyond}
        expected += len(rows_near) * sum(min(16, length - 16 * tile) for tile in tiles)
    assert counted(sinks, length, "triton") == expected


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("block", "near", "sink"), [(16, 0, 0), (48, 1, 5), (20, 0, 30)])
def test_the_combiner_kernel_computes_whole_tiles(block: int, near: int, sink: int, causal: bool):
    """Tile by tile as the kernel goes: 32 queries of a block, 32 tokens or far columns a step."""
    length, tile = 100, min(32, 1 << (block - 1).bit_length())
    blocks = -(-length // block)
    expected = length  # every token answers the query of its region once
    for first_block in range(0, length, block):
        number, end = first_block // block, min(first_block + block, length)
        for first in range(first_block, end, tile):
            rows = min(tile, end - first)
            begin = max(number - near, 0) * block
            stop = first + rows if causal else min((number + near + 1) * block, length)
            tokens = len(range(begin, stop, tile)) * tile
            regions = max(number - near, 0) if causal else blocks
            columns = sink + regions if regions else 0
            far = len(range(0, columns, tile)) * tile
            expected += rows * (min(tokens, length - begin) + min(far, sink + blocks))
    pattern = CombinerFixed(block=block, near=near, sink=sink, causal=causal)
    assert counted(pattern, length, "triton") == expected


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("causal", [True, False])
def test_the_diagonal_kernel_computes_what_is_visible(causal: bool):
    pattern = LogSparse(causal=causal)
    assert counted(pattern, 40, "triton") == int(pattern.support(40).sum())


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("causal", [True, False])
def test_the_kernels_along_lines_compute_the_tiles_of_each_line(causal: bool):
    """Tile by tile as the kernels go: 32 queries of a line, 32 of its keys a step."""
    length, columns = 130, 40
    for pattern in (Axial(columns=columns, causal=causal), Strided(stride=columns, causal=causal)):
        near = (lambda away: away == 0) if pattern.name == "axial" else (lambda away: away < 2)
        place = torch.arange(length)
        row, column = place // columns, place % columns
        expected = 0
        for rows in place.split(columns):
            for keys in place.split(columns):
                away = int((row[rows[0]] - row[keys[0]]).abs())
                if near(away):
                    expected += touched(pattern.support(length)[rows][:, keys], 32, 32)
        for number in range(columns):
            line = place[column == number]
            away = (row[line][:, None] - row[line]).abs()
            far = pattern.support(length)[line][:, line] & ~near(away)
            expected += touched(far, 32, 32)
        assert counted(pattern, length, "triton") == expected


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("block", "tail"), [(40, 1), (40, 20)])
def test_the_kernel_of_tails_computes_whole_tiles(block: int, tail: int, causal: bool):
    length, blocks = 110, 3
    expected = 0
    for number, rows in enumerate(torch.arange(length).split(block)):
        for first in range(0, len(rows), 32):
            stop = first + 32 if causal else len(rows)
            keys = min(-(-min(stop, len(rows)) // 32) * 32, length - int(rows[0]))
            expected += min(32, len(rows) - first) * keys
        far = tail * (number if causal else blocks)
        expected += len(rows) * min(-(-far // 32) * 32, tail * blocks)
    pattern = Fixed(block=block, tail=tail, causal=causal)
    assert counted(pattern, length, "triton") == expected


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("causal", [True, False])
def test_the_suffix_kernel_computes_whole_tiles_and_far_keys(causal: bool):
    pattern = LogSparse(keys="suffix", causal=causal)
    once = touched(torch.eye(100).bool(), 64, 64) + 100 * 16
    assert counted(pattern, 100, "triton") == once * (1 if causal else 2)

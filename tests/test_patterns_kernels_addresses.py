"""No kernel touches memory outside the tensors it was launched with, at the tile sizes of a GPU.

In Triton's interpreter, forward and backward, in half precision: that has the tiles of Hopper.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from addresses import Addresses, OutsideTheTensors, checked
from contract import Inputs, draw_inputs, gradients

from patterns import pattern

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

# Pattern, length, width of a head, query and key-value heads.
CASES = [
    ("combiner-logsparse", 529, 16, 1, 1),  # regions of several chunks
    ("combiner-logsparse[near=3,sink=70,causal=false,summary=mean+size]", 150, 24, 2, 1),
    ("combiner-fixed[block=64,sink=4,near=1]", 150, 24, 2, 1),
    ("combiner-axial-vertical[columns=17,causal=false]", 80, 24, 1, 1),
    ("combiner-mixture[columns=30]", 80, 16, 1, 1),
    ("sinks[window=40,sink=5]", 150, 24, 2, 1),
    ("logsparse", 150, 24, 2, 1),
]


@pytest.fixture
def addresses(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Addresses]:
    """Watched, and tiles as on Hopper."""
    from patterns.kernels import logsparse_call, logsparse_tiles, tile_choice, window, window_tiles

    cuda, of_logsparse = torch.device("cuda"), logsparse_tiles.tiles
    hopper = window_tiles._HOPPER
    monkeypatch.setattr(logsparse_call, "tiles", lambda *given: of_logsparse(*given[:-1], cuda))
    tile_choice.forget()
    monkeypatch.setattr(window, "tiles", lambda kernel, width, *_: hopper[kernel, max(width, 64)])
    yield checked(monkeypatch)
    tile_choice.forget()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_every_address_lies_in_a_tensor_of_the_launch(
    addresses: Addresses, case: tuple[str, int, int, int, int]
):
    name, length, dim, heads, kv_heads = case
    drawn = draw_inputs(length, dim=dim, heads=heads, kv_heads=kv_heads, dtype=torch.float16)
    inputs = Inputs(*(x.detach()[:1].requires_grad_() for x in drawn))
    gradients(pattern(name).attend(*inputs, backend="triton"), inputs)
    assert len(addresses.kernels) >= 3


@pytest.mark.parametrize(("first", "named"), [(-1, "number -1"), (9, "number 16")])
def test_an_address_outside_is_named(first: int, named: str):
    x, other = torch.zeros(16), torch.zeros(4)
    looked = Addresses()
    looked.launch("kernel", {"x": x, "other": other[:0], "length": 16})
    places = x.data_ptr() + 4 * np.arange(first, first + 8).astype(np.uint64)
    looked.look_at("reads", places, (np.arange(8) + first >= 0) & (np.arange(8) + first < 16), 4)
    with pytest.raises(OutsideTheTensors, match=f"kernel reads {named} of x.* has 16"):
        looked.look_at("reads", places, np.ones(8, bool), 4)

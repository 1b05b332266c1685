"""Pieces merged into one softmax."""

import torch
from contract import assert_as_good, draw_inputs

from patterns import pattern


def test_merging_adds_no_rounding_of_its_own() -> None:
    """A first row that is nearly all one piece: its share has to be right to the last bit."""
    form = pattern("combiner-logsparse[causal=false,summary=variational,block=1]")
    assert_as_good(form, "eager", draw_inputs(300, seed=3, dim=40, dtype=torch.float32))

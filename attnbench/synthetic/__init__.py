"""Synthetic q, k, v: families that each imitate one structure seen in real attention.

Letters: B batch, H heads (Hq/Hkv), L length, D head width. Logits are ``q k^T / sqrt(D)``. The
entropies in the docstrings are means over heads and causal rows, in nats, at 4 heads, L = 2048
and D = 64 (a uniform row of that length averages 6.6); captured layers have 1.7 to 5.7 there.

The numbers are drawn on the CPU in float32, so a seed gives the same ones for every device; only
`gaussian`, on which nothing is judged, is drawn where it is used, because it may be large.
"""

from attnbench.synthetic.base import Shape, Synthetic
from attnbench.synthetic.clustered import Clustered
from attnbench.synthetic.gaussian import Gaussian
from attnbench.synthetic.heavy_hitter import HeavyHitter
from attnbench.synthetic.local_decay import LocalDecay
from attnbench.synthetic.low_rank import LowRank
from attnbench.synthetic.needle import Needle
from attnbench.synthetic.sink import Sink

__all__ = [
    "Clustered",
    "Gaussian",
    "HeavyHitter",
    "LocalDecay",
    "LowRank",
    "Needle",
    "Shape",
    "Sink",
    "Synthetic",
]

"""Each of our kernels once over a small case, forward and backward, to be watched from outside.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer python tests/kernel_cases.py

Without PyTorch's cache of memory every tensor is an allocation of its own, so that what reads or
writes beside one is seen. Run it once without compute-sanitizer first: that compiles the kernels.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from patterns import PATTERNS, pattern

LENGTH, WHOLE, DIM, HEADS, KV_HEADS = 300, 320, 64, 4, 2  # WHOLE: in tiles of 64
FORMS = (
    "combiner-fixed[block=32]",
    "combiner-fixed[block=32,summary=variational,sink=4,near=1,causal=false]",
    "combiner-fixed[block=32,summary=mean+size]",
    "combiner-logsparse",
    "combiner-logsparse[summary=variational]",
    "combiner-logsparse[causal=false]",
    "combiner-logsparse[summary=variational,sink=4,near=1]",
    "combiner-logsparse[summary=mean+size,causal=false]",
    "combiner-axial-rowmajor[columns=16]",
    "combiner-axial-vertical[columns=16]",
    "combiner-axial-horizontal[columns=16]",
    "combiner-axial-horizontal[columns=16,regions=split,summary=variational]",
    "combiner-mixture",
    "combiner-mixture[causal=false]",
)


def main() -> int:
    """Run all that has a Triton kernel; 1 where there is no GPU."""
    if not torch.cuda.is_available():
        print("there is no GPU here", file=sys.stderr)
        return 1
    sparse = [
        f"{name}[causal={causal}]"
        for name, cls in PATTERNS.items()
        if "triton" in cls.backends and not name.startswith("combiner-")
        for causal in ("true", "false")
    ]
    torch.manual_seed(0)
    whole = [spec for spec in FORMS if spec.startswith("combiner-logsparse")]
    cases = [(spec, LENGTH) for spec in (*FORMS, *sparse)] + [(spec, WHOLE) for spec in whole]
    for spec, length in cases:
        form = pattern(spec)
        q = torch.randn(1, HEADS, length, DIM, device="cuda", dtype=torch.bfloat16)
        k, v = torch.randn(2, 1, KV_HEADS, length, DIM, device="cuda", dtype=torch.bfloat16)
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = form.attend(*leaves, backend="triton")
        found = (out, *torch.autograd.grad(out, leaves, torch.randn_like(out)))
        finite = all(bool(x.isfinite().all()) for x in found)
        print(f"{'ok' if finite else 'NOT FINITE'}  {spec}, {length} tokens", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Fused kernels in Triton, which only these modules import: triton may be absent elsewhere."""

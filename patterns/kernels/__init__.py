"""Fused kernels in Triton and compiled FlexAttention; imported where one runs, never at start."""

"""Tensor operators over packed batches; the compiled loops are in `kernels`."""

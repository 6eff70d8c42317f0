"""Kernels of a GPU, in Triton, which only machines with one need to have installed."""

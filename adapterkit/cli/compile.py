"""`adapterkit compile`: the loops of a CPU, compiled before the first start."""

from __future__ import annotations

import time

import typer

from ..errors import AdapterkitError

# As in the other commands, modules that need torch are imported inside them.


def compile_loops() -> None:
    """Compile the loops for this processor into their cache, so that no start has to.

    Run it when an image of a container is built: the cache beside the package is then also used
    where it cannot be written.
    """
    began = time.perf_counter()
    from ..ops.kernels.compiling import compile_loops as compile_all

    folder = compile_all()
    if folder is None:
        raise AdapterkitError(
            "no folder is safe for compiled loops; set NUMBA_CACHE_DIR to one that only you can "
            "write"
        )
    typer.echo(f"compiled loops are in {folder} ({time.perf_counter() - began:.0f} s)")

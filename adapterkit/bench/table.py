"""Results of benchmarks for people: tables, and a bar chart."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..adapter.figure import ACCENT, BLUE, GRID, INK
from ..atomic import write_output
from ..text_table import table
from .systems import OWN

TITLES = {
    "tokens_per_second": "tokens/s",
    "rows_per_second": "rows/s",
    "peak_mb": "peak MB",
    "base_over_it": "base/it",
    "floor_over_it": "floor/it",
    "products_over_it": "products/it",
    "it_over_floor": "it/floor",
    "faster_than_peft": "times PEFT's speed",
    "of_peak": "of the peak",
    "peak_over_peft": "peak/PEFT's",
    "over_fewest": "it/fewest",
    "faster_than_in_turn": "times in turn's speed",
    "most_apart": "most apart",
    "faster_than_plain": "times the plain speed",
    "bytes_per_adapter": "bytes an adapter",
    "requests_per_second": "requests/s",
    "p50": "p50 ms",
    "p95": "p95 ms",
    "p99": "p99 ms",
    "longest": "longest ms",
    "overloaded": "429",
    "over_engine": "of the engine's rows/s",
    "tensor_bytes": "bytes of its tensors",
    "over_tensors": "bytes/tensors",
    "hit_rate": "in memory",
    "busiest": "busiest/mean",
}
"""Column titles of keys that need one; `base/it` is the time of base divided by the row's."""


def result_text(result: Mapping[str, Any]) -> str:
    """A result as text: settings and machine, then a table for each list of rows."""
    machine = ", ".join(f"{key} {value}" for key, value in result["machine"].items() if value)
    settings = {key: value for key, value in result["settings"].items() if value is not None}
    chosen = ", ".join(f"{key} {_cell(value)}" for key, value in settings.items())
    parts = [f"bench {result['bench']}: {chosen}", machine]
    for key in ("rows", "memory", "faults", "engine"):
        if result.get(key):
            parts += ["", _rows_text(result[key])]
    return "\n".join(parts)


def _rows_text(rows: Sequence[Mapping[str, Any]]) -> str:
    keys = list(rows[0])
    header = [TITLES.get(key, key) for key in keys]
    return table(header, [[_cell(row[key]) for key in keys] for row in rows])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (tuple, list)):
        return " ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def draw_bars(result: Mapping[str, Any], path: Path) -> None:
    """Horizontal bars of the median milliseconds of every system, as PNG.

    Raises:
        DataError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    rows = result["rows"][::-1]
    figure = Figure(figsize=(8.0, 1.2 + 0.28 * len(rows)), dpi=120, layout="constrained")
    axes = figure.subplots()
    names, times = [_bar_name(row) for row in rows], [row["ms"] for row in rows]
    spread = [
        [row["ms"] - row["min"] for row in rows],
        [row["max"] - row["ms"] for row in rows],
    ]
    colours = [BLUE if row["system"] == OWN else ACCENT for row in rows]
    bars = axes.barh(names, times, color=colours, xerr=spread, ecolor=INK, error_kw={"lw": 0.8})
    axes.bar_label(bars, fmt=" %.4g", color=INK, fontsize=7)
    axes.set_xlabel("milliseconds: median, minimum and maximum", color=INK, fontsize=8)
    axes.tick_params(labelsize=8, colors=INK)
    axes.margins(x=0.08, y=0.02)
    figure.suptitle(_title(result), x=0.01, ha="left", color=INK, fontsize=10)
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_output(path, buffer.getvalue())


def _bar_name(row: Mapping[str, Any]) -> str:
    tenants = f", {row['tenants']} tenants" if row["tenants"] else ""
    return f"{row['system']}: {row['batch']}{tenants}"


def _title(result: Mapping[str, Any]) -> str:
    settings, machine = result["settings"], result["machine"]
    quantised = "" if settings["quantization"] == "none" else f" {settings['quantization']}"
    return (
        f"{settings['rows']} rows, {settings['backbone']} {settings['dtype']}{quantised}, "
        f"{machine['processor']}, threads {machine['threads']}"
    )

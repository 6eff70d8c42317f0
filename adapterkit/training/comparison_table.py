"""A comparison of methods as a table."""

from __future__ import annotations

from typing import Any

from ..text_table import table


def comparison_table(result: dict[str, Any]) -> str:
    """The result of `compare` as a table."""
    metric, many = result["metric"], len(result["seeds"]) > 1
    against, has_validation = (
        any(entry[key] is not None for entry in result["methods"])
        for key in ("against_full", "validation")
    )
    header = ["method", *(["validation"] if has_validation else []), metric]
    header += [*(["std"] if many else []), *(["against full"] if against else [])]
    rows = []
    for entry in result["methods"]:
        cells = [entry["method"], *([f"{entry['validation']:.4f}"] if has_validation else [])]
        cells += [f"{entry['mean']:.4f}"]
        cells += [f"{entry['std']:.4f}"] if many else []
        cells += [f"{100 * entry['against_full']:+.1f} points"] if against else []
        size = f"{entry['bytes'] / 1000:,.0f}"
        cells += [f"{entry['parameters']:,}", f"{100 * entry['share']:.2f}%", size]
        rows.append([*cells, f"{entry['seconds']:.0f}"])
    counts = ", ".join(f"{n:,} {split}" for split, n in result["rows"].items())
    seeds = f", mean of {len(result['seeds'])} seeds" if many else ""
    return "\n".join(
        [
            table([*header, "trained", "share", "kB", "seconds"], rows),
            f"{metric} of the {result['split']} rows ({counts}){seeds}",
        ]
    )

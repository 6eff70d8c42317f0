"""PEFT's settings in `adapter_config.json`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..backbone.geometry import Geometry

COMMON_SETTINGS = frozenset(
    (
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
        *("revision", "inference_mode", "target_modules", "exclude_modules", "layers_to_transform"),
        *("layers_pattern", "modules_to_save", "init_weights"),
        "fan_in_fan_out",  # PEFT ignores it for the linears of an encoder
    )
)
"""Settings of every method that do not change what a finished adapter computes."""

OFF: tuple[Any, ...] = (None, False, "none", {}, [])
"""Values of a setting that switch it off."""


def check_settings(config: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuses settings that may change answers and are not read here, unknown ones included.

    Args:
        config: The content of `adapter_config.json`.
        known: Settings beside `COMMON_SETTINGS` that are read, or that only training reads.

    Raises:
        ValueError: There is such a setting, and it is not switched off.
    """
    for name, value in config.items():
        if name not in COMMON_SETTINGS and name not in known and value not in OFF:
            raise ValueError(
                f"{name} = {value!r:.80} is not supported; train without it, or merge the adapter "
                "into its base model in PEFT"
            )


def target_settings(
    targets: Sequence[str], layers: tuple[int, ...] | None, geometry: Geometry
) -> dict[str, Any]:
    """The settings by which PEFT finds the linears that an adapter edits.

    Args:
        targets: Canonical names of the linears.
        layers: Layers that are edited; None for all.
        geometry: The backbone's.
    """
    names = [geometry.sites[site].peft_name(site) for site in targets]
    # PEFT matches by suffix, so a name may also be the end of another linear's.
    endings = tuple(f".{name}" for name in names)
    excluded = [
        other
        for site, linear in geometry.sites.items()
        if site not in targets and (other := linear.peft_name(site)).endswith(endings)
    ]
    layer_list = geometry.layers_path.rpartition(".")[2]
    return {
        "target_modules": names,
        "exclude_modules": excluded or None,
        "layers_to_transform": list(layers) if layers is not None else None,
        "layers_pattern": layer_list if layers is not None else None,
    }

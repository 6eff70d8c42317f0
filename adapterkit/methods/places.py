"""The layers and sites that an adapter edits, as its settings name them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from ..backbone.geometry import ENTRY, Geometry


def check_sites(key: str, sites: Sequence[str], known: Collection[str]) -> None:
    """Refuses sites that are not distinct and known.

    Args:
        key: The setting.
        sites: Its value.
        known: The sites that are valid here.

    Raises:
        ValueError: One is unknown or named twice, or there are none.
    """
    if not sites or len(set(sites)) != len(sites) or not set(sites) <= set(known):
        raise ValueError(f"{key}: expected distinct of {', '.join(known)}; got {list(sites)}")


def check_layers(layers: tuple[int, ...] | None) -> None:
    """Refuses layer numbers that are not ascending.

    Raises:
        ValueError: They are not, or there are none.
    """
    if layers is not None and (not layers or list(layers) != sorted(set(layers))):
        raise ValueError(f"layers: expected ascending layer numbers, got {list(layers)}")


def chosen_layers(layers: tuple[int, ...] | None, geometry: Geometry) -> tuple[int, ...]:
    """The layers an adapter edits: the given ones, or all if they are None.

    Raises:
        ValueError: The backbone has no such layer.
    """
    for layer in layers or ():
        if not 0 <= layer < geometry.layers:
            last = geometry.layers - 1
            raise ValueError(f"layers: there is no layer {layer}; the backbone has 0 to {last}")
    return tuple(range(geometry.layers)) if layers is None else layers


def layers_at(site: str, layers: tuple[int, ...] | None, geometry: Geometry) -> tuple[int, ...]:
    """The layers an adapter edits at a site: those of `chosen_layers`, or at `entry`, the states
    that enter the layers, the first alone."""
    return (0,) if site == ENTRY else chosen_layers(layers, geometry)


def all_layers(settings: Iterable[tuple[int, ...] | None], geometry: Geometry) -> tuple[int, ...]:
    """The layers that at least one of some adapters edits, ascending."""
    layers = (chosen_layers(one, geometry) for one in settings)
    return tuple(sorted(set[int]().union(*layers)))


def layers_setting(layers: tuple[int, ...], geometry: Geometry) -> tuple[int, ...] | None:
    """The setting for which `chosen_layers` returns these layers: None if they are all."""
    return None if layers == chosen_layers(None, geometry) else layers

"""Kinds found by being there: one module of a package holds one kind, under its `type` name."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def discover(package: str, base: type[Any]) -> dict[str, type[Any]]:
    """Imports every module of a package and collects the subclasses of `base` they define.

    Args:
        package: Name of the package whose modules are the kinds; its other modules define none.
        base: Their base class; each kind names itself in its class attribute `type`.

    Returns:
        Kind by name, in alphabetical order.

    Raises:
        TypeError: Two kinds share a name.
    """
    kinds: dict[str, type[Any]] = {}
    folder = import_module(package).__path__
    for info in sorted(iter_modules(folder), key=lambda info: info.name):
        module = import_module(f"{package}.{info.name}")
        for member in vars(module).values():
            own = isinstance(member, type) and member.__module__ == module.__name__
            if own and issubclass(member, base) and hasattr(member, "type"):
                if member.type in kinds:
                    raise TypeError(f"{member} and {kinds[member.type]} are both '{member.type}'")
                kinds[member.type] = member
    return kinds

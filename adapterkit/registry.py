"""Registries: the kinds that a package of adapterkit defines, and those that plug-ins add.

A kind is a class: a method, a task, a metric, a backbone family, a training callback. One module of
the package defines one kind. Another distribution adds one through a Python entry point whose name
is the kind's `type` and whose group is `adapterkit.` and the last part of the package's name
(packaging.python.org, "Entry points specification"):

    [project.entry-points."adapterkit.methods"]
    red = "my_package.red:RepresentationEditing"
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from pkgutil import iter_modules
from typing import Any

from .errors import AdapterkitError


def discover(package: str, base: type[Any]) -> dict[str, type[Any]]:
    """The subclasses of a base class that a package's modules and installed plug-ins define.

    Args:
        package: Name of the package, such as `adapterkit.methods`. All its modules are imported.
        base: The base class. A subclass is a kind if it has a class attribute `type`, its name.

    Returns:
        Kind by name: the package's own in the order of its modules, then those of plug-ins in the
        order of their names.

    Raises:
        AdapterkitError: A plug-in cannot be loaded or is not such a kind, or two kinds have one
            name. The message is one line and names the distribution and the entry point.
    """
    kinds: dict[str, type[Any]] = {}
    origins: dict[str, str] = {}
    for kind, origin in (*_own_kinds(package, base), *_plugin_kinds(package, base)):
        if kind.type in kinds:
            raise AdapterkitError(
                f"two kinds in {package} have the name '{kind.type}': {origins[kind.type]} and "
                f"{origin}; rename or uninstall one"
            )
        kinds[kind.type], origins[kind.type] = kind, origin
    return kinds


def _own_kinds(package: str, base: type[Any]) -> Iterator[tuple[type[Any], str]]:
    """The kinds that a package's modules define, each with its qualified name."""
    folder = import_module(package).__path__
    for info in sorted(iter_modules(folder), key=lambda info: info.name):
        module = import_module(f"{package}.{info.name}")
        for member in vars(module).values():
            is_own = isinstance(member, type) and member.__module__ == module.__name__
            if is_own and issubclass(member, base) and hasattr(member, "type"):
                yield member, f"{module.__name__}.{member.__qualname__}"


def _plugin_kinds(package: str, base: type[Any]) -> Iterator[tuple[type[Any], str]]:
    """The kinds of installed plug-ins, each with a description of its entry point."""
    group = f"adapterkit.{package.rpartition('.')[2]}"
    for point in sorted(_entry_points().select(group=group), key=lambda point: point.name):
        yield _load(point, base), _describe(point)


def _load(point: EntryPoint, base: type[Any]) -> type[Any]:
    """The class that an entry point refers to.

    Raises:
        AdapterkitError: It cannot be imported, or is not a complete subclass of the base class.
    """
    try:
        kind: Any = point.load()
    except Exception as error:  # the import runs code of others, which may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise AdapterkitError(
            f"{_describe(point)} cannot be loaded ({reason}); repair or uninstall the distribution"
        ) from None
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise AdapterkitError(f"{_describe(point)} is not a subclass of {base.__name__}")
    if isabstract(kind):
        missing = sorted(getattr(kind, "__abstractmethods__", ()))
        raise AdapterkitError(f"{_describe(point)} does not implement {', '.join(missing)}")
    if getattr(kind, "type", None) != point.name:
        raise AdapterkitError(
            f"{_describe(point)} has the type {getattr(kind, 'type', None)!r}; type and name of "
            "the entry point must be equal"
        )
    return kind


def _describe(point: EntryPoint) -> str:
    distribution = point.dist.name if point.dist is not None else "unknown"
    return (
        f"plug-in '{point.name}' = '{point.value}' of distribution '{distribution}' "
        f"(entry points {point.group})"
    )


@cache
def _entry_points() -> Any:
    """The entry points of all installed distributions, read once in a process.

    Returns:
        An `EntryPoints`, before Python 3.12 a `SelectableGroups`: both have `select`.
    """
    return entry_points()

"""The base class of runtimes that compute exported files without adapterkit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from ..errors import AdapterError

Session = Callable[[Mapping[str, Tensor]], Tensor]
"""From the inputs of a padded batch by name to its logits, `[n, C]` or `[n, t, C]`."""


class Runtime(ABC):
    """One runtime and the files that it reads."""

    type: ClassVar[str]
    """Name of the format, and of the extra that installs what it needs."""

    title: ClassVar[str]
    """Name of the runtime."""

    libraries: ClassVar[tuple[str, ...]]
    """What it needs."""

    int8_libraries: ClassVar[tuple[str, ...]] = ()
    """What it needs besides for 8 bits."""

    def require_libraries(self, int8: bool) -> None:
        """Checks that everything is installed.

        Args:
            int8: Whether weights become 8-bit numbers.

        Raises:
            AdapterError: A library is missing.
        """
        for library in (*self.libraries, *(self.int8_libraries if int8 else ())):
            try:
                import_module(library)
            except ImportError:
                raise AdapterError(
                    f"the format '{self.type}' needs {library}: "
                    f"pip install 'adapterkit[{self.type}]'"
                ) from None

    @abstractmethod
    def write(self, graph: Path, folder: Path, int8: bool) -> None:
        """Writes the files of a model.

        Args:
            graph: The model as an ONNX file.
            folder: Where the files go.
            int8: Whether weights become 8-bit numbers.
        """

    @abstractmethod
    def open(self, folder: Path) -> Session:
        """Opens the files of a model for float32 computation on a CPU.

        Args:
            folder: The folder with the files.
        """

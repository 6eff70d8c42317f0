"""A linear that a PEFT folder changes, with everything that its change depends on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

SAFE_PATTERN = re.compile(
    r"\^?(?:[\w.-]|\\[.d]\+?|\.\*|\((?:\?:)?[\w.]+(?:\|[\w.]+)*\)|\[[\w-]+\]\+?)*\$?"
)
"""Regular expressions of modules that are matched here: others may take exponential time."""


@dataclass(frozen=True)
class PeftModule:
    """A frozen linear that a PEFT folder changes, with everything that its change depends on.

    Attributes:
        path: Path in the model that PEFT changed, such as `bert.encoder.layer.0.output.dense`.
        tensors: Trained tensors by the last part of their name, such as `lora_A`, float32.
        shared: Trained tensors of the whole folder, such as `vblora_vector_bank`, float32.
        config: The content of `adapter_config.json`.
        shape: Width out and width in.
        weight: Returns the frozen weight, `[out, in]` float32.
    """

    path: str
    tensors: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    config: Mapping[str, Any]
    shape: tuple[int, int]
    weight: Callable[[], Tensor]

    def setting(self, name: str, pattern: str | None = None) -> Any:
        """A setting, or the exception from it that a pattern makes for this module.

        Args:
            name: The setting.
            pattern: Setting that maps regular expressions of paths to other values.

        Raises:
            ValueError: The folder lacks the setting, or an expression is not matched here.
        """
        exceptions = self.config.get(pattern) or {} if pattern else {}
        for ending, value in exceptions.items():
            if not SAFE_PATTERN.fullmatch(ending) or ending.count("*") + ending.count("+") > 3:
                raise ValueError(f"{pattern}: the pattern {ending!r:.80} is not supported")
            if re.fullmatch(rf"(?:.*\.)?(?:{ending})", self.path):
                return value
        if self.config.get(name) is None:
            raise ValueError(f"the setting '{name}' is missing")
        return self.config[name]

    def check_shape(self, n_out: int, n_in: int) -> None:
        """Refuses tensors that change a weight of another shape; called before anything of that
        shape is computed.

        Args:
            n_out: Width out of the weight that they change.
            n_in: Its width in.

        Raises:
            ValueError: The backbone's has another shape.
        """
        if (n_out, n_in) != self.shape:
            raise ValueError(
                f"'{self.path}': the tensors change a weight {(n_out, n_in)}, the backbone has "
                f"{self.shape}"
            )

    def tensor(self, name: str) -> Tensor:
        """A trained tensor.

        Raises:
            ValueError: The folder has none of that name for this module.
        """
        if name not in self.tensors:
            raise ValueError(f"{self.path}: tensor '{name}' is missing")
        return self.tensors[name]

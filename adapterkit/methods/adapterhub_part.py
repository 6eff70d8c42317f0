"""One method of a folder that AdapterHub's library `adapters` wrote: settings, and its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..backbone.model import Backbone
from .peft_folder import PeftFolder
from .peft_settings import OFF

Modules = Mapping[str, Mapping[str, Tensor]]
"""Path of a module to its tensors, float32, by the rest of their names."""

WAY_OUT = "train without it, or go on with AdapterHub's library"
"""What to do with an adapter that has no exact form here."""

INITIALISATION = ("architecture", "dropout", "init_weights", "init_weights_seed", "dtype")
"""Settings of every method that do not change what a finished adapter computes."""

ACTIVATION_NAMES = {"leakyrelu": "leaky_relu"}
"""Activations that have another name here."""


@dataclass(frozen=True)
class AdapterHubPart:
    """One method of an AdapterHub folder, which has several in a union.

    Attributes:
        settings: Its settings, from `adapter_config.json`.
        modules: Its tensors, by module.
        shared: Tensors that all its modules share.
        backbone: The backbone that it is read for.
    """

    settings: Mapping[str, Any]
    modules: Modules
    shared: Mapping[str, Tensor]
    backbone: Backbone

    def check(self, read: Iterable[str], ignored: Iterable[str] = ()) -> None:
        """Refuses settings that may change answers and are not read, unknown ones included.

        Args:
            read: Settings that are read.
            ignored: Settings that only training or the shapes of tensors depend on.

        Raises:
            ValueError: There is such a setting, and it is not switched off.
        """
        known = {*INITIALISATION, *read, *ignored}
        for name, value in self.settings.items():
            if name not in known and value not in OFF:
                raise ValueError(f"{name} = {value!r:.80} has no exact form here; {WAY_OUT}")

    def require(self, name: str, *values: Any) -> None:
        """Refuses a setting that has another value than those with an exact form.

        Raises:
            ValueError: It has.
        """
        value = self.settings.get(name, values[0])
        if value not in values:
            raise ValueError(f"{name} = {value!r:.80} has no exact form here; {WAY_OUT}")

    def layers(self) -> tuple[int, ...]:
        """The layers that it edits."""
        left_out = self.settings.get("leave_out") or ()
        return tuple(n for n in range(self.backbone.geometry.layers) if n not in left_out)

    def activation(self) -> str:
        """The name of its activation here; it may be unknown."""
        name = str(self.settings["non_linearity"]).lower()
        return ACTIVATION_NAMES.get(name, name)

    def folder(self, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PeftFolder:
        """The same in PEFT's form.

        Args:
            config: As the content of PEFT's `adapter_config.json`.
            tensors: As the tensors of PEFT's weights file.
        """
        return PeftFolder.of(config, tensors, self.backbone)


def check_complete(
    found: Iterable[tuple[int, object]], expected: Iterable[tuple[int, object]]
) -> None:
    """Refuses weights that lack a place, or have one more than the settings say.

    Args:
        found: Layer and place inside of it of each trained module.
        expected: Those that the settings name.

    Raises:
        ValueError: They differ.
    """
    got, wanted = set(found), set(expected)
    for kind, places in (("miss", wanted - got), ("have more than", got - wanted)):
        if places:
            layer = min(layer for layer, _ in places)
            raise ValueError(f"the weights {kind} what the settings name in layer {layer}")

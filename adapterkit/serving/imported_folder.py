"""Uploaded folders of PEFT, as files of an adapter folder that is bound to a loaded backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ..adapter.card import CARD
from ..adapter.folder import adapter_files
from ..adapter.foreign_folder import load_foreign_adapter
from ..adapter.json_file import read_json
from ..adapter.peft_format import CONFIG, base_model
from ..adapter.peft_head import HeadFacts
from ..backbone.model import Backbone
from ..errors import AdapterError, DataError, MissingBackboneError, TooLargeError
from ..inference.backbones import Backbones

FOLDER = "folder"
"""Name of the folder to which an upload is written while it is read."""


@dataclass(frozen=True)
class ImportOptions:
    """What the caller says about a folder of PEFT.

    Attributes:
        labels: Label names in the order of the logits, with commas.
        problem: transformers' `problem_type`.
        backbone: Name of the loaded backbone to bind it to; that of its base model if omitted.
    """

    labels: str | None = None
    problem: str | None = None
    backbone: str | None = None

    @property
    def facts(self) -> HeadFacts:
        """What the folder does not say about its head."""
        labels = None if self.labels is None else tuple(self.labels.split(","))
        return HeadFacts(labels, self.problem)


@dataclass(frozen=True)
class FolderImport:
    """Turns folders of PEFT into adapter folders.

    Attributes:
        backbones: The loaded backbones.
        most_bytes: Most bytes of an adapter's tensors.
    """

    backbones: Backbones
    most_bytes: int

    def files(
        self, name: str, uploaded: Mapping[str, bytes], options: ImportOptions
    ) -> Mapping[str, bytes]:
        """The files of the adapter folder for an uploaded one; the same if it has a card.

        Args:
            name: Name of the adapter.
            uploaded: Content by path, of names that an adapter folder may have.
            options: What the caller says about it.

        Raises:
            DataError: There are options, and the folder has a card.
            TooLargeError: The adapter is larger than the folder may be.
            AdapterError: The folder is not sound, or cannot be computed exactly here, or its base
                model is not loaded.
        """
        if CARD in uploaded:
            if options != ImportOptions():
                raise DataError(
                    f"labels, problem and backbone are for folders of PEFT; this one has {CARD}, "
                    "which says them"
                )
            return uploaded
        with TemporaryDirectory() as place:
            folder = Path(place) / FOLDER
            for path, content in uploaded.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
            try:
                backbone = self._backbone(folder, options.backbone)
                adapter = load_foreign_adapter(folder, backbone, options.facts)
            except AdapterError as error:
                raise type(error)(str(error).replace(f"{folder}", name)) from None
            if adapter.n_bytes > self.most_bytes:
                raise TooLargeError(
                    f"{name}: as an adapter it has {adapter.n_bytes} bytes, at most "
                    f"{self.most_bytes} are accepted"
                )
            bound = replace(
                adapter, name=name, backbone=backbone.name, fingerprint=backbone.fingerprint
            )
            return adapter_files(bound, backbone.geometry)

    def _backbone(self, folder: Path, chosen: str | None) -> Backbone:
        """The loaded backbone that the caller names, or else the folder.

        Raises:
            MissingBackboneError: It is not loaded, or nobody names one.
        """
        name = chosen or base_model(read_json(folder, CONFIG))
        for backbone in self.backbones:
            if backbone.name == name:
                return backbone
        loaded = ", ".join(f"'{backbone.name}'" for backbone in self.backbones)
        raise MissingBackboneError(
            f"{folder}: its base model {'is not named' if name is None else f'{name!r:.100}'}"
            f"{'' if name is None else ' is not loaded'}; name the one that it was trained on with "
            f"?backbone=...; loaded: {loaded}"
        )

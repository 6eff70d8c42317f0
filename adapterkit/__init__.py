"""One frozen BERT, hundreds of task models: LoRA, prefix and bottleneck adapters."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .adapter.adapter import Adapter as Adapter
    from .adapter.store import Store as Store
    from .backbone.model import Backbone as Backbone
    from .client.http import AsyncClient as AsyncClient
    from .client.http import Client as Client
    from .errors import AdapterkitError as AdapterkitError
    from .inference.attribution import explain as explain
    from .inference.predictor import Predictor as Predictor
    from .training.comparison import compare as compare
    from .training.recipe import Recipe as Recipe
    from .training.train import train as train
    from .training.train import train_many as train_many

_HOME = {
    "Adapter": "adapter.adapter",
    "AdapterkitError": "errors",
    "AsyncClient": "client.http",
    "Backbone": "backbone.model",
    "Client": "client.http",
    "compare": "training.comparison",
    "explain": "inference.attribution",
    "Predictor": "inference.predictor",
    "Recipe": "training.recipe",
    "Store": "adapter.store",
    "train": "training.train",
    "train_many": "training.train",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    # Importing adapterkit must not import torch: names are fetched when first used.
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

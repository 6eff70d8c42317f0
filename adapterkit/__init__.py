"""One frozen BERT, hundreds of task models: LoRA, prefix and bottleneck adapters."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter import Adapter as Adapter
    from .backbone import Backbone as Backbone
    from .client import AsyncClient as AsyncClient
    from .client import Client as Client
    from .comparison import compare as compare
    from .errors import AdapterkitError as AdapterkitError
    from .explanation import explain as explain
    from .predict import Predictor as Predictor
    from .recipe import Recipe as Recipe
    from .store import Store as Store
    from .training import train as train
    from .training import train_many as train_many

__version__ = "0.1.0"

_HOME = {
    "Adapter": "adapter",
    "AdapterkitError": "errors",
    "AsyncClient": "client",
    "Backbone": "backbone",
    "Client": "client",
    "compare": "comparison",
    "explain": "explanation",
    "Predictor": "predict",
    "Recipe": "recipe",
    "Store": "store",
    "train": "training",
    "train_many": "training",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    # Importing adapterkit must not import torch: names are fetched when first used.
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

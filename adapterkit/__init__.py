"""One frozen BERT, hundreds of task models: LoRA, prefix and bottleneck adapters."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .adapter.adapter import Adapter as Adapter
    from .adapter.card import read_card as read_card
    from .adapter.folder import load_adapter as load_adapter
    from .adapter.folder import save_adapter as save_adapter
    from .adapter.plots import plot_comparison as plot_comparison
    from .adapter.store import Store as Store
    from .backbone.families.base import Family as Family
    from .backbone.geometry import Geometry as Geometry
    from .backbone.geometry import Site as Site
    from .backbone.model import Backbone as Backbone
    from .client.http import AsyncClient as AsyncClient
    from .client.http import Client as Client
    from .data.readers import read_records as read_records
    from .errors import AdapterkitError as AdapterkitError
    from .inference.attribution import explain as explain
    from .inference.labelled import read_rows as read_rows
    from .inference.pipeline import evaluate as evaluate
    from .inference.predictor import Predictor as Predictor
    from .methods.base import Method as Method
    from .metrics.base import MetricKind as MetricKind
    from .tasks.base import Task as Task
    from .tasks.columns import Column as Column
    from .tasks.fields import FieldKind as FieldKind
    from .training.callbacks.base import Callback as Callback
    from .training.callbacks.base import Event as Event
    from .training.comparison import compare as compare
    from .training.comparison import method_names as method_names
    from .training.comparison_table import comparison_table as comparison_table
    from .training.cross_validation import cross_validate as cross_validate
    from .training.recipe import Recipe as Recipe
    from .training.train import train as train
    from .training.train import train_many as train_many

_MODULES = {
    "Adapter": "adapter.adapter",
    "AdapterkitError": "errors",
    "AsyncClient": "client.http",
    "Backbone": "backbone.model",
    "Callback": "training.callbacks.base",
    "Client": "client.http",
    "Column": "tasks.columns",
    "Event": "training.callbacks.base",
    "Family": "backbone.families.base",
    "FieldKind": "tasks.fields",
    "Geometry": "backbone.geometry",
    "Method": "methods.base",
    "MetricKind": "metrics.base",
    "Predictor": "inference.predictor",
    "Recipe": "training.recipe",
    "Site": "backbone.geometry",
    "Store": "adapter.store",
    "Task": "tasks.base",
    "compare": "training.comparison",
    "comparison_table": "training.comparison_table",
    "cross_validate": "training.cross_validation",
    "evaluate": "inference.pipeline",
    "explain": "inference.attribution",
    "load_adapter": "adapter.folder",
    "method_names": "training.comparison",
    "plot_comparison": "adapter.plots",
    "read_card": "adapter.card",
    "read_records": "data.readers",
    "read_rows": "inference.labelled",
    "save_adapter": "adapter.folder",
    "train": "training.train",
    "train_many": "training.train",
}
"""Public name to the module that defines it; the imports above say the same to type checkers."""

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    # Importing adapterkit must not import torch: a name is imported when it is first used.
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

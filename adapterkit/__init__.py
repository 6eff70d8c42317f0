"""One frozen BERT, hundreds of task models: LoRA, prefix and bottleneck adapters."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .adapter.card import read_card as read_card
    from .adapter.composition import compose as compose
    from .adapter.folder import Adapter as Adapter
    from .adapter.folder import load_adapter as load_adapter
    from .adapter.folder import save_adapter as save_adapter
    from .adapter.plots import plot_comparison as plot_comparison
    from .adapter.store import Store as Store
    from .adapter.trust import Trust as Trust
    from .backbone.families.base import Family as Family
    from .backbone.geometry import Geometry as Geometry
    from .backbone.geometry import Site as Site
    from .backbone.model import Backbone as Backbone
    from .backbone.packing import TokenSequence as TokenSequence
    from .backbone.tokenizer import TextEncoder as TextEncoder
    from .backbone.tokenizer import truncate as truncate
    from .client.http import AsyncClient as AsyncClient
    from .client.http import Client as Client
    from .data.readers import read_records as read_records
    from .errors import AdapterkitError as AdapterkitError
    from .errors import DataError as DataError
    from .inference.attribution import explain as explain
    from .inference.backbones import Backbones as Backbones
    from .inference.labelled import read_rows as read_rows
    from .inference.pipeline import evaluate as evaluate
    from .inference.predictor import Predictor as Predictor
    from .methods.base import Method as Method
    from .methods.group import Group as Group
    from .methods.group import GroupEdits as GroupEdits
    from .methods.merged_form import ParameterChange as ParameterChange
    from .metrics.base import Metric as Metric
    from .metrics.base import MetricKind as MetricKind
    from .metrics.base import Predictions as Predictions
    from .ops.low_rank import LowRank as LowRank
    from .ops.stacked_weights import StackedWeights as StackedWeights
    from .tasks.base import Task as Task
    from .tasks.columns import Column as Column
    from .tasks.fields import FieldKind as FieldKind
    from .tasks.pooled import PooledTask as PooledTask
    from .tasks.single_label import SingleLabelTask as SingleLabelTask
    from .tasks.types import AnswerSummary as AnswerSummary
    from .tasks.types import Example as Example
    from .tasks.types import HeadInput as HeadInput
    from .tasks.types import Outputs as Outputs
    from .tasks.types import Part as Part
    from .tasks.types import Row as Row
    from .tasks.types import Score as Score
    from .training.callbacks.base import Callback as Callback
    from .training.callbacks.base import Event as Event
    from .training.comparison import compare as compare
    from .training.comparison import method_names as method_names
    from .training.comparison_table import comparison_table as comparison_table
    from .training.cross_validation import cross_validate as cross_validate
    from .training.recipe import Recipe as Recipe
    from .training.run import Run as Run
    from .training.train import train as train
    from .training.train import train_many as train_many
    from .training.tuning import SearchResult as SearchResult
    from .training.tuning import tune as tune
    from .training.tuning_table import FinishedTrial as FinishedTrial

_MODULES = {
    "Adapter": "adapter.folder",
    "AdapterkitError": "errors",
    "AnswerSummary": "tasks.types",
    "AsyncClient": "client.http",
    "Backbone": "backbone.model",
    "Backbones": "inference.backbones",
    "Callback": "training.callbacks.base",
    "Client": "client.http",
    "Column": "tasks.columns",
    "DataError": "errors",
    "Event": "training.callbacks.base",
    "Example": "tasks.types",
    "Family": "backbone.families.base",
    "FieldKind": "tasks.fields",
    "FinishedTrial": "training.tuning_table",
    "Geometry": "backbone.geometry",
    "Group": "methods.group",
    "GroupEdits": "methods.group",
    "HeadInput": "tasks.types",
    "LowRank": "ops.low_rank",
    "Method": "methods.base",
    "Metric": "metrics.base",
    "MetricKind": "metrics.base",
    "Outputs": "tasks.types",
    "ParameterChange": "methods.merged_form",
    "Part": "tasks.types",
    "PooledTask": "tasks.pooled",
    "Predictions": "metrics.base",
    "Predictor": "inference.predictor",
    "Recipe": "training.recipe",
    "Row": "tasks.types",
    "Run": "training.run",
    "Score": "tasks.types",
    "SearchResult": "training.tuning",
    "SingleLabelTask": "tasks.single_label",
    "Site": "backbone.geometry",
    "StackedWeights": "ops.stacked_weights",
    "Store": "adapter.store",
    "Task": "tasks.base",
    "TextEncoder": "backbone.tokenizer",
    "TokenSequence": "backbone.packing",
    "Trust": "adapter.trust",
    "compare": "training.comparison",
    "comparison_table": "training.comparison_table",
    "compose": "adapter.composition",
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
    "truncate": "backbone.tokenizer",
    "tune": "training.tuning",
}
"""Public name to the module that defines it; the imports above say the same to type checkers."""

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    # Importing adapterkit must not import torch: a name is imported when it is first used.
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__

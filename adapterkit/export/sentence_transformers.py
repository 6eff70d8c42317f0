"""The files by which sentence-transformers pools the states of a checkpoint into a vector."""

from __future__ import annotations

import json

from safetensors.torch import save as to_safetensors

from ..adapter.adapter import Adapter
from ..adapter.json_file import to_json
from ..adapter.peft_format import STATES
from ..backbone.model import Backbone

MODELS = "sentence_transformers.models"


def sentence_transformers_files(adapter: Adapter, backbone: Backbone) -> dict[str, bytes]:
    """The modules after the transformer, by path in the checkpoint: pooling, projection, norm.

    Args:
        adapter: The adapter.
        backbone: Its backbone.

    Returns:
        Content by path; nothing for an adapter that does not embed, or that pools by the pooler,
        which sentence-transformers does not read.
    """
    pooling = getattr(adapter.task, "pooling", None)
    if adapter.task.peft_task_type != STATES or pooling not in ("mean", "cls"):
        return {}
    hidden = backbone.geometry.hidden
    files = {
        "1_Pooling/config.json": to_json(
            {
                "word_embedding_dimension": hidden,
                "pooling_mode_mean_tokens": pooling == "mean",
                "pooling_mode_cls_token": pooling == "cls",
            }
        )
    }
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    projection = adapter.head.get("projection.weight")
    if projection is not None:
        settings = {
            "in_features": hidden,
            "out_features": len(projection),
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        files["2_Dense/config.json"] = to_json(settings)
        weight = projection.detach().cpu().float().contiguous()
        files["2_Dense/model.safetensors"] = to_safetensors({"linear.weight": weight})
        modules.append(("2_Dense", "Dense"))
    modules.append((f"{len(modules)}_Normalize", "Normalize"))
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"{MODELS}.{kind}"}
        for index, (path, kind) in enumerate(modules)
    ]
    # A folder without files is not written, and the norm has no settings.
    files[f"{modules[-1][0]}/config.json"] = to_json({})
    return {**files, "modules.json": json.dumps(listed, indent=2).encode()}

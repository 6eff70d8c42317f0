"""Folders that PEFT writes in a test, and what PEFT and adapterkit compute with them."""

from __future__ import annotations

import shutil
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from adapterkit.adapter.adapter import Adapter
from adapterkit.backbone.model import Backbone
from helpers.sequences import logits_of, tokenise

TEXTS = ["where is my card", "a", "i want to close the account " * 4, "rain sun tea", "fast help"]

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "mpnet": {},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 64},
}
"""Model types, and what they call a size by a name of their own."""

FURTHER_FAMILIES: dict[str, dict[str, Any]] = {"modernbert": {"global_attn_every_n_layers": 2}}
"""Model types whose heads in PEFT are not all read here."""

TWO_LAYERS: dict[str, dict[str, Any]] = {
    "modernbert": {},
    "modernbert with a head": {"classifier_pooling": "mean"},
    "eurobert": {"classifier_pooling": "bos"},
    "eurobert of the mean": {"classifier_pooling": "mean", "num_key_value_heads": 2},
    "eurobert of late means": {},
    "nomic_bert": {},
    "gte": {},
    "jina_embeddings_v3": {},
}
"""Model types whose classifiers have a hidden layer, with a name for further ones of one type."""


def random_checkpoint(like: Path, family: str, folder: Path) -> Path:
    """Writes a random checkpoint of a family, with the sizes and the vocabulary of another one."""
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

    shape = AutoConfig.from_pretrained(like).to_dict()
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    shutil.copytree(like, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = AutoConfig.for_model(
        family.partition(" ")[0],
        **{name: shape[name] for name in sizes},
        intermediate_size=64,
        max_position_embeddings=66,
        pad_token_id=0,
        **(TWO_LAYERS | FAMILIES | FURTHER_FAMILIES)[family],
    )
    torch.manual_seed(4)
    kind: Any = AutoModelForMaskedLM if family.endswith("with a head") else AutoModel
    model = kind.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    model.save_pretrained(folder)
    return folder


def write_with_peft(
    base: Path,
    folder: Path,
    config: Any,
    n_labels: int = 3,
) -> Any:
    """A trained PEFT folder, and PEFT's model of it as PEFT loads it.

    Args:
        base: The checkpoint.
        folder: The new folder.
        config: The configuration of PEFT.
        n_labels: Outputs of the head, except for question answering.
    """
    import peft
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    classes = {
        "SEQ_CLS": "AutoModelForSequenceClassification",
        "TOKEN_CLS": "AutoModelForTokenClassification",
        "QUESTION_ANS": "AutoModelForQuestionAnswering",
    }
    auto: Any = getattr(transformers, classes.get(config.task_type, "AutoModel"))
    settings = {"num_labels": n_labels} if config.task_type in ("SEQ_CLS", "TOKEN_CLS") else {}

    torch.manual_seed(3)
    untouched = auto.from_pretrained(base, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(deepcopy(untouched), config)
        torch.manual_seed(9)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                # The states, which a model without a task is trained by, reach no pooler.
                is_reached = "pooler" not in name or config.task_type == "SEQ_CLS"
                if parameter.requires_grad and is_reached:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
        return peft.PeftModel.from_pretrained(untouched, folder).eval()


def peft_outputs(model: Any, backbone: Backbone, pairs: Any = None) -> Any:
    """PEFT's logits, or mean states, of each text."""
    found = []
    warnings.filterwarnings("ignore", "Sparse invariant checks")
    for row in tokenise(backbone, TEXTS, pairs, 50):
        with torch.inference_mode():
            arguments = {"input_ids": torch.tensor([row.input_ids])}
            if pairs is not None:
                arguments["token_type_ids"] = torch.tensor([row.token_type_ids])
            output = model(**arguments, attention_mask=torch.ones_like(arguments["input_ids"]))
        if "start_logits" in output:
            found.append(torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1))
        elif "logits" in output:
            found.append(output.logits[0].reshape(-1, output.logits.shape[-1]))
        else:
            found.append(output.last_hidden_state[0].mean(0, keepdim=True))
    return torch.cat(found)


def own_outputs(adapter: Adapter, backbone: Backbone, pairs: Any = None) -> torch.Tensor:
    """Our logits, or mean states, of each text."""
    return logits_of(backbone, adapter, tokenise(backbone, TEXTS, pairs, 50))

"""The trainers that `bench train` starts, each in a fresh process.

`python -m adapterkit.bench.trainers SYSTEM` reads a job as one line of JSON (`TrainBench.job`) and
replies with one line: `step_seconds` of every optimiser step after the first, and `peak_bytes`; or
`lacks` with the method, if the system does not have it.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor, autograd, randn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ..adapter.folder import save_adapter
from ..backbone.model import Backbone
from ..methods.base import methods
from ..quiet import quiet_warnings
from ..training.recipe import Recipe
from ..training.train import train
from .machine import peak_bytes
from .workload import random_adapter

Job = Mapping[str, Any]


class UnsupportedMethodError(Exception):
    """The system does not have the method."""


@contextmanager
def record_step_ends() -> Iterator[list[float]]:
    """Yields a list of the times at which optimiser steps end, by one clock for all systems."""
    ends: list[float] = []
    handle = register_optimizer_step_post_hook(lambda *_: ends.append(time.perf_counter()))
    try:
        yield ends
    finally:
        handle.remove()


def _method_settings(job: Job, folder: str) -> dict[str, Any]:
    """The settings of the job's method; if it needs saved adapters, over random ones in a folder.

    Args:
        job: The job.
        folder: Where these adapters are written.
    """
    settings: dict[str, Any] = job["method"]
    parent = methods()[settings["type"]].parent_type
    if parent is None:
        return settings
    backbone = Backbone.load(job["model"], device="cpu", prepared=False)
    names = ["first", "second"]
    for seed, name in enumerate(names):
        adapter = random_adapter(backbone, parent, {}, seed, 2)
        save_adapter(adapter, Path(folder) / name, backbone.geometry)
    return {**settings, "of": names}


def train_adapterkit(job: Job) -> list[float]:
    """Our training from a CSV file and a recipe, as a user runs it."""
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "rows.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            writer.writerows(zip(job["texts"], job["labels"], strict=True))
        recipe = Recipe.of(
            {
                "name": "bench",
                "data": {"path": "rows.csv", "validation": 0.0},
                "method": _method_settings(job, folder),
                "backbone": {"model": job["model"], "dtype": job["dtype"], "device": "cpu"},
                "training": {"epochs": 1, "batch_size": job["batch"]},
            },
            folder,
        )
        with record_step_ends() as ends:
            train(recipe, progress=False)
    return ends


def train_peft(job: Job) -> list[float]:
    """PEFT's adapter of the same settings under transformers' Trainer, as their docs show it.

    bfloat16 is the Trainer's mixed precision (`bf16`), which is as fast as bfloat16 weights.

    Raises:
        UnsupportedMethodError: PEFT does not have the method.
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    settings_of_peft = dict(job["peft"])
    config = PEFT_TYPE_TO_CONFIG_MAPPING.get(settings_of_peft.pop("peft_type"))
    if config is None:
        raise UnsupportedMethodError
    names = sorted(set(job["labels"]))
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    rows = [
        {**tokenizer(text), "labels": names.index(label)}
        for text, label in zip(job["texts"], job["labels"], strict=True)
    ]
    plain = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=len(names))
    with tempfile.TemporaryDirectory() as folder, record_step_ends() as ends:
        settings = TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=job["batch"],
            bf16=job["dtype"] == "bfloat16",
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        Trainer(
            get_peft_model(plain, config(task_type="SEQ_CLS", **settings_of_peft)),
            settings,
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(tokenizer),
        ).train()
    return ends


def run_linears(job: Job) -> list[float]:
    """The floor: the products that any training computes, on the same rows.

    These are each linear of the backbone, forward and backward with respect to its input.
    """
    backbone = Backbone.load(job["model"], dtype=job["dtype"], device="cpu")
    sizes = [len(ids) for ids in backbone.tokenizer(job["texts"])["input_ids"]]
    batches = [sum(sizes[n : n + job["batch"]]) for n in range(0, len(sizes), job["batch"])]
    linears: list[Any] = backbone.computed_linears
    dtype = next(backbone.model.parameters()).dtype
    inputs = {n: randn(max(batches), n, dtype=dtype) for n in {it.in_features for it in linears}}
    ends = []
    for tokens in batches:
        for index, linear in enumerate(linears):
            x: Tensor = inputs[linear.in_features][:tokens].detach()
            # The input of the first layer's query, key and value needs no gradient.
            y = linear.forward(x.requires_grad_(index >= 3))
            if y.requires_grad:
                autograd.grad(y, x, y.detach())
        ends.append(time.perf_counter())
    return ends


SYSTEMS: dict[str, Callable[[Job], list[float]]] = {
    "floor": run_linears,
    "adapterkit": train_adapterkit,
    "peft": train_peft,
}


def main(system: str) -> None:
    """Reads a job from standard input, runs it and writes the reply."""
    job = json.loads(sys.stdin.readline())
    try:
        # The Trainer prints to standard output, which is for the reply.
        with redirect_stdout(sys.stderr), quiet_warnings():
            ends = SYSTEMS[system](job)
    except UnsupportedMethodError:
        reply: dict[str, Any] = {"lacks": job["method"]["type"]}
    else:
        reply = {
            "step_seconds": [after - before for before, after in pairwise(ends)],
            "peak_bytes": peak_bytes(),
        }
    sys.stdout.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

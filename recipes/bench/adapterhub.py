"""AdapterHub as a guest of `adapterkit bench mixed` and `adapterkit bench train`.

It needs an environment of its own, because `adapters` requires one fixed release of transformers.
README.md in this folder has the commands.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from adapters.composition import BatchSplit
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModel, AutoTokenizer, DataCollatorWithPadding, TrainingArguments

import adapters
from adapters import AdapterTrainer, AutoAdapterModel, LoRAConfig, PrefixTuningConfig, SeqBnConfig

NAME = f"AdapterHub {adapters.__version__}"


CONFIGS: dict[str, Callable[[int], Any]] = {
    "lora": lambda reduction: LoRAConfig(r=8, alpha=16),
    "prefix": lambda reduction: PrefixTuningConfig(flat=True, prefix_length=20),
    "bottleneck": lambda reduction: SeqBnConfig(reduction_factor=reduction),
}
"""The settings of adapterkit's own benchmarks. The argument is hidden over bottleneck width."""


def mixed_batch(job: dict[str, Any], method: str) -> Callable[[], Any]:
    """A function that computes one padded batch: rows sorted by tenant and split among the
    tenants' adapters."""
    model = AutoModel.from_pretrained(job["model"]).eval()
    adapters.init(model)
    config = CONFIGS[method](model.config.hidden_size // 16)
    for tenant in range(job["tenants"]):
        model.add_adapter(f"t{tenant}", config=config)
    model.to(getattr(torch, job["dtype"])).eval()
    order = sorted(range(len(job["rows"])), key=lambda row: job["owners"][row])
    rows = [job["rows"][row] for row in order]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    present = sorted(set(job["owners"]))
    sizes = [job["owners"].count(tenant) for tenant in present]
    model.active_adapters = BatchSplit(*[f"t{tenant}" for tenant in present], batch_sizes=sizes)
    return lambda: model(input_ids=ids, attention_mask=mask)


def serve(job: dict[str, Any], send: Callable[[Any], None]) -> None:
    """Sends the list of its batches, then computes those that are asked for by index."""
    batches = {"lora q+v": "lora", "prefix 20": "prefix", "bottleneck 16": "bottleneck"}
    runs = [mixed_batch(job, method) for method in batches.values()]
    send([[NAME, batch, job["tenants"]] for batch in batches])
    with torch.inference_mode():
        for line in sys.stdin:
            runs[json.loads(line)]()
            send("done")


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Trains one epoch with AdapterHub's own trainer.

    Returns:
        The seconds of every step after the first, and the peak memory.
    """
    method, names = job["method"]["type"], sorted(set(job["labels"]))
    if method not in CONFIGS:
        return {"lacks": method}
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    rows = [
        {**tokenizer(text), "labels": names.index(label)}
        for text, label in zip(job["texts"], job["labels"], strict=True)
    ]
    model = AutoAdapterModel.from_pretrained(job["model"])
    model.add_adapter("t", config=CONFIGS[method](job["method"].get("reduction_factor")))
    model.add_classification_head("t", num_labels=len(names), layers=1)
    model.train_adapter("t")
    ends: list[float] = []
    register_optimizer_step_post_hook(lambda *_: ends.append(time.perf_counter()))
    settings = TrainingArguments(
        "unused",
        num_train_epochs=1,
        per_device_train_batch_size=job["batch"],
        bf16=job["dtype"] == "bfloat16",
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    collator = DataCollatorWithPadding(tokenizer)
    AdapterTrainer(model, settings, train_dataset=rows, data_collator=collator).train()
    return {
        "system": NAME,
        "step_seconds": [after - before for before, after in pairwise(ends)],
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int:
    """Peak memory of this process (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    """Runs the job that it reads from standard input."""
    answers, sys.stdout = (
        sys.stdout,
        sys.stderr,
    )  # what libraries print must not mix with the answers

    def send(content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    if job["bench"] == "mixed":
        serve(job, send)
    else:
        send(train(job))


if __name__ == "__main__":
    main()

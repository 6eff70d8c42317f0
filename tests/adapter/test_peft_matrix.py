"""Every folder that PEFT can write for an encoder: equal here, or refused in one line."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from adapterkit.adapter.folder import load_adapter
from adapterkit.adapter.foreign_folder import load_foreign_adapter
from adapterkit.adapter.peft_format import BARE
from adapterkit.adapter.store import Store
from adapterkit.backbone.model import Backbone
from adapterkit.errors import AdapterkitError
from adapterkit.text_table import table
from helpers.peft_folders import (
    FAMILIES,
    FURTHER_FAMILIES,
    own_outputs,
    peft_outputs,
    random_checkpoint,
    write_with_peft,
)
from helpers.peft_kinds import ELSEWHERE, LORAS, OTHERS, TASK_TYPES, Config, lora, of_family

LORA, OTHER, TASK, FAMILY = "LoRA on BERT", "other tuners", "task types", "families"
OUTCOMES = ("equal", "refused", "wrong", "crash")


class Case(NamedTuple):
    """A folder that PEFT writes.

    Attributes:
        group: The row of the table that counts it.
        name: What is special about it.
        config: PEFT's configuration.
        task_type: Its task type.
        family: Its base model.
        n_labels: Outputs of its head.
    """

    group: str
    name: str
    config: Config
    task_type: str | None = "SEQ_CLS"
    family: str = "bert"
    n_labels: int = 3


def cases() -> Iterator[Case]:
    for group, kinds in ((LORA, LORAS), (OTHER, OTHERS)):
        for name, config in kinds.items():
            yield Case(group, name, config)
    for n_labels in (1, 2, 7):
        yield Case(LORA, f"{n_labels} labels", lora(), n_labels=n_labels)
    for task_type in TASK_TYPES:
        for name in ("bias", "six sites", "dora", "irregular", "pissa"):
            yield Case(TASK, name, LORAS[name], task_type)
        for name in ("ia3", "ln tuning", "vera", "lokr"):
            yield Case(TASK, name, OTHERS[name], task_type)
        if task_type is not None:  # PEFT has no prefixes without a task type
            yield Case(TASK, "prefix", OTHERS["prefix"], task_type)
        if task_type in BARE:
            yield Case(TASK, "all linear", LORAS["all linear"], task_type)
    for family in FAMILIES:
        for task_type in TASK_TYPES:
            yield Case(TASK, family, of_family(family), task_type, family)
    for family, config in ELSEWHERE:
        if family in FURTHER_FAMILIES:
            yield Case(FAMILY, family, config, None, family)
        else:
            yield Case(FAMILY, family, config, "TOKEN_CLS", family)


def outcome(case: Case, base: Path, backbone: Backbone, folder: Path) -> tuple[str, str]:
    """One of `OUTCOMES`, and what is to be said about it. The folder goes through a store."""
    config = case.config(case.task_type)
    expected = peft_outputs(write_with_peft(base, folder, config, case.n_labels), backbone)
    try:
        adapter = replace(
            load_foreign_adapter(folder, backbone), name="a/b", fingerprint=backbone.fingerprint
        )
        stored = Store(folder.parent / "store").publish(adapter, backbone.geometry)
        found = own_outputs(load_adapter(stored, backbone), backbone)
    except AdapterkitError as error:
        text = str(error).replace(f"{folder}: ", "")
        return ("refused", text) if "\n" not in text else ("crash", text)
    except Exception:
        return "crash", traceback.format_exc()
    if found.shape != expected.shape:
        return "wrong", f"{list(found.shape)}, expected {list(expected.shape)}"
    is_equal = torch.allclose(found, expected, rtol=1e-5, atol=1e-5)
    return "equal" if is_equal else "wrong", f"differs by {(found - expected).abs().max():.2g}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_folder_of_peft_is_answered_wrongly(
    tiny_folder: Path, tmp_path: Path, report: Callable[[str], None]
) -> None:
    families = (*FAMILIES, *FURTHER_FAMILIES)
    bases = {one: random_checkpoint(tiny_folder, one, tmp_path / one) for one in families}
    backbones = {one: Backbone.load(str(base), device="cpu") for one, base in bases.items()}
    counts: dict[str, Counter[str]] = {}
    faults, refusals = [], []
    for number, case in enumerate(cases()):
        folder = tmp_path / f"{number}" / "theirs"
        found, text = outcome(case, bases[case.family], backbones[case.family], folder)
        counts.setdefault(case.group, Counter())[found] += 1
        line = f"{case.group}, {case.name}, {case.task_type}: {text}"
        if found in ("wrong", "crash"):
            faults.append(line)
        elif found == "refused":
            refusals.append(f"{line:.160}")
    rows = [[group, *(str(own[one]) for one in OUTCOMES)] for group, own in counts.items()]
    report("\n".join([table(["folders of PEFT", *OUTCOMES], rows), "refused:", *refusals]))
    assert faults == []
    assert counts[LORA]["equal"] >= 50
    assert counts[OTHER]["equal"] >= 12
    assert counts[TASK].keys() == counts[FAMILY].keys() == {"equal"}

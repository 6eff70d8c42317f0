"""The adapters that runs have trained, with their records and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from accelerate import Accelerator

from ..adapter.adapter import Adapter, MemberWeights
from ..backbone.model import Backbone
from ..tasks.types import Outputs
from .evaluation import count_answers, split_outputs, training_rows, tune_and_score
from .plan import HELD_OUT, Plan
from .run import Run


def evaluated_adapters(
    accelerator: Accelerator,
    backbone: Backbone,
    finished: Sequence[tuple[Plan, Sequence[Run]]],
    n_together: int,
) -> list[Adapter]:
    """The adapters of finished runs. Their records have the scores on every held-out split.

    Args:
        accelerator: Accelerate's.
        backbone: The backbone.
        finished: Plans whose runs have ended without a fault, with the run of each member.
        n_together: Number of plans that were trained together.
    """
    trained = [_as_ensemble(runs) for _, runs in finished]
    outputs: list[dict[str, Outputs]] = [{} for _ in finished]
    for name in HELD_OUT:
        having = [index for index, (plan, _) in enumerate(finished) if name in plan.splits]
        pairs = [(trained[index], finished[index][0].splits[name]) for index in having]
        for index, found in zip(having, split_outputs(accelerator, backbone, pairs), strict=True):
            outputs[index][name] = found
    adapters = []
    for adapter, by_split, (plan, runs) in zip(trained, outputs, finished, strict=True):
        record = {
            **plan.record(),
            "processes": accelerator.num_processes,
            "together": n_together,
            **runs[0].summary(),
            "log": [entry for run in runs for entry in run.log],
        }
        if len(runs) > 1:
            record["members"] = [{"seed": r.settings.seed, **r.summary()} for r in runs[1:]]
        if plan.augmented is not None and plan.augmented.own is not None:
            record["augment"] = plan.augmented.own
        adapters.append(tune_and_score(replace(adapter, training=record), plan.splits, by_split))
    return _with_counted_answers(
        accelerator, backbone, adapters, [plan for plan, _ in finished], outputs
    )


def _with_counted_answers(
    accelerator: Accelerator,
    backbone: Backbone,
    adapters: Sequence[Adapter],
    plans: Sequence[Plan],
    outputs: Sequence[Mapping[str, Outputs]],
) -> list[Adapter]:
    """Adapters with the distribution of their answers: for the validation rows, else for the test
    rows, else for some training rows, whose outputs are computed for it."""
    splits = [
        next(((name, plan.splits[name]) for name in HELD_OUT if name in by_split), None)
        or ("train", training_rows(plan.splits["train"]))
        for plan, by_split in zip(plans, outputs, strict=True)
    ]
    counted = [index for index, one in enumerate(adapters) if one.task.has_decisions]
    missing = [index for index in counted if splits[index][0] == "train"]
    pairs = [(adapters[index], splits[index][1]) for index in missing]
    trained = dict(zip(missing, split_outputs(accelerator, backbone, pairs), strict=True))
    found = list(adapters)
    for index in counted:
        name, split = splits[index]
        own = trained[index] if name == "train" else outputs[index][name]
        found[index] = count_answers(found[index], name, split, own)
    return found


def _as_ensemble(runs: Sequence[Run]) -> Adapter:
    """The adapter of some runs, one for each member, at the epochs that they have kept."""
    finished = []
    for run in runs:
        if run.best is not None:
            run.trainable.restore(run.best.tensors)
        member = run.trainable.detached()
        method, tensors = member.method.finalize(member.tensors)
        finished.append(replace(member, method=method, tensors=tensors))
    first, *others = finished
    return replace(
        first, extra_members=tuple(MemberWeights(other.tensors, other.head) for other in others)
    )

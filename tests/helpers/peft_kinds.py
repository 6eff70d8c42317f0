"""What PEFT can write: settings of its methods, for adapters of small random models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Config = Callable[[str | None], Any]
"""Returns PEFT's configuration for a task type."""

ATTENTION = ["query", "value"]
HIDDEN_LAYERS = {"distilbert": "pre_classifier", "deberta-v2": "pooler"}
"""Hidden layers of heads that PEFT saves only if it is told to."""

TARGETS = {
    "distilbert": ["q_lin", "v_lin"],
    "mpnet": ["attn.q", "attn.v"],
    "deberta-v2": ["query_proj", "value_proj"],
}
"""Query and value, where PEFT has other names for them than `query` and `value`."""

TASK_TYPES = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION", None)


def lora(**settings: Any) -> Config:
    """LoRA, by default of query and value."""

    def config(task_type: str | None) -> Any:
        import peft

        return peft.LoraConfig(**{"task_type": task_type, "target_modules": ATTENTION, **settings})

    return config


def tuner(name: str, **settings: Any) -> Config:
    """Another method, by default of query and value."""

    def config(task_type: str | None) -> Any:
        import peft

        own = {"task_type": task_type, "target_modules": ATTENTION, **settings}
        return getattr(peft, name)(**{key: value for key, value in own.items() if value is not ...})

    return config


def of_family(family: str, **settings: Any) -> Config:
    """LoRA of query and value of a family, with the whole head saved."""

    def config(task_type: str | None) -> Any:
        own: dict[str, Any] = {"r": 4, **settings}
        if family in TARGETS:
            own["target_modules"] = TARGETS[family]
        if family in HIDDEN_LAYERS and task_type == "SEQ_CLS":
            own["modules_to_save"] = [HIDDEN_LAYERS[family], "classifier"]
        return lora(**own)(task_type)

    return config


LORAS: dict[str, Config] = {
    "plain": lora(),
    "rank": lora(r=3, lora_alpha=5),
    "rslora": lora(r=4, use_rslora=True),
    "six sites": lora(
        target_modules=["query", "key", "value", "dense"], exclude_modules=["pooler.dense"]
    ),
    "all linear": lora(target_modules="all-linear"),
    "regex": lora(target_modules=r".*layer\.[02]\.attention\.self\.(query|key)"),
    "irregular": lora(target_modules=r".*(layer\.0\..*query|layer\.1\.output\.dense)"),
    "layers": lora(layers_to_transform=[0, 2]),
    "rank pattern": lora(rank_pattern={"layer.1.attention.self.query": 2, "value": 5}),
    "alpha pattern": lora(alpha_pattern={r"layer\.\d+\.attention\.self\.value": 3}),
    "both patterns": lora(
        rank_pattern={"query": 3}, alpha_pattern={"^bert.*query": 9}, use_rslora=True
    ),
    "dropout": lora(lora_dropout=0.3),
    "gaussian": lora(init_lora_weights="gaussian"),
    "orthogonal": lora(init_lora_weights="orthogonal"),
    "not initialised": lora(init_lora_weights=False),
    "pissa": lora(init_lora_weights="pissa"),
    "olora": lora(init_lora_weights="olora"),
    "dora": lora(use_dora=True),
    "dora on all": lora(
        use_dora=True,
        target_modules=["query", "key", "value", "dense"],
        exclude_modules=["pooler.dense"],
    ),
    "rank one": lora(r=1),
    "rank of the width": lora(r=32),
    "rank beyond the width": lora(r=48),
    "alpha": lora(lora_alpha=1),
    "key alone": lora(target_modules=["key"]),
    "feed-forward": lora(target_modules=["intermediate.dense", "output.dense"]),
    "dense": lora(target_modules=["dense"]),
    "pooler": lora(target_modules=["query", "pooler.dense"]),
    "whole pooler": lora(modules_to_save=["classifier", "pooler"]),
    "named head": lora(modules_to_save=["classifier"]),
    "other names": lora(modules_to_save=["classifier", "score", "unknown"]),
    "all linear, rslora": lora(target_modules="all-linear", use_rslora=True, r=2),
    "all linear but some": lora(target_modules="all-linear", exclude_modules=r".*layer\.1\..*"),
    "one layer": lora(layers_to_transform=1),
    "layers of a list": lora(layers_to_transform=[1, 2], layers_pattern="layer"),
    "groups": lora(target_modules=r"bert\.encoder\.layer\.(0|2)\..*(self\.key|output\.dense)"),
    "rank pattern from the start": lora(rank_pattern={r"^bert.encoder.layer.0.*query": 1}),
    "rank pattern, rslora": lora(rank_pattern={"query": 2}, use_rslora=True),
    "alpha pattern of both": lora(alpha_pattern={"query": 1, "value": 2}),
    "dora, rslora": lora(use_dora=True, use_rslora=True),
    "dora, ranks": lora(use_dora=True, rank_pattern={"value": 3}),
    "dora of layers": lora(use_dora=True, layers_to_transform=[1]),
    "dora of the feed-forward block": lora(use_dora=True, target_modules=["intermediate.dense"]),
    "dora of the pooler": lora(use_dora=True, target_modules=["value", "pooler.dense"]),
    "pissa, rslora": lora(init_lora_weights="pissa", use_rslora=True),
    "pissa of all": lora(init_lora_weights="pissa", target_modules="all-linear"),
    "pissa, ranks": lora(init_lora_weights="pissa", rank_pattern={"query": 4}),
    "olora, rslora": lora(init_lora_weights="olora", use_rslora=True),
    "olora of the feed-forward block": lora(
        init_lora_weights="olora", target_modules=["intermediate.dense", "output.dense"]
    ),
    "eva": lora(init_lora_weights="eva"),
    "mica": lora(init_lora_weights="mica"),
    "fan in, fan out": lora(fan_in_fan_out=True),
    "bias": lora(bias="all"),
    "bias of all linears": lora(bias="all", target_modules="all-linear"),
    "bias of its linears": lora(bias="lora_only"),
    "bias of the product": lora(lora_bias=True),
    "bias, dora": lora(bias="lora_only", use_dora=True),
    "pissa by random numbers": lora(init_lora_weights="pissa_niter_4"),
    "tokens": lora(trainable_token_indices=[3, 7]),
    "word embeddings": lora(target_modules=["query", "word_embeddings"]),
    "blocks": lora(
        use_bdlora={
            "target_modules_bd_a": ["query"],
            "target_modules_bd_b": ["value"],
            "nblocks": 2,
        }
    ),
}
"""LoRA with everything that PEFT lets one set."""

OTHERS: dict[str, Config] = {
    "adalora": tuner("AdaLoraConfig", init_r=4, target_r=2, total_step=10),
    "vera": tuner("VeraConfig", r=6),
    "vera without matrices": tuner("VeraConfig", r=6, save_projection=False),
    "vera of some layers": tuner("VeraConfig", r=6, target_modules=r".*[02].*(query|output.dense)"),
    "loha": tuner("LoHaConfig", r=2, alpha=3),
    "loha of high rank": tuner("LoHaConfig", r=8, alpha=3),
    "loha pattern": tuner("LoHaConfig", r=2, rank_pattern={"query": 3}, alpha_pattern={"value": 2}),
    "lokr": tuner("LoKrConfig", r=2, alpha=3),
    "lokr of products": tuner("LoKrConfig", r=1, decompose_both=True, decompose_factor=4),
    "c3a": tuner("C3AConfig", block_size=8),
    "delora": tuner("DeloraConfig", r=3),
    "vblora": tuner("VBLoRAConfig", r=2, vector_length=8, num_vectors=10, topk=2),
    "vblora of the best": tuner(
        "VBLoRAConfig", r=2, vector_length=8, num_vectors=10, topk=2, save_only_topk_weights=True
    ),
    "fourierft": tuner("FourierFTConfig", n_frequency=20),
    "hra": tuner("HRAConfig", r=3),
    "shira": tuner("ShiraConfig", r=2),
    "ia3": tuner("IA3Config", target_modules=None, feedforward_modules=None),
    "ia3 of outputs": tuner("IA3Config", feedforward_modules=[]),
    "ia3 of some layers": tuner(
        "IA3Config", target_modules=r".*\.[02]\.output\.dense", feedforward_modules=["output.dense"]
    ),
    "ln tuning": tuner("LNTuningConfig", target_modules=["LayerNorm"]),
    "ln tuning of some": tuner("LNTuningConfig", target_modules=r".*\.[02]\.output\.LayerNorm"),
    "prefix": tuner("PrefixTuningConfig", num_virtual_tokens=4, target_modules=...),
    "prefix of a network": tuner(
        "PrefixTuningConfig",
        num_virtual_tokens=4,
        prefix_projection=True,
        encoder_hidden_size=8,
        target_modules=...,
    ),
    "tokens": tuner("TrainableTokensConfig", target_modules=..., token_indices=[3, 7]),
    "oft": tuner("OFTConfig", oft_block_size=4),
    "boft": tuner("BOFTConfig", boft_block_size=4),
    "miss": tuner("MissConfig", r=4),
    "randlora": tuner("RandLoraConfig", r=4),
    "road": tuner("RoadConfig", group_size=8),
    "gralora": tuner("GraloraConfig", r=4),
    "hira": tuner("HiraConfig", r=4),
    "waveft": tuner("WaveFTConfig", n_frequency=20),
    "psoft": tuner("PsoftConfig", r=4),
    "deft": tuner("DeftConfig", r=4),
    "glora": tuner("GloraConfig"),
    "peanut": tuner("PeanutConfig", r=4),
    "lily": tuner("LilyConfig", r=4),
    "tinylora": tuner("TinyLoraConfig"),
    "unilora": tuner("UniLoraConfig"),
    "pvera": tuner("PveraConfig", r=6),
    "adamss": tuner("AdamssConfig"),
    "osf": tuner("OSFConfig"),
    "frod": tuner("FrodConfig"),
    "beft": tuner("BeftConfig"),
    "supertuning": tuner("SupertuningConfig"),
    "prompt tuning": tuner("PromptTuningConfig", num_virtual_tokens=4, target_modules=...),
    "p-tuning": tuner(
        "PromptEncoderConfig", num_virtual_tokens=4, encoder_hidden_size=8, target_modules=...
    ),
}
"""Every other method of PEFT."""

MODERN_NORMS = r".*(layers\.[12]\.attn_norm|mlp_norm|embeddings\.norm)"
WQKV = ["Wqkv", "mlp.Wo"]
ELSEWHERE: list[tuple[str, Config]] = [
    ("roberta", OTHERS["ia3"]),
    ("deberta-v2", OTHERS["ia3"]),
    ("roberta", OTHERS["ln tuning"]),
    ("mpnet", OTHERS["ln tuning"]),
    ("roberta", tuner("VeraConfig", r=6, target_modules=["query", "intermediate.dense"])),
    ("modernbert", tuner("VeraConfig", r=6, target_modules=["Wqkv", "mlp.Wo"])),
    ("deberta-v2", OTHERS["ln tuning"]),
    ("distilbert", tuner("LNTuningConfig", target_modules=["layer_norm", "LayerNorm"])),
    ("modernbert", tuner("LNTuningConfig", target_modules=MODERN_NORMS)),
    ("modernbert", tuner("IA3Config", target_modules=WQKV, feedforward_modules=["mlp.Wo"])),
    *((family, of_family(family, bias="all")) for family in ("roberta", "distilbert")),
    *((family, of_family(family, bias="lora_only")) for family in ("albert", "deberta-v2")),
]
"""Families, and methods whose places have other names in them."""

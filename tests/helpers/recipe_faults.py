"""Recipes with one error each, and the message that names it."""

from __future__ import annotations

GOOD_RECIPE = """\
name: acme/intent
data: {path: rows.csv}
task: {type: classification}
method: {type: lora, r: 2}
backbone: {model: minilm}
training: {epochs: 3}
"""
BAD_NAMES = {
    "name with dots": "acme/../other",
    "name up": "../intent",
    "name hidden": ".intent",
    "name absolute": "/tmp/intent",
    "name of three parts": "acme/team/intent",
    "name with a space": "acme/my intent",
    "name with a backslash": "acme\\intent",
    "name with an accent": "ácme",
    "name in Chinese": "银行/意图",
    "name with a version": "acme/intent@2",
    "name without end": "acme/",
    "name too long": "a" * 65,
}
"""Invalid adapter names."""
RECIPE_FAULTS = {
    **{
        label: (
            GOOD_RECIPE.replace("acme/intent", name),
            f"r.yaml: '{name}' is not an adapter name",
        )
        for label, name in BAD_NAMES.items()
    },
    # The file.
    "empty file": ("", "r.yaml: expected keys and values (name, data, task, method, ...)"),
    "list": ("- name\n- data\n", "r.yaml: expected keys and values (name, data"),
    "number": ("5", "r.yaml: expected keys and values (name, data"),
    "broken YAML": (GOOD_RECIPE.replace("r: 2}", "r: 2"), "r.yaml: line 5, column 9: not YAML"),
    "tab": ("\t" + GOOD_RECIPE, "r.yaml: line 1, column 1: not YAML, found character '\\t'"),
    "NUL": (GOOD_RECIPE.replace("acme", "ac\0me"), "r.yaml: unacceptable character #x0000"),
    "tag": (
        GOOD_RECIPE.replace("r: 2", "r: !!python/name:os.system ''"),
        "line 4, column 25: not Y",
    ),
    "nothing but depth": (
        GOOD_RECIPE.replace("r: 2", f"r: {'[' * 500}"),
        "r.yaml: the YAML is nested",
    ),
    "endless": (
        GOOD_RECIPE.replace("r: 2", "r: &a [*a]"),
        "r.yaml: line 4: a value contains itself",
    ),
    "number of 5000 digits": (
        GOOD_RECIPE.replace("r: 2", f"r: {'1' * 5000}"),
        "r.yaml: Exceeds the lim",
    ),
    # Two values that the core schema of YAML 1.2 reads otherwise than YAML 1.1.
    "time of day": (
        GOOD_RECIPE.replace("r: 2", "r: 1:30"),
        "method.r: expected a whole number, got '1:3",
    ),
    "date": (
        GOOD_RECIPE.replace("r: 2", "r: 2026-01-02"),
        "method.r: expected a whole number, got '2026",
    ),
    "merged key twice": (
        "x: &x {r: 1}\n" + GOOD_RECIPE.replace("r: 2", "<<: *x, r: 2, r: 3"),
        "r.yaml: line 5: the key 'r' is given twice",
    ),
    # Keys.
    "key twice": (GOOD_RECIPE + "name: other\n", "r.yaml: line 7: the key 'name' is given twice"),
    "key twice inside": (
        GOOD_RECIPE.replace("r: 2", "r: 2, r: 4"),
        "line 4: the key 'r' is given twice",
    ),
    "list as a key": ("? [a, b]\n: c\n" + GOOD_RECIPE, "r.yaml: line 1: a key must be a text"),
    "unknown key": (
        "nmae: x\n" + GOOD_RECIPE,
        "r.yaml: nmae: there is no such key; did you mean 'name'?",
    ),
    "number as a key": (
        "5: x\n" + GOOD_RECIPE,
        "r.yaml: 5: there is no such key; valid are: augmentat",
    ),
    "unknown method key": (
        GOOD_RECIPE.replace("r: 2", "drop: 0.1"),
        "r.yaml: method.drop: there is no such key; did you mean 'dropout'?",
    ),
    "unknown training key": (
        GOOD_RECIPE.replace("epochs", "epoch"),
        "r.yaml: training.epoch: there is no such key; did you mean 'epochs'?",
    ),
    "unknown role": (
        GOOD_RECIPE.replace("rows.csv", "rows.csv, columns: {lable: x}"),
        "r.yaml: data.columns.lable: there is no such role; did you mean 'label'?",
    ),
    "column twice": (
        GOOD_RECIPE.replace("rows.csv", "rows.csv, text: a, columns: {text: b}"),
        "r.yaml: data.columns.text: data.text names this column too",
    ),
    "column a number": (
        GOOD_RECIPE.replace("rows.csv", "rows.csv, text: 3"),
        "r.yaml: data.text: expected a text, got 3; put it in quotes",
    ),
    "columns a list": (
        GOOD_RECIPE.replace("rows.csv", "rows.csv, columns: [text]"),
        "r.yaml: data.columns: expected roles and columns, got ['text']",
    ),
    "unknown data key": (
        GOOD_RECIPE.replace("path", "file"),
        "r.yaml: data.file: there is no such key; valid are: answers, choices, columns",
    ),
    "unknown task key": (
        GOOD_RECIPE.replace("classification", "classification, lables: [a, b]"),
        "r.yaml: task.lables: there is no such key; did you mean 'labels'?",
    ),
    "key of another method": (
        GOOD_RECIPE.replace("r: 2", "num_virtual_tokens: 4"),
        "r.yaml: method.num_virtual_tokens: there is no such key; valid are: alpha",
    ),
    "no name": (GOOD_RECIPE.replace("name: acme/intent", ""), "r.yaml: name: this key is required"),
    "no data": (
        GOOD_RECIPE.replace("data: {path: rows.csv}", ""),
        "r.yaml: data: this key is required",
    ),
    # Sections.
    "data a text": (
        GOOD_RECIPE.replace("{path: rows.csv}", "rows.csv"),
        "data: expected keys and values",
    ),
    "training empty": (
        GOOD_RECIPE.replace("{epochs: 3}", ""),
        "training: expected keys and values, got N",
    ),
    "backbone a text": (
        GOOD_RECIPE.replace("{model: minilm}", "minilm"),
        "backbone: expected keys and",
    ),
    "method a text": (
        GOOD_RECIPE.replace("{type: lora, r: 2}", "lora"),
        "r.yaml: method: expected keys and values, got 'lora'",
    ),
    "key of a section": (
        GOOD_RECIPE + "epochs: 5\n",
        "r.yaml: epochs: there is no such key; did you mean 'training.epochs'?",
    ),
    "key of two sections": (
        GOOD_RECIPE + "dropout: 0.2\n",
        "there is no such key; did you mean 'task.dropout' or 'method.dropout'?",
    ),
    "method unknown": (
        GOOD_RECIPE.replace("lora", "lorra"),
        "r.yaml: method.type: 'lorra' is not known; did you mean 'lora'?",
    ),
    "method a list": (
        GOOD_RECIPE.replace("lora", "[lora]"),
        "method.type: '['lora']' is not known",
    ),
    "task unknown": (
        GOOD_RECIPE.replace("classification", "clasification"),
        "r.yaml: task.type: 'clasification' is not known; did you mean 'classification'?",
    ),
    # Values of another type.
    "name a number": (
        GOOD_RECIPE.replace("acme/intent", "5"),
        "name: expected a text, got 5; put it in q",
    ),
    "name a list": (GOOD_RECIPE.replace("acme/intent", "[a]"), "name: expected a text, got ['a']"),
    "name empty": (GOOD_RECIPE.replace("acme/intent", "''"), "r.yaml: '' is not an adapter name"),
    "name of the backbone": (
        GOOD_RECIPE.replace("acme/intent", "base"),
        "r.yaml: an adapter cannot be called 'base', the plain backbone's name",
    ),
    "rank a text": (
        GOOD_RECIPE.replace("r: 2", "r: two"),
        "method.r: expected a whole number, got 'two'",
    ),
    "rank a fraction": (
        GOOD_RECIPE.replace("r: 2", "r: 2.5"),
        "method.r: expected a whole number, got 2.",
    ),
    "rank true": (
        GOOD_RECIPE.replace("r: 2", "r: true"),
        "method.r: expected a whole number, got True",
    ),
    "alpha a list": (
        GOOD_RECIPE.replace("r: 2", "alpha: [1]"),
        "method.alpha: expected a number, got [1]",
    ),
    "alpha no number": (
        GOOD_RECIPE.replace("r: 2", "alpha: .nan"),
        "method.alpha: expected a number, got",
    ),
    "alpha endless": (
        GOOD_RECIPE.replace("r: 2", "alpha: .inf"),
        "method.alpha: expected a number, got i",
    ),
    "alpha too large": (
        GOOD_RECIPE.replace("r: 2", f"alpha: 1{'0' * 400}"),
        "method.alpha: expected a nu",
    ),
    "targets a text": (
        GOOD_RECIPE.replace("r: 2", "targets: query"),
        "method.targets: expected a list",
    ),
    "layers of texts": (
        GOOD_RECIPE.replace("r: 2", "layers: [a]"),
        "method.layers[0]: expected a whole n",
    ),
    "labels of numbers": (
        GOOD_RECIPE.replace("classification", "classification, labels: [0, 1]"),
        "task.labels[0]: expected a text, got 0; put it in quotes",
    ),
    "model a number": (
        GOOD_RECIPE.replace("minilm", "5"),
        "backbone.model: expected a text, got 5; put",
    ),
    "keep_best a word": (
        GOOD_RECIPE.replace("epochs: 3", "keep_best: maybe"),
        "training.keep_best: expected true or false, got 'maybe'",
    ),
    "validation true": (
        GOOD_RECIPE.replace("rows.csv", "rows.csv, validation: true"),
        "data.validation: expected a text or a number, got True",
    ),
    # Values out of range.
    "rank 0": (GOOD_RECIPE.replace("r: 2", "r: 0"), "method.r: expected 1 or more, got 0"),
    "dropout 1": (
        GOOD_RECIPE.replace("r: 2", "dropout: 1"),
        "method.dropout: expected 0 or more and less",
    ),
    "targets unknown": (
        GOOD_RECIPE.replace("r: 2", "targets: [quer]"),
        "method.targets: expected distinct of query, key, value",
    ),
    "targets twice": (
        GOOD_RECIPE.replace("r: 2", "targets: [key, key]"),
        "targets: expected distinct of",
    ),
    "targets none": (
        GOOD_RECIPE.replace("r: 2", "targets: []"),
        "method.targets: expected distinct of",
    ),
    "layers backwards": (
        GOOD_RECIPE.replace("r: 2", "layers: [1, 0]"),
        "layers: expected ascending layer",
    ),
    "prefix of nothing": (
        GOOD_RECIPE.replace("lora, r: 2", "prefix, num_virtual_tokens: 0"),
        "method.num_virtual_tokens: expected 1 or more, got 0",
    ),
    "bottleneck nowhere": (
        GOOD_RECIPE.replace("lora, r: 2", "bottleneck, placement: anywhere"),
        "method.placement: expected one of pfeiffer, houlsby, parallel, got 'anywhere'",
    ),
    "bottleneck of nothing": (
        GOOD_RECIPE.replace("lora, r: 2", "bottleneck, size: 0"),
        "method.size: expected 1 or more, got 0",
    ),
    "activation unknown": (
        GOOD_RECIPE.replace("lora, r: 2", "bottleneck, activation: step"),
        "method.activation: expected one of relu, gelu",
    ),
    "pooling unknown": (
        GOOD_RECIPE.replace("classification", "classification, pooling: max"),
        "task.pooling: expected one of cls, pooler, mean, got 'max'",
    ),
    "one label": (
        GOOD_RECIPE.replace("classification", "classification, labels: [a]"),
        "task.labels: expected at least two distinct names, got ['a']",
    ),
    "label twice": (
        GOOD_RECIPE.replace("classification", "classification, labels: [a, b, a]"),
        "task.labels: expected at least two distinct names, got ['a', 'b', 'a']",
    ),
    "dtype unknown": (
        GOOD_RECIPE.replace("minilm", "minilm, dtype: float64"),
        "backbone.dtype: expected one of float32, bfloat16, float16, got 'float64'",
    ),
    "device unknown": (
        GOOD_RECIPE.replace("minilm", "minilm, device: gpu"),
        "backbone.device: expected one of auto, cpu, cuda, got 'gpu'",
    ),
    "quantization unknown": (
        GOOD_RECIPE.replace("minilm", "minilm, quantization: 8"),
        "backbone.quantization: expected one of none, int8, 8bit, 4bit, got 8",
    ),
    "rows named twice": (
        GOOD_RECIPE.replace("rows.csv", "rows.csv, train: rows.csv"),
        "data.path: give either path (one file), train (a file",
    ),
    **{
        f"data {label}": (
            GOOD_RECIPE.replace("rows.csv", f"rows.csv, {keys}"),
            f"r.yaml: data.{words}",
        )
        for label, keys, words in (
            ("named twice", "dataset: glue", "path: give either path (one file), train (a file"),
            ("subset of a file", "subset: mrpc", "subset: goes with dataset, and there is none"),
            ("revision of a file", "revision: v2", "revision: goes with dataset, and there is"),
            ("stream without end", "streaming: true", "limit: goes with streaming: true; give"),
            ("limit of no stream", "limit: 5", "limit: goes with streaming: true; give both or"),
            ("limit 0", "streaming: true, limit: 0", "limit: expected 1 or more, got 0"),
            ("one fold", "folds: 1", "folds: expected 2 or more, got 1"),
            ("fold too high", "folds: 5, fold: 5", "fold: expected one of 5 folds from 0, got 5"),
            ("fold of none", "fold: 2", "fold: expected one of no folds from 0, got 2"),
            ("folds and a share", "folds: 5, validation: 0.2", "validation: a fold is the valid"),
        )
    },
    "validation of all": (
        GOOD_RECIPE.replace("rows.csv", "rows.csv, validation: 1"),
        "data.validation: expected a share from 0 to below 1, got 1.0",
    ),
    "test below 0": (
        GOOD_RECIPE.replace("rows.csv", "rows.csv, test: -0.1"),
        "data.test: expected a share from 0 to below 1, got -0.1",
    ),
    "schedule unknown": (
        GOOD_RECIPE.replace("epochs: 3", "schedule: lin"),
        "training.schedule: expected one of linear, cosine, constant, got 'lin'",
    ),
    "precision unknown": (
        GOOD_RECIPE.replace("epochs: 3", "mixed_precision: fp8"),
        "training.mixed_precision: expected one of no, bf16, fp16, got 'fp8'",
    ),
    "more pieces than rows in a batch": (
        GOOD_RECIPE.replace("epochs: 3", "batch_size: 4, accumulation: 5"),
        "training.accumulation: a batch of 4 rows cannot be computed in 5 pieces; give at most",
    ),
    **{
        f"{key} {value}": (
            GOOD_RECIPE.replace("epochs: 3", f"{key}: {value}"),
            f"r.yaml: training.{key}: expected {words}, got {value}",
        )
        for key, value, words in (
            ("epochs", "0", "1 or more"),
            ("batch_size", "0", "1 or more"),
            ("accumulation", "-1", "1 or more"),
            ("patience", "0", "1 or more"),
            ("timeout", "0", "1 or more"),
            ("learning_rate", "0.0", "more than 0 and less than 10"),
            ("head_learning_rate", "10.0", "more than 0 and less than 10"),
            ("weight_decay", "-0.1", "0 or more"),
            ("clip", "-1.0", "0 or more"),
            ("warmup", "1.5", "a share from 0 to 1"),
            ("seed", "-1", "a number from 0 to 2**32 - 1"),
            ("seed", "4294967296", "a number from 0 to 2**32 - 1"),
        )
    },
}
"""Each error to the recipe and part of its message."""
RECIPE_CHANGES = {
    "epochs": "--set epochs: expected key=value or section.key=value",
    "=3": "--set =3: expected key=value or section.key=value",
    ".epochs=3": "--set .epochs=3: expected key=value or section.key=value",
    "training.epochs.x=3": "--set training.epochs.x=3: training.epochs is 3, not keys and values",
    "training.checkpoint.step=3": "training.checkpoint.step: there is no such key; did you mean",
    "trainin.epochs=3": "trainin: there is no such key; did you mean 'training'?",
    "training.epoch=3": "training.epoch: there is no such key; did you mean 'epochs'?",
    "training.batch_size=": "training.batch_size: expected a whole number, got None",
    "training.epochs=many": "training.epochs: expected a whole number, got 'many'",
    "training.epochs=[3": "--set training.epochs=[3: line 1, column 3: not YAML",
    "training.epochs={a: 1, a: 2}": "the key 'a' is given twice",
    "training=3": "training: expected keys and values, got 3",
    "name.x=3": "--set name.x=3: name is 'acme/intent', not keys and values",
    "name=../x": "'../x' is not an adapter name",
    "method.type=prefix": "method.r: there is no such key",
}
"""Each invalid change to part of its message."""

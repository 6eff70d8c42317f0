"""What `adapterkit` exports, and that scripts need nothing else of the package."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import adapterkit
from adapterkit import AdapterkitError, Backbone, Predictor, Store
from helpers.adapters import MakeAdapter
from helpers.paths import ROOT

SCRIPTS = sorted((ROOT / "recipes" / "scripts").glob("*.py"))


def names_for_type_checkers() -> dict[str, str]:
    """Public name to module, as the block under TYPE_CHECKING imports them."""
    tree = ast.parse(Path(adapterkit.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    return {
        alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_and_python_see_the_same_names() -> None:
    assert names_for_type_checkers() == adapterkit._MODULES
    assert adapterkit.__all__ == ["__version__", *sorted(adapterkit._MODULES)]


def test_every_public_name_exists_and_has_a_docstring() -> None:
    for name in adapterkit.__all__:
        assert getattr(adapterkit, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'Adaptor'"):
        _ = adapterkit.Adaptor


def test_the_api_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: adapterkit\.(\w+)$", page, re.MULTILINE)) == sorted(
        set(adapterkit.__all__) - {"__version__"}
    )


def test_importing_adapterkit_imports_no_torch() -> None:
    code = "import sys, adapterkit; adapterkit.Client; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


WITHOUT_EXTRAS = """
import re, sys, tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

def named(lines):
    return {re.match(r"[\\w-]+", line)[0].lower() for line in lines}

project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
extras = project["optional-dependencies"]
# transformers knows TensorBoard by its metadata, and then imports it.
groups = [lines for name, lines in extras.items() if name not in ("docs", "test", "trackers")]
absent = {"triton"}.union(*map(named, groups)) - named(project["dependencies"])

class Absent:
    def find_spec(self, name, path=None, target=None):
        owners = MODULES.get(name, ()) if "." not in name else ()
        if owners and all(owner.lower() in absent for owner in owners):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

MODULES = packages_distributions()
sys.meta_path.insert(0, Absent())
from adapterkit import Adapter, Backbone

backbone = Backbone.load(sys.argv[2])
adapter = Adapter.load(sys.argv[3], backbone)  # by this class alone

from adapterkit import Predictor, Store

(answer,) = Predictor(backbone, [adapter])([(adapter.name, "my card")])
assert answer["adapter"] == adapter.name
assert not {"evaluate", "matplotlib", "seqeval"} & sys.modules.keys()  # they score and draw

from adapterkit.serving.server import Settings, make_service, uvicorn_config
from adapterkit.serving.http.connections import ConnectionLimits

service = make_service(Settings("store", backbones=(sys.argv[2],)), None)
uvicorn_config(service, ConnectionLimits.of_process(None, None))
assert len(absent) > 8 and "triton" not in sys.modules
"""
"""Predicts and starts a server where the packages of all extras, and Triton, cannot be imported."""


def test_a_process_predicts_and_serves_without_the_packages_of_extras(
    tiny: Backbone, tiny_folder: Path, make_adapter: MakeAdapter
) -> None:
    Path("store").mkdir()
    adapter = make_adapter(tiny).save("adapter", tiny)
    arguments = [ROOT / "pyproject.toml", tiny_folder, adapter]
    subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS, *arguments], check=True)


def imports_from_inside(code: str) -> list[str]:
    """Modules of the package that some code imports, apart from `adapterkit` itself."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(str(node.module))
    return [name for name in found if name.startswith("adapterkit.")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_scripts_import_from_adapterkit_alone(script: Path) -> None:
    code = script.read_text(encoding="utf-8")
    assert "from adapterkit import" in code
    assert imports_from_inside(code) == []


@pytest.mark.parametrize("kind", ["callback", "family", "method", "metric", "task"])
def test_a_plug_in_imports_from_adapterkit_alone(kind: str) -> None:
    file = ROOT / "tests" / "plugins" / "adapterkit_example" / f"{kind}.py"
    code = file.read_text(encoding="utf-8")
    assert "from adapterkit import" in code
    assert imports_from_inside(code) == []


def test_a_predictor_opens_adapters_of_a_store(
    tiny: Backbone, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    for name in ("acme/intent", "globex"):
        store.publish(make_adapter(tiny, name=name), tiny.geometry)
    predictor = Predictor.open(["acme/intent@1", "globex", "base"], store)
    assert predictor.names == ["acme/intent", "globex"]
    assert predictor.backbone.name == tiny.name, "the first adapter's card names the backbone"
    shared = Predictor.open(["globex"], store.root, backbone=tiny)
    requests = [("globex", "my card")]
    assert shared(requests) == predictor(requests)
    with pytest.raises(AdapterkitError, match="'globex' is given twice"):
        Predictor.open(["globex", "globex"], store, backbone=tiny)
    with pytest.raises(AdapterkitError, match="there is no adapter 'globx'"):
        Predictor.open(["globx"], store, backbone=tiny)


def test_the_public_names_are_listed_and_objects_print_one_line(
    tiny: Backbone, make_adapter: MakeAdapter
) -> None:
    assert {"Adapter", "train", "load_adapter"} <= set(dir(adapterkit))
    assert "import_module" not in dir(adapterkit)
    assert repr(tiny) == f"Backbone({tiny.name!r}, 3 layers of 32, float32 on cpu)"
    adapter = make_adapter(tiny)
    same = adapter
    assert same == adapter
    assert adapter != make_adapter(tiny)

"""The layers of the house, read off the imports of every file (also those inside functions)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*ROOT.glob("components/**/*.py"), *ROOT.glob("flows/**/*.py")])
RAY = {
    "components/cluster.py",
    "components/train/trainer.py",
    "components/train/worker.py",
    "components/train/fit.py",
    "components/serving/app.py",
    "components/serving/shortcut.py",  # knows how Ray Serve counts
    "components/serving/bulk.py",  # jobs are Ray Data's, and outlive the replica that takes them
}
MLFLOW = {"components/tracking.py", "components/promotion/registry.py", "components/promotion/mirror.py"}
C2PA = {"components/labels/credentials.py"}
FAMILY_IMPORTS = {"torch", "components.families"}
MODALITY_IMPORTS = FAMILY_IMPORTS | {
    "components.modalities",
    "components.errors",
    "components.files",
    "pyarrow",
    "pydantic",
    "numpy",
    "PIL",
    "tokenizers",
    "jinja2",
    "soundfile",
    "mido",
    "scipy",
    "rdkit",
}


def imports(path: Path) -> set[str]:
    """The full names of all modules that a file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {module} | {f"{module}.{name.name}" for name in node.names}
    return found


def within(module: str, allowed: set[str]) -> bool:
    top = module.partition(".")[0]
    known = top in sys.stdlib_module_names or module in {"components"}
    return known or any(module == name or module.startswith(f"{name}.") for name in allowed)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_each_file_imports_only_what_its_layer_may(path: Path) -> None:
    name, modules = relative(path), imports(path)
    tops = {module.partition(".")[0] for module in modules}
    if name.startswith("components/families/"):
        assert not [module for module in modules if not within(module, FAMILY_IMPORTS)]
    if name.startswith("components/modalities/"):
        assert not [module for module in modules if not within(module, MODALITY_IMPORTS)]
    if name == "components/files.py":  # everything may write files
        assert not [module for module in modules if not within(module, set())]
    if not name.startswith("components/tuning/"):
        assert "ray" not in tops or name in RAY
    assert "mlflow" not in tops or name in MLFLOW
    assert "c2pa" not in tops or name in C2PA
    if name.startswith("components/"):
        assert not tops & {"prefect", "flows", "typer", "rich"}
    if name.startswith("flows/"):
        assert "torch" not in tops


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_layers_do_not_fold_back(path: Path) -> None:
    """A layer's pieces never import what owns them."""
    if relative(path).startswith("components/families/layers/"):
        assert "components.families.family.Family" not in imports(path)


def test_nothing_acts_at_import(tmp_path: Path) -> None:
    """Importing every module makes no folder, no file, and starts neither Ray nor a logger of ours."""
    modules = [relative(path)[:-3].replace("/", ".").removesuffix(".__init__") for path in FILES]
    code = (
        "import importlib, logging, os, sys\n"
        "before = dict(os.environ)\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "import ray\n"
        "assert not ray.is_initialized()\n"
        "changed = {k for k in set(before) | set(os.environ) if before.get(k) != os.environ.get(k)}\n"
        "assert not {k for k in changed if k.startswith(('GENLOOM', 'PREFECT', 'MLFLOW_T'))}, changed\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_the_help_of_the_command_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from flows.commands.main import run\n"
        "run(['--help'])\n"
        "heavy = {'torch', 'ray', 'mlflow', 'prefect', 'pyarrow', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

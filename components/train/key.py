"""The key of a training: what decides its weights, hashed, so that nothing is trained twice."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
from pathlib import Path

import torch

from components.project import OPERATIONAL, RunRow

ROOT = Path(__file__).resolve().parent.parent
DECIDING = (
    "train/step.py",
    "train/adapters.py",
    "train/schedule.py",
    "train/averages.py",
    "train/distribute.py",
    "train/loop.py",
    "train/checkpoint.py",
    "data/dataset.py",
    "artifact.py",
    "families/layers/product.py",
    "families/layers/onednn.py",
)
"""Sources outside families and modalities that decide the weights of a training."""

BESIDE = {
    "image": ("conditions", "corruption", "views"),
    "audio": ("waveform",),
    "music": ("text", "notation", "score"),
    "series": ("binning",),
    "molecule": ("text",),
}
"""The modules beside a modality's own that decide what its rows become."""


def training_key(revision: str, row: RunRow, modality: str, task: str, start: str = "") -> str:
    """The sha256 over dataset revision, run, deciding sources and torch's version; `start` is init's digest."""
    content = row.model_dump(mode="json")
    content["train"] = {name: value for name, value in content["train"].items() if name not in OPERATIONAL}
    facts = {
        "revision": revision,
        "run": content,
        "task": task,
        "start": start,
        "sources": sources_hash(row.family, modality),
        "torch": torch.__version__.partition("+")[0],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def sources_hash(family: str, modality: str) -> str:
    """One hash over the files that decide weights: the family's and all it imports from families, and ours."""
    paths = {ROOT / name for name in DECIDING}
    paths |= _imported(ROOT / "families" / f"{family}.py")
    paths |= {ROOT / "modalities" / f"{name}.py" for name in (modality, *BESIDE.get(modality, ()))}
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _imported(path: Path) -> set[Path]:
    """`path` and every file of `components.families` that it imports, directly or not."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        for node in ast.walk(ast.parse(current.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("components.families"):
                waiting += _files(str(node.module), [name.name for name in node.names])
    return found


def _files(module: str, names: list[str]) -> list[Path]:
    base = ROOT.joinpath(*module.split(".")[1:])
    candidates = [base.with_suffix(".py"), *(base / f"{name}.py" for name in names)]
    return [path for path in candidates if path.is_file()]


def commit_of(root: Path) -> tuple[str, bool]:
    """The commit that is checked out at `root` and whether files differ from it; ("", False) without git."""
    head = _git(root, "rev-parse", "HEAD")
    return head, bool(head and _git(root, "status", "--porcelain", "--untracked-files=no"))


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

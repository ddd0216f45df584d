"""From a dataset row to prepared Parquet: splits by content hash, a manifest, a report, a preview."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from components.data.dataset import SPLITS, Dataset, file_hash, open_dataset
from components.errors import UserError
from components.modalities.image import grid, schema
from components.project import Project, open_project


def prepare(project: Project, name: str, target: Path) -> Dataset:
    """Prepare the dataset `name` into the folder `target`, replaced whole."""
    from sklearn.datasets import load_digits

    row = project.dataset(name)
    found = load_digits()
    pictures = np.round(found.images * (255 / 16)).astype(np.uint8)[:, None]
    classes = [str(digit) for digit in range(10)]
    rows = {}
    for picture, label in zip(pictures, found.target.tolist(), strict=True):
        key = hashlib.sha256(str(picture.shape).encode() + picture.tobytes()).hexdigest()
        rows[key] = (picture, label)
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    files = {}
    for split in SPLITS:
        keys = sorted(key for key in rows if _split(key) == split)
        path = draft / split / "00000.parquet"
        path.parent.mkdir(parents=True)
        stack = np.stack([rows[key][0] for key in keys])
        about = {"name": name, "licence": row.licence, "source": row.source}
        columns = [
            pa.array(keys),
            pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(stack[0].size), len(stack), [None, pa.py_buffer(stack)]
            ),
            pa.array([rows[key][1] for key in keys], pa.int32()),
        ]
        table = pa.Table.from_arrays(columns, schema=schema(stack.shape[1:], classes, about))
        pq.write_table(table, path, compression="zstd")
        files[f"{split}/00000.parquet"] = {"rows": len(keys), "sha256": file_hash(path)}
        if split == "train":
            (draft / "preview.png").write_bytes(grid(torch.from_numpy(stack[:64]).float() / 127.5 - 1))
    manifest = {
        "name": name,
        "modality": row.modality,
        "revision": hashlib.sha256(repr(sorted(rows)).encode()).hexdigest(),
        "shape": [1, 8, 8],
        "classes": classes,
        "licence": row.licence,
        "source": row.source,
        "files": files,
    }
    (draft / "dataset.json").write_text(json.dumps(manifest, indent=2))
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    return open_dataset(target)


def _split(key: str) -> str:
    share = int(key[:16], 16) / 2**64
    return "val" if share < 0.1 else "test" if share < 0.2 else "train"


def main(arguments: list[str]) -> int:
    """The command of the DVC stage: `python -m components.data.prepare NAME`."""
    try:
        project = open_project()
        prepare(project, arguments[0], project.prepared / arguments[0])
    except UserError as error:
        print(f"genloom: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

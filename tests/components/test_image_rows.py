"""What a row of pictures may not say, and the one sentence that says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.errors import UserError
from components.project import open_project, read_tables
from components.train.plan import check_product

FILES = "files: {all: {url: mirror:a/b, sha256: " + "a" * 64 + "}}"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            "source: stdlib, corrupt: {noise: 25}",
            "“corrupt” is for pictures and this dataset holds text; leave it out.",
        ),
        (
            "source: digits, corrupt: {noise: 25, mask: 0.4}",
            "corrupt: mask and noise are given; give one of noise, mask,",
        ),
        (
            "source: digits, corrupt: {}",
            "corrupt: nothing is given; give one of noise, mask, shrink and grey.",
        ),
        (
            "source: digits, corrupt: noise",
            "corrupt is 'noise': write it with its amount, such as {noise: 25}.",
        ),
        (
            "source: digits, corrupt: {blur: 2}",
            "corrupt.blur: There is no field “blur”; there are: grey, mask, noise,",
        ),
        ("source: digits, corrupt: {noise: 0}", "corrupt.noise is 0: Input should be greater than 0."),
        ("source: digits, corrupt: {mask: 1}", "corrupt.mask is 1: Input should be less than 1."),
        (
            "source: digits, corrupt: {shrink: 1}",
            "corrupt.shrink is 1: Input should be greater than or equal to 2.",
        ),
        (
            "source: digits, corrupt: {shrink: 3}",
            "corrupt.shrink is 3, which does not divide 8x8 into pictures of at",
        ),
        ("source: digits, crop: 6, corrupt: {shrink: 4}", "corrupt.shrink is 4, which does not divide 6x6"),
        (
            "source: digits, corrupt: {grey: true}",
            "corrupt.grey asks for colour and the pictures have none; set",
        ),
        (
            "source: digits, crop: 9",
            "crop is 9 and the pictures are only 8x8; make crop smaller or size larger.",
        ),
        ("source: folder, path: a, size: [32, 48], crop: 33", "crop is 33 and the pictures are only 48x32"),
        (
            "source: folder, path: a, size: [32, 48], rotate: true",
            "rotate needs square pictures and these are 48x32",
        ),
        (
            "source: folder, path: a, captions: {length: 9}",
            "captions says how to read captions and caption does not say",
        ),
        (
            "source: folder, path: a, form: pairs, corrupt: {mask: 0.4}",
            "corrupt makes sources and these pictures have",
        ),
        ("source: folder, path: a, form: pairs, caption: text", "pairs have no captions; leave caption out."),
        (
            "source: parquet, origin: a, path: b, corrupt: {mask: 0.4}",
            "corrupt makes sources and these pictures have",
        ),
        (f"source: parquet, path: a, {FILES}", "give either its path or its files, one of the two."),
        ("source: archive, files: {}", "give either its path or its files, one of the two."),
        (
            f"source: archive, {FILES.replace('all', 'test')}",
            "files has no “train”; add it, or name a single file",
        ),
        (
            "source: unpaired, target: digits, origin: digits",
            "target and origin are both digits; name two datasets.",
        ),
        (
            "source: unpaired, target: digits, origin: holes, corrupt: {mask: 0.4}",
            "corrupt makes sources and those of",
        ),
        (
            "source: unpaired, target: digits, origin: digit",
            "There is no dataset “digit”; did you mean digits?",
        ),
        (
            "source: unpaired, target: digits, origin: holes",
            "datasets.mine: holes holds sources already; name a dataset",
        ),
        (
            "source: unpaired, target: code, origin: digits",
            "datasets.mine: code holds no pictures; name a dataset",
        ),
    ],
)
def test_a_row_that_cannot_be_meant(tmp_path: Path, row: str, sentence: str) -> None:
    path = tmp_path / "params.yaml"
    others = "digits: {source: digits}, holes: {source: digits, corrupt: {mask: 0.4}}, code: {source: stdlib}"
    path.write_text(f"datasets: {{mine: {{{row}}}, {others}}}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_tables(path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "task", "lack"),
    [
        (
            "source: digits",
            "source",
            "sources, which the task source draws from; say corrupt: or form: pairs there",
        ),
        (
            "source: digits",
            "prompt",
            "captions, which the task prompt draws by; say there which caption: holds them",
        ),
        ("source: digits, corrupt: {mask: 0.4}", "source", None),
        ("source: folder, path: a, caption: text", "prompt", None),
        ("source: folder, path: a, form: pairs", "source", None),
        ("source: digits", "label", None),
    ],
)
def test_a_task_needs_a_row_that_gives_for_it(tmp_path: Path, row: str, task: str, lack: str | None) -> None:
    content = f"datasets: {{mine: {{{row}}}}}\nproducts: {{mine: {{dataset: mine, task: {task}}}}}\n"
    (tmp_path / "params.yaml").write_text(content, encoding="utf-8")
    project = open_project(tmp_path)
    if lack is None:
        check_product(project, "mine")
        return
    with pytest.raises(UserError) as caught:
        check_product(project, "mine")
    assert str(caught.value) == f"In products.mine, the dataset mine has no {lack}, or set another task."

"""What does not fit together is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from components import artifact
from components.errors import UserError
from components.families.family import Task
from components.families.gpt import GPT
from components.families.seq2seq import Seq2Seq
from components.project import RunRow, TrainOptions
from components.train.plan import check_options, check_start, check_task
from components.train.step import networks_for
from tests.components.evaluation.corpora import prepared
from tests.components.families.rows import an_about

ROW = RunRow(product="d", family="gpt", init="d/1")
SMALL = GPT(layers=1, heads=2, width=16)


def texts(word: str) -> dict[str, list[str]]:
    return {"train": [word, word[::-1]], "val": [word[:2]], "test": [word[1:]]}


def test_a_task_goes_with_its_data(tmp_path: Path) -> None:
    text = prepared(tmp_path / "text", texts("abcd"))
    pairs = prepared(tmp_path / "pairs", texts("abcd"), form="pairs", sources=texts("dcba"))
    check_task("r", ROW, Task.PROMPT, text)
    check_task("r", ROW, Task.SOURCE, pairs)
    with pytest.raises(
        UserError, match=r"asks for the task source and the dataset text holds no sources; .*free or prompt"
    ):
        check_task("r", ROW, Task.SOURCE, text)
    with pytest.raises(
        UserError, match=r"holds pairs of a source and a target; set the product's task to source"
    ):
        check_task("r", ROW, Task.PROMPT, pairs)


def test_a_start_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    """The vocabularies are as large, so the weights' shapes alone would fit."""
    ours, theirs = (prepared(tmp_path / word, texts(word)) for word in ("abcd", "wxyz"))
    assert ours.shape == theirs.shape
    networks = networks_for(SMALL, theirs.shape, 0)
    about = an_about(theirs.shape)
    for dataset in (ours, theirs):
        artifact.save(
            tmp_path / f"start-{dataset.name}", SMALL, networks, theirs.shape, about, dataset.folder
        )
    check_start("r", ROW, SMALL, ours, tmp_path / f"start-{ours.name}")
    with pytest.raises(UserError, match="another tokenizer"):
        check_start("r", ROW, SMALL, ours, tmp_path / f"start-{theirs.name}")


def test_what_cannot_be_sharded_or_adapted_is_refused(tmp_path: Path) -> None:
    dataset = prepared(tmp_path / "text", texts("abcd"))
    pairs = prepared(tmp_path / "pairs", texts("abcd"), form="pairs", sources=texts("dcba"))
    sharded = ROW.model_copy(update={"train": TrainOptions(distribute="fsdp2")})
    check_options("r", sharded, GPT(optimizer="adamw"), dataset)
    with pytest.raises(UserError, match="needs whole matrices"):
        check_options("r", sharded, GPT(), dataset)
    with pytest.raises(UserError, match="needs whole matrices"):
        check_options("r", sharded, Seq2Seq(optimizer="adamw"), pairs)
    adapted = RunRow(product="d", family="gpt", train=TrainOptions(adapters=4))
    with pytest.raises(UserError, match="set init to where they are"):
        check_options("r", adapted, GPT(), dataset)

"""A search never sees the test split: where evaluation asks for it, it gets val."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from components.data.dataset import open_dataset
from components.errors import UserError
from components.evaluation.validation import validation
from components.project import open_project


@pytest.mark.usefixtures("project")
def test_val_stands_where_test_stood() -> None:
    dataset = open_dataset(open_project().prepared / "digits")
    seen = validation(dataset)
    assert (seen.rows("test"), seen.rows("train")) == (dataset.rows("val"), dataset.rows("train"))
    assert torch.equal(seen.whole("test").data, dataset.whole("val").data)
    narrowed = dataclasses.replace(seen, shape=dataset.shape)
    assert narrowed.rows("test") == dataset.rows("val"), "as evaluation does, which narrows the shape"


@pytest.mark.usefixtures("project")
def test_what_was_counted_of_test_is_that_of_val() -> None:
    dataset = open_dataset(open_project().prepared / "code")
    counted, seen = dataset.details["characters"], validation(dataset).details["characters"]
    assert counted["val"] != counted["test"]
    assert seen == {**counted, "test": counted["val"]}


@pytest.mark.usefixtures("project")
def test_without_a_val_split_there_is_nothing_to_search_by() -> None:
    dataset = open_dataset(open_project().prepared / "digits")
    none = {name: facts for name, facts in dataset.files.items() if not name.startswith("val/")}
    with pytest.raises(UserError, match=r"has no val split, and a search must not look at the test split"):
        validation(dataclasses.replace(dataset, files=none))

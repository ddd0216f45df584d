"""Which fields are searched, and between which ends."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from components.errors import UserError
from components.families.family import kind_of, names
from components.project import open_project
from components.tuning.space import Range, as_it_is, assignments, rounded, space_of

VAE = kind_of("vae")


def test_all_fields_with_a_range_are_searched_except_those_that_are_set() -> None:
    found = space_of(VAE())
    assert found == {
        "lr": Range(1e-5, 1e-2, log=True, whole=False),
        "latent": Range(4, 128, log=True, whole=True),
        "width": Range(64, 1024, log=True, whole=True),
        "depth": Range(0, 4, log=False, whole=True),
    }
    assert list(space_of(VAE(), fixed=["lr", "depth", "likelihood"])) == ["latent", "width"]


@pytest.mark.parametrize("name", names())
def test_every_family_can_be_searched_from_where_its_defaults_are(name: str) -> None:
    family = kind_of(name)()
    space = space_of(family)
    assert "lr" in space
    assert as_it_is(space, family) is not None


def test_fields_can_be_picked_and_narrowed() -> None:
    found = space_of(VAE(), over=["lr=1e-4..1e-3, width", "beta=0.5..8"])
    assert found["lr"] == Range(1e-4, 1e-3, log=True, whole=False)
    assert found["width"] == Range(64, 1024, log=True, whole=True)
    assert found["beta"] == Range(0.5, 8.0, log=True, whole=False), (
        "so wide a range is searched by its logarithm"
    )
    assert not space_of(VAE(), over=["beta=0.5..2"])["beta"].log
    assert space_of(VAE(), over=["model.depth=1..2"])["depth"] == Range(1, 2, log=False, whole=True)


@pytest.mark.parametrize(
    ("over", "fixed", "said"),
    [
        (["lrr"], [], r"no field of the family vae “lrr”; did you mean lr"),
        (["lr=1e-2..1e-4"], [], r"range 1e-2\.\.1e-4 of lr is empty"),
        (
            ["lr=1..20"],
            [],
            r"1\.\.20 of lr leaves what the family vae allows \(at least 1e-09 and at most 10\)",
        ),
        (["lr=low..high"], [], r"“low\.\.high” is no range for lr"),
        (["lr=0.1"], [], r"“0.1” is no range for lr"),
        (["lr=nan..1"], [], r"no range for lr"),
        (["latent=4.5..9"], [], r"latent takes whole numbers"),
        (["likelihood=0..1"], [], r"likelihood of the family vae is no number"),
        (["beta"], [], r"gives the field beta no search range; give one"),
        (["lr", "lr=1e-4..1e-3"], [], r"names lr twice"),
        (["lr"], ["lr"], r"lr is both set and searched"),
        ([" ,"], [], r"--over names no field"),
        ([], ["lr", "latent", "width", "depth"], r"Nothing is left to search"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(over: list[str], fixed: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        space_of(VAE(), over, fixed)


def test_a_family_without_ranges_says_so() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Plain(VAE):  # type: ignore[misc, valid-type]
        lr: float = 1e-3
        latent: int = 8
        width: int = 64
        depth: int = 1

    with pytest.raises(UserError, match=r"Nothing is left to search"):
        space_of(Plain())


def test_values_are_tried_as_they_are_printed(project: object) -> None:
    space = space_of(VAE(), over=["lr=1.23446e-4..1e-2", "width"])
    found = rounded(space, {"lr": 0.00123456789, "width": 99.6})
    assert found == {"lr": 0.001235, "width": 100}
    assert rounded(space, {"lr": 1.23446e-4, "width": 64})["lr"] == 1.23446e-4, "it stays inside the range"
    assert rounded(space, found) == found
    small = rounded(space_of(VAE(), over=["lr"]), {"lr": 3.21e-5})
    row = open_project().run("digits-vae", assignments({**small, "width": 100}))
    assert (row.model["lr"], row.model["width"]) == (3.21e-5, 100)


def test_settings_outside_their_ranges_are_not_tried_first() -> None:
    family = VAE(lr=1e-3, width=256)
    assert as_it_is(space_of(family, over=["lr", "width"]), family) == {"lr": 1e-3, "width": 256}
    assert as_it_is(space_of(family, over=["lr=1e-5..1e-4"]), family) is None

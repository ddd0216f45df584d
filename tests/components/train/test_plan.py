"""What does not fit together is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from components import artifact
from components.errors import UserError
from components.families.cyclegan import CycleGAN
from components.families.diffusion import Diffusion
from components.families.family import Family, Shape, Task, kind_of, names
from components.families.gpt import GPT
from components.families.pix2pix import Pix2Pix
from components.families.seq2seq import Seq2Seq
from components.families.stylegan2 import StyleGAN2
from components.families.vqvae import VQVAE
from components.families.wgan_gp import WGANGP
from components.project import RunRow, TrainOptions, open_project
from components.train.plan import check_options, check_run, check_shape, check_start, check_task
from components.train.step import networks_for
from components.train.wanted import plan_of
from tests.components.evaluation.corpora import prepared
from tests.components.families.rows import an_about, shapes_of

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


@pytest.mark.parametrize(
    ("family", "shape", "said"),
    [
        (
            Diffusion(),
            Shape(data=(3, 50, 50)),
            r"^In run r, pictures of 50×50 pixels cannot be cut into 4×4; lower patch or levels\.$",
        ),
        (Diffusion(levels=4), Shape(data=(1, 28, 28)), "cut into 16×16; lower patch or levels"),
        (
            CycleGAN(),
            Shape(data=(1, 32, 4), source=(1, 32, 4)),
            "32×4 pixels are too small .* more than 4 pixels a side",
        ),
        (Seq2Seq(), Shape(data=(9,), vocabulary=7, prompt=(9, 7)), "rows that have a source"),
        (
            VQVAE(halvings=5),
            Shape(data=(1, 28, 28)),
            "a side of 28 cannot be halved 5 times; lower halvings to 4",
        ),
        (
            Pix2Pix(levels=6),
            Shape(data=(1, 28, 28), source=(1, 28, 28)),
            "28 pixels has no 6 levels; lower levels to 5",
        ),
        (
            WGANGP(critic_steps=10),
            Shape(data=(1, 28, 28)),
            r"train\.steps = 9 ends before the generator learns",
        ),
    ],
    ids=["sides", "levels", "small", "source", "halved", "padded", "idle"],
)
def test_a_shape_that_a_family_cannot_model_is_refused(family: Family, shape: Shape, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_shape("r", family, shape, 9)


@pytest.mark.parametrize("name", names())
def test_the_shapes_of_the_contract_fit(name: str) -> None:
    """So networks can be made on the meta device, of every family."""
    for shape in shapes_of(name):
        check_shape("r", kind_of(name)(**kind_of(name).small), shape, 9)


@pytest.mark.usefixtures("project")
def test_who_learns_from_pairs_is_refused_domains_that_have_none() -> None:
    for family in ("pix2pix", "diffusion"):
        with pytest.raises(UserError, match=f"the family {family} learns from pairs, .*; choose cyclegan"):
            check_run(open_project(), "r", RunRow(product="digits-to-mnist", family=family))
    check_run(open_project(), "r", RunRow(product="digits-to-mnist", family="cyclegan"))


def test_a_shape_is_refused_before_training_and_a_task_before_the_shape(project: Path) -> None:
    params, wrong = project / "params.yaml", ["model.levels=6", "train.distribute=fsdp2"]
    params.write_text(params.read_text().replace("product: mnist\n", "product: digits-classes\n"))
    with pytest.raises(UserError, match="In run mnist-diffusion, pictures of 8×8 pixels cannot be cut"):
        plan_of(open_project(), "mnist-diffusion", wrong)
    params.write_text(params.read_text().replace("task: label", "task: prompt"))
    with pytest.raises(UserError, match="the dataset digits holds no captions"):
        plan_of(open_project(), "mnist-diffusion", wrong)


def test_clipping_is_refused_where_it_would_cut_rare_penalties_off(tmp_path: Path) -> None:
    dataset = prepared(tmp_path / "text", texts("abcd"))
    row = RunRow(product="d", family="stylegan2")
    with pytest.raises(UserError, match=r"train\.clip is 1 and .*; set train\.clip to 0\.$"):
        check_options("r", row, StyleGAN2(), dataset)
    check_options("r", row.model_copy(update={"train": TrainOptions(clip=0)}), StyleGAN2(), dataset)
    check_options("r", RunRow(product="d", family="diffusion"), Diffusion(), dataset)

"""Pictures that are sent: repaired, filled, enlarged, coloured, varied; read rightly whatever kind of file they are."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image as Pillow

from components.families.family import Requests
from components.modalities.drawing import to_uint8
from components.modalities.tiling import Tiling
from components.serving.catalog import Catalog
from tests.components.serving.painter import EDIT, VARY, level, masked, opened, picture, saved


def edit(
    mirrors_client: TestClient,
    model: str,
    *files: bytes,
    mask: bytes | None = None,
    url: str = EDIT,
    **form: Any,
) -> Any:
    sent = [("image[]" if len(files) > 1 else "image", ("a.png", file, "image/png")) for file in files]
    if mask is not None:
        sent.append(("mask", ("m.png", mask, "image/png")))
    data = {"model": model, "prompt": "", **{key: str(value) for key, value in form.items()}}
    if url == VARY:
        del data["prompt"]
    answer = mirrors_client.post(url, data=data, files=sent)
    assert answer.status_code == 200, answer.text
    return [opened(base64.b64decode(item["b64_json"])) for item in answer.json()["data"]]


@pytest.mark.parametrize("size", [(16, 16), (40, 57), (16, 33), (5, 90), (1, 1)])
@pytest.mark.parametrize("model", ["noise", "photos"])
def test_a_picture_of_any_size_comes_back_without_seams(
    mirrors_client: TestClient, model: str, size: tuple[int, int]
) -> None:
    sent = picture(*size, channels=1 if model == "noise" else 3)
    (got,) = edit(mirrors_client, model, saved(sent))
    assert np.array_equal(got, sent)


def test_tiles_flow_into_each_other() -> None:
    """Even if each tile has another level, no step between two neighbours is large."""
    tiling = Tiling((64, 80), (32, 32))
    tiles = tiling.cut(torch.zeros(1, 64, 80))
    assert len(tiles) == len(tiling.places) == 3 * 3
    levels = torch.tensor([-1.0, 1.0]).repeat(5)[: len(tiles), None, None, None]
    joined = tiling.join(tiles + levels)
    steps = torch.cat([joined.diff(dim=1).flatten(), joined.diff(dim=2).flatten()]).abs()
    assert joined.min() < -0.99
    assert joined.max() > 0.99
    assert float(steps.max()) < 0.45  # 2 levels over an overlap of 8 pixels or more


def test_an_enlargement_is_larger_by_the_factor(mirrors_client: TestClient) -> None:
    sent = picture(20, 31)
    (got,) = edit(mirrors_client, "enlarge", saved(sent))
    assert got.shape == (40, 62, 3)
    whole = torch.from_numpy(sent.copy()).permute(2, 0, 1).float().div(127.5).sub(1)
    expected = torch.nn.functional.interpolate(whole[None], scale_factor=2, mode="bicubic").clamp(-1, 1)
    assert np.abs(got.astype(int) - to_uint8(expected)[0].astype(int)).max() <= 1


def test_colouring_takes_grey_and_coloured_pictures(mirrors_client: TestClient) -> None:
    sent = picture(24, 24)
    (first,) = edit(mirrors_client, "colour", saved(sent))
    (second,) = edit(mirrors_client, "colour", saved(np.asarray(Pillow.fromarray(sent).convert("L"))))
    assert np.abs(first.astype(int) - second.astype(int)).max() <= 1
    assert np.abs(first[:, :, 0].astype(int) - np.asarray(Pillow.fromarray(sent).convert("L"))).max() <= 1


@pytest.mark.parametrize(("model", "size"), [("fill", (50, 40)), ("whole", (16, 16)), ("whole", (50, 70))])
def test_only_the_hole_is_filled(mirrors_client: TestClient, model: str, size: tuple[int, int]) -> None:
    sent, hole = picture(*size), (slice(4, 11), slice(3, 12))
    (got,) = edit(mirrors_client, model, saved(sent), mask=masked(*size, hole))
    known = np.ones(size, dtype=bool)
    known[hole] = False
    assert np.array_equal(got[known], sent[known])
    assert (
        int(got[hole].min()) >= 240
    )  # the mirror fills with white; at the edge of a smaller hole it is softer


def test_without_a_mask_the_picture_s_own_transparency_is_the_hole(mirrors_client: TestClient) -> None:
    levels = np.dstack([picture(16, 16), np.full((16, 16), 255, dtype=np.uint8)])
    levels[2:9, 2:9, 3] = 0
    (got,) = edit(mirrors_client, "fill", saved(levels))
    assert np.array_equal(got[10:], levels[10:, :, :3])
    assert int(got[2:9, 2:9].min()) == 255


def test_style_takes_any_size_at_the_model_s_own(mirrors_client: TestClient) -> None:
    (got,) = edit(mirrors_client, "style", saved(picture(40, 90, channels=1)), size="32x32")
    assert got.shape == (32, 32)


def test_several_pictures_and_several_answers(mirrors_client: TestClient) -> None:
    files = [saved(picture(20, 20, seed=seed)) for seed in (1, 2)]
    answers = edit(mirrors_client, "photos", *files, n=2, seed=9)
    assert len(answers) == 4
    assert np.array_equal(answers[0], opened(files[0]))
    assert np.array_equal(answers[1], opened(files[0]))
    assert np.array_equal(answers[3], opened(files[1]))


KINDS: dict[str, Callable[[Any], bytes]] = {
    "alpha": lambda image: saved(image.convert("RGBA")),
    "palette": lambda image: saved(image.quantize(256)),
    "CMYK": lambda image: saved(image.convert("CMYK"), format="TIFF"),
    "16 bits": lambda image: saved(Pillow.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)),
    "turned": lambda image: _turned(image),
    "webp": lambda image: saved(image, format="WEBP", lossless=True),
}


def _turned(image: Any) -> bytes:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    return saved(image.rotate(90, expand=True), exif=exif)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_every_kind_are_read_rightly(mirrors_client: TestClient, kind: str) -> None:
    image = Pillow.fromarray(picture(20, 28))
    (got,) = edit(mirrors_client, "photos", KINDS[kind](image))
    expected = np.asarray(image.convert("L").convert("RGB") if kind == "16 bits" else image)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected.astype(int)).mean() < 6


def test_json_carries_base64_bare_or_as_a_data_url(mirrors_client: TestClient) -> None:
    file = saved(picture(16, 16))
    text = base64.b64encode(file).decode()
    for image in (text, [text], f"data:image/png;base64,{text}"):
        answer = mirrors_client.post(EDIT, json={"model": "photos", "image": image, "seed": 4})
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"][0]["seed"] == 4


def test_without_a_name_the_only_model_that_answers_the_route_is_asked(mirrors_client: TestClient) -> None:
    image = base64.b64encode(saved(picture(9, 9, channels=1))).decode()
    answer = mirrors_client.post(VARY, json={"image": image})  # the digits' VAE alone varies pictures
    assert answer.headers["x-genloom-model"] == "digits"
    assert mirrors_client.post(EDIT, json={"image": image}).status_code == 404


def test_an_edit_can_be_streamed(mirrors_client: TestClient) -> None:
    file = saved(picture(40, 40))
    files = {"image": ("a.png", file, "image/png")}
    answer = mirrors_client.post(
        EDIT, data={"model": "photos", "stream": "true", "partial_images": "2"}, files=files
    )
    assert answer.status_code == 200
    events = [event for event in answer.text.split("\n\n") if event]
    assert [event.split("\n")[0] for event in events] == ["event: image_edit.completed"]


def test_variations_lie_between_the_picture_and_chance(
    mirrors_client: TestClient, mirrors_catalog: Catalog
) -> None:
    sent, model = picture(8, 8, channels=1), mirrors_catalog.loaded["digits"].model
    tensor = torch.from_numpy(sent.copy())[None, None].float().div(127.5).sub(1)
    latent = model.family.encode(model.networks, tensor)
    assert latent is not None
    kept = model.sample(Requests(seed=torch.tensor([3]), options={"latent": latent}))
    free = model.sample(Requests(seed=torch.tensor([3, 4])))
    asked = {"url": VARY, "seed": 3}
    same = edit(mirrors_client, "digits", saved(sent), strength=0, **asked)[0]
    assert np.abs(same.astype(int) - to_uint8(kept)[0, :, :, 0]).max() <= 1
    far = edit(mirrors_client, "digits", saved(sent), strength=1, n=2, **asked)
    for got, drawn in zip(far, to_uint8(free), strict=True):
        assert np.abs(got.astype(int) - drawn[:, :, 0]).max() <= 1
    near = edit(mirrors_client, "digits", saved(sent), n=2, **asked)
    assert not np.array_equal(near[0], near[1])


def test_a_black_picture_is_white_only_where_it_is_clear(mirrors_client: TestClient) -> None:
    levels = np.zeros((16, 16, 4), dtype=np.uint8)
    levels[:8, :, 3] = 255
    (got,) = edit(mirrors_client, "photos", saved(levels))
    assert got[0, 0].tolist() == [level(-1)] * 3
    assert got[15, 0].tolist() == [level(1)] * 3

"""Pictures that are sent: repaired, filled, enlarged, coloured, varied; read rightly whatever kind of file they are."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image as Pillow

from components.families.family import Requests, Shape
from components.modalities.conditions import Conditions
from components.modalities.corruption import Corruption
from components.modalities.drawing import to_uint8
from components.modalities.tiling import Tiling
from components.modalities.views import View
from components.serving.catalog import Catalog, Served, open_version
from components.serving.routes.application import create_app
from components.serving.routes.forms import fields
from components.settings import Settings
from tests.components.serving.painter import Mirror, Painter, level, opened, saved, served

EDIT, VARY = "/v1/images/edits", "/v1/images/variations"
COLOUR, GREY = (3, 16, 16), (1, 16, 16)
CROPPED = View(crop=16)


@pytest.fixture(scope="module")
def catalog(artifact: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    root = tmp_path_factory.mktemp("mirrors")

    def mirror(name: str, corruption: Corruption, data: tuple[int, ...], view: View = CROPPED) -> Any:
        shape = Shape(data=data, source=corruption.shape(data))
        return served(root, name, Mirror(), shape, Conditions(corruption, view=view))

    found = {
        "noise": mirror("noise", Corruption("noise", 25.0), GREY),
        "photos": mirror("photos", Corruption("noise", 25.0), COLOUR),
        "colour": mirror("colour", Corruption("grey"), COLOUR),
        "enlarge": mirror("enlarge", Corruption("shrink", 2.0), COLOUR),
        "fill": mirror("fill", Corruption("mask", 0.4), COLOUR),
        "whole": mirror("whole", Corruption("mask", 0.4), COLOUR, View()),
        "style": mirror("style", Corruption("unpaired"), GREY, View()),
        "animals": served(root, "animals", Painter(), Shape(data=GREY, classes=3)),
        "digits": open_version(Served("digits", 1, artifact(root / "vae"), 0), Settings(home=root)),
    }
    return Catalog(found)


@pytest.fixture(scope="module")
def client(catalog: Catalog) -> Iterator[TestClient]:
    with TestClient(create_app(catalog), raise_server_exceptions=False) as client:
        yield client


def picture(height: int, width: int, channels: int = 3, seed: int = 0) -> Any:
    """Smooth colours that are different everywhere."""
    generator = np.random.default_rng(seed)
    rough = Pillow.fromarray(generator.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = rough.resize((width, height), Pillow.Resampling.BICUBIC)
    return np.asarray(smooth if channels == 3 else smooth.convert("L"))


def masked(height: int, width: int, hole: tuple[slice, slice]) -> bytes:
    levels = np.full((height, width, 4), 255, dtype=np.uint8)
    levels[(*hole, 3)] = 0
    return saved(levels)


def edit(
    client: TestClient, model: str, *files: bytes, mask: bytes | None = None, url: str = EDIT, **form: Any
) -> Any:
    sent = [("image[]" if len(files) > 1 else "image", ("a.png", file, "image/png")) for file in files]
    if mask is not None:
        sent.append(("mask", ("m.png", mask, "image/png")))
    data = {"model": model, "prompt": "", **{key: str(value) for key, value in form.items()}}
    if url == VARY:
        del data["prompt"]
    answer = client.post(url, data=data, files=sent)
    assert answer.status_code == 200, answer.text
    return [opened(base64.b64decode(item["b64_json"])) for item in answer.json()["data"]]


@pytest.mark.parametrize("size", [(16, 16), (40, 57), (16, 33), (5, 90), (1, 1)])
@pytest.mark.parametrize("model", ["noise", "photos"])
def test_a_picture_of_any_size_comes_back_without_seams(
    client: TestClient, model: str, size: tuple[int, int]
) -> None:
    sent = picture(*size, channels=1 if model == "noise" else 3)
    (got,) = edit(client, model, saved(sent))
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


def test_an_enlargement_is_larger_by_the_factor(client: TestClient) -> None:
    sent = picture(20, 31)
    (got,) = edit(client, "enlarge", saved(sent))
    assert got.shape == (40, 62, 3)
    whole = torch.from_numpy(sent.copy()).permute(2, 0, 1).float().div(127.5).sub(1)
    expected = torch.nn.functional.interpolate(whole[None], scale_factor=2, mode="bicubic").clamp(-1, 1)
    assert np.abs(got.astype(int) - to_uint8(expected)[0].astype(int)).max() <= 1


def test_colouring_takes_grey_and_coloured_pictures(client: TestClient) -> None:
    sent = picture(24, 24)
    (first,) = edit(client, "colour", saved(sent))
    (second,) = edit(client, "colour", saved(np.asarray(Pillow.fromarray(sent).convert("L"))))
    assert np.abs(first.astype(int) - second.astype(int)).max() <= 1
    assert np.abs(first[:, :, 0].astype(int) - np.asarray(Pillow.fromarray(sent).convert("L"))).max() <= 1


@pytest.mark.parametrize(("model", "size"), [("fill", (50, 40)), ("whole", (16, 16)), ("whole", (50, 70))])
def test_only_the_hole_is_filled(client: TestClient, model: str, size: tuple[int, int]) -> None:
    sent, hole = picture(*size), (slice(4, 11), slice(3, 12))
    (got,) = edit(client, model, saved(sent), mask=masked(*size, hole))
    known = np.ones(size, dtype=bool)
    known[hole] = False
    assert np.array_equal(got[known], sent[known])
    assert (
        int(got[hole].min()) >= 240
    )  # the mirror fills with white; at the edge of a smaller hole it is softer


def test_without_a_mask_the_picture_s_own_transparency_is_the_hole(client: TestClient) -> None:
    levels = np.dstack([picture(16, 16), np.full((16, 16), 255, dtype=np.uint8)])
    levels[2:9, 2:9, 3] = 0
    (got,) = edit(client, "fill", saved(levels))
    assert np.array_equal(got[10:], levels[10:, :, :3])
    assert int(got[2:9, 2:9].min()) == 255


def test_style_takes_any_size_at_the_model_s_own(client: TestClient) -> None:
    (got,) = edit(client, "style", saved(picture(40, 90, channels=1)), size="32x32")
    assert got.shape == (32, 32)


def test_several_pictures_and_several_answers(client: TestClient) -> None:
    files = [saved(picture(20, 20, seed=seed)) for seed in (1, 2)]
    answers = edit(client, "photos", *files, n=2, seed=9)
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
def test_files_of_every_kind_are_read_rightly(client: TestClient, kind: str) -> None:
    image = Pillow.fromarray(picture(20, 28))
    (got,) = edit(client, "photos", KINDS[kind](image))
    expected = np.asarray(image.convert("L").convert("RGB") if kind == "16 bits" else image)
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected.astype(int)).mean() < 6


def test_json_carries_base64_bare_or_as_a_data_url(client: TestClient) -> None:
    file = saved(picture(16, 16))
    text = base64.b64encode(file).decode()
    for image in (text, [text], f"data:image/png;base64,{text}"):
        answer = client.post(EDIT, json={"model": "photos", "image": image, "seed": 4})
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"][0]["seed"] == 4


def test_an_edit_can_be_streamed(client: TestClient) -> None:
    file = saved(picture(40, 40))
    files = {"image": ("a.png", file, "image/png")}
    answer = client.post(EDIT, data={"model": "photos", "stream": "true", "partial_images": "2"}, files=files)
    assert answer.status_code == 200
    events = [event for event in answer.text.split("\n\n") if event]
    assert [event.split("\n")[0] for event in events] == ["event: image_edit.completed"]


def test_variations_lie_between_the_picture_and_chance(client: TestClient, catalog: Catalog) -> None:
    sent, model = picture(8, 8, channels=1), catalog.loaded["digits"].model
    tensor = torch.from_numpy(sent.copy())[None, None].float().div(127.5).sub(1)
    latent = model.family.encode(model.networks, tensor)
    assert latent is not None
    kept = model.sample(Requests(seed=torch.tensor([3]), options={"latent": latent}))
    free = model.sample(Requests(seed=torch.tensor([3, 4])))
    asked = {"url": VARY, "seed": 3}
    same = edit(client, "digits", saved(sent), strength=0, **asked)[0]
    assert np.abs(same.astype(int) - to_uint8(kept)[0, :, :, 0]).max() <= 1
    far = edit(client, "digits", saved(sent), strength=1, n=2, **asked)
    for got, drawn in zip(far, to_uint8(free), strict=True):
        assert np.abs(got.astype(int) - drawn[:, :, 0]).max() <= 1
    near = edit(client, "digits", saved(sent), n=2, **asked)
    assert not np.array_equal(near[0], near[1])


def form(**changed: Any) -> dict[str, Any]:
    """What a request sends; `None` leaves a field out."""
    return {
        "data": {"model": "photos"},
        "files": {"image": ("a.png", saved(picture(16, 16)), "image/png")},
    } | changed


HOLE = (slice(2, 5), slice(2, 5))
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (EDIT, {"data": {"model": "fill"}}, "nothing is marked to be filled"),
    (
        EDIT,
        {
            "data": {"model": "fill"},
            "files": {
                "image": ("a.png", saved(picture(16, 16)), "image/png"),
                "mask": ("m.png", masked(20, 16, HOLE), "image/png"),
            },
        },
        "The mask is 16x20 and the picture 16x16; send a mask of the same size",
    ),
    (
        EDIT,
        {
            "files": {
                "image": ("a.png", saved(picture(16, 16)), "image/png"),
                "mask": ("m.png", masked(16, 16, HOLE), "image/png"),
            }
        },
        "takes no mask; leave “mask” out",
    ),
    (EDIT, {"data": {"model": "noise"}}, "The picture has colours and this model knows grey ones only"),
    (
        EDIT,
        {
            "data": {"model": "noise"},
            "files": {"image": ("a.gif", saved(Pillow.fromarray(picture(9, 9)).quantize(9)))},
        },
        "The picture has colours and this model knows grey ones only",
    ),
    (EDIT, {"data": {"model": "photos", "prompt": "a hat"}}, "edits without a prompt"),
    (EDIT, {"data": {"model": "photos", "label": "cat"}}, "knows no classes"),
    (EDIT, {"data": {"model": "photos", "steps": "4"}}, "draws without “steps”"),
    (EDIT, {"data": {"model": "photos", "n": "many"}}, '“n” is "many"'),
    (EDIT, {"data": {"model": "photos", "n": "0"}}, '“n” is "0"'),
    (EDIT, {"data": {"model": "photos", "size": "17x17"}}, "no whole multiple of this answer's 16x16"),
    (EDIT, {"data": {"model": "photos", "maks": "a"}}, "There is no field “maks”; did you mean mask"),
    (EDIT, {"data": {"model": "animals"}}, "edits no picture; ask it at /v1/images/generations"),
    (
        EDIT,
        {"files": {"image": ("a.png", saved(picture(9, 9))[:90])}},
        "The picture cannot be taken (a broken picture",
    ),
    (EDIT, {"files": {"image": ("a.txt", b"hello")}}, "no picture in a format that can be read"),
    (EDIT, {"files": {"mask": ("a.png", saved(picture(8, 8)))}}, "The field “image” is missing"),
    (EDIT, {"files": {"image": ("a.png", saved(picture(2200, 16)))}}, "2200 and may have 2048 pixels a side"),
    (
        EDIT,
        {"data": {"model": "enlarge"}, "files": {"image": ("a.png", saved(picture(1100, 16)))}},
        "The answer would be 32x2200",
    ),
    (
        EDIT,
        {"files": {"image": ("a.png", saved(np.zeros((2000, 2000), dtype=np.uint8)))}},
        "and a request may take 1024",
    ),
    (
        EDIT,
        {"files": {"image": ("a.png", saved(np.zeros((2100, 2100), dtype=np.uint8)))}},
        "more than 4,194,304 pixels",
    ),
    (VARY, {"data": {"model": "animals"}}, "has no way back from a picture"),
    (VARY, {"data": {"model": "photos"}}, "has no way back from a picture"),
    (VARY, {"data": {"model": "digits", "strength": "2"}}, '“strength” is "2"'),
    (VARY, {"data": {"model": "digits"}}, "The picture has colours"),
]


@pytest.mark.parametrize(("url", "changed", "said"), REFUSED, ids=[said[:40] for _, _, said in REFUSED])
def test_what_cannot_be_done_is_one_sentence(
    client: TestClient, url: str, changed: dict[str, Any], said: str
) -> None:
    answer = client.post(url, **form(**changed))
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert said in message
    assert message.endswith((".", "?"))
    assert len(message) < 300


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"", "multipart/form-data", "The form is not whole"),
        (b"--x\r\nnothing", "multipart/form-data; boundary=x", "The form is not whole"),
        (b"--x\r\n\r\na\r\n--x--", "multipart/form-data; boundary=x", "A part of the form has no name"),
        (
            b'--x\r\ncontent-disposition: form-data; name="n"\r\n\r\n\xff\r\n--x--',
            "multipart/form-data; boundary=x",
            "The field “n” of the form is no text",
        ),
        (b"{", "application/json", "The body is no valid JSON"),
        (b"\xff", "application/json", "no JSON in UTF-8"),
        (b"[" * 100_000, "application/json", "no JSON"),
        (b"[]", "application/json", "must be a JSON object"),
        (b"a=b", "application/x-www-form-urlencoded", "The body must be a form of files"),
        (b'{"image": "%%"}', "application/json", "no file and no Base64"),
        (b'{"image": []}', "application/json", "at least 1 item"),
        (b'{"image": 3}', "application/json", "valid bytes"),
    ],
)
def test_a_body_that_is_none_is_one_sentence(
    client: TestClient, content: bytes, kind: str, said: str
) -> None:
    answer = client.post(EDIT, content=content, headers={"content-type": kind})
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]["message"]


def test_forms_carry_any_bytes() -> None:
    """As httpx writes them, also where a file looks like a form."""
    file = b"\r\n--x\r\n\x00\xff\r\n\r\n" * 3 + b"\n"
    request = httpx.Request(
        "POST",
        "http://here",
        data={"n": "2", "prompt": "größer"},
        files=[("image[]", ("a", file)), ("image[]", ("b", b""))],
    )
    read = fields(request.read(), request.headers["content-type"])
    assert read == {"n": "2", "prompt": "größer", "image": [file, b""]}


def test_uploads_may_be_larger_than_other_bodies(client: TestClient) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    file = saved(noise)
    assert len(file) > 2**20
    files = {"image": ("a.png", file, "image/png")}
    said = client.post(EDIT, data={"model": "style"}, files=files)
    assert said.status_code == 400
    assert "colours" in said.json()["error"]["message"]
    large = client.post(EDIT, data={"model": "style"}, files={"image": ("a.png", bytes(2**25 + 1))})
    assert large.status_code == 413


def test_a_black_picture_is_white_only_where_it_is_clear(client: TestClient) -> None:
    levels = np.zeros((16, 16, 4), dtype=np.uint8)
    levels[:8, :, 3] = 255
    (got,) = edit(client, "photos", saved(levels))
    assert got[0, 0].tolist() == [level(-1)] * 3
    assert got[15, 0].tolist() == [level(1)] * 3

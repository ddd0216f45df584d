"""What is sent and cannot be taken is one sentence; forms and JSON are read by the same rules."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as Pillow

from components.families.family import Shape
from components.modalities.canvas import Easel
from components.modalities.corruption import Corruption
from components.serving.routes import forms
from components.serving.routes.forms import fields
from tests.components.serving.painter import EDIT, VARY, masked, picture, saved


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
    (
        EDIT,
        {"files": {"image": ("a.eps", saved(Pillow.fromarray(picture(9, 9)), format="EPS"))}},
        "no picture in a format that can be read: PNG, JPEG, WEBP, GIF, BMP, TIFF",
    ),
    (
        EDIT,
        {
            "data": {"model": "whole", "n": "9"},
            "files": {
                "image": ("a.png", saved(picture(2000, 2000)), "image/png"),
                "mask": ("m.png", masked(2000, 2000, HOLE), "image/png"),
            },
        },
        "The answers would have 36,000,000 pixels (9 of each of 4,000,000) and may have 33,554,432",
    ),
    (EDIT, {"data": {"model": "photos", "size": "1600x1600", "n": "14"}}, "35,840,000 pixels"),
    (EDIT, {"data": {"model": "photos", "prompt": "a" * 4097}}, "at most 4096 characters"),
    (
        VARY,
        {
            "data": {"model": "digits", "n": "128"},
            "files": [("image[]", ("a.png", saved(picture(8, 8, channels=1)), "image/png"))] * 16,
        },
        "This takes 2048 tiles of the model's size, and a request may take 1024",
    ),
    (VARY, {"data": {"model": "animals"}}, "has no way back from a picture"),
    (VARY, {"data": {"model": "photos"}}, "has no way back from a picture"),
    (VARY, {"data": {"model": "digits", "strength": "2"}}, '“strength” is "2"'),
    (VARY, {"data": {"model": "digits"}}, "The picture has colours"),
]


@pytest.mark.parametrize(("url", "changed", "said"), REFUSED, ids=[said[:40] for _, _, said in REFUSED])
def test_what_cannot_be_done_is_one_sentence(
    mirrors_client: TestClient, url: str, changed: dict[str, Any], said: str
) -> None:
    answer = mirrors_client.post(url, **form(**changed))
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert said in message
    assert message.endswith((".", "?"))
    assert len(message) < 300


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"", "multipart/form-data", "No boundary given"),
        (b"--x\r\nnothing", "multipart/form-data; boundary=x", "The form is not whole"),
        (b"--x--", "multipart/form-data; boundary*=utf-8''%E2%82%AC", "No boundary given"),
        (b"--x--", "multipart/form-data; boundary*=idna''%E2%82%AC", "No boundary given"),
        (
            b"--x\r\n" + b"a" * 9000 + b"\r\n--x--",
            "multipart/form-data; boundary=x",
            "Maximum header size exceeded",
        ),
        (b"--x\r\n" + b";" * 65 + b"\r\n--x--", "multipart/form-data; boundary=x", "Found invalid character"),
        (b"--x--", "multipart/form-data" + ";" * 65 + "boundary=x", "“image” is missing"),
        (
            b"--x\r\ncontent-disposition: form-data; name*" + b"9" * 5000 + b"=a\r\n\r\n\r\n--x--",
            "multipart/form-data; boundary=x",
            "Maximum header size exceeded",
        ),
        (b"--x\r\n\r\na\r\n--x--", "multipart/form-data; boundary=x", "Field name not found"),
        (
            b'--x\r\ncontent-disposition: form-data; name="n"\r\n\r\n\xff\r\n--x--',
            "multipart/form-data; boundary=x",
            "The field “n” of the form is no text",
        ),
        (b"{", "application/json", "The body is no valid JSON"),
        (b"\xff", "application/json", "not valid UTF-8, at byte 0"),
        (b"[" * 100_000, "application/json", "no JSON"),
        (b"[" * 80 + b"]" * 80, "application/json", "lists are too deep"),
        (b'{"n": ' + b"9" * 5000 + b"}", "application/json", "a number is too long"),
        (b'{"n": ' + b"9" * 4000 + b"}", "application/json", "less than or equal to 128"),
        (b'{"image": "%%"}', "Application/JSON; charset=utf-8", "no file and no Base64"),
        (b"[" + b"1," * 9000 + b"1]", "application/json", "The body has 9000 commas and may have 8192"),
        (b"[]", "application/json", "must be a JSON object"),
        (b"a=b", "application/x-www-form-urlencoded", "The body must be a form of files"),
        (b'{"image": "%%"}', "application/json", "no file and no Base64"),
        (b'{"image": []}', "application/json", "at least 1 item"),
        (b'{"image": 3}', "application/json", "valid bytes"),
    ],
)
def test_a_body_that_is_none_is_one_sentence(
    mirrors_client: TestClient, content: bytes, kind: str, said: str
) -> None:
    answer = mirrors_client.post(EDIT, content=content, headers={"content-type": kind})
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]["message"]


def test_pictures_are_counted_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch, mirrors_client: TestClient
) -> None:
    """Eight that are few tiles each and too many together; not one is decoded."""
    monkeypatch.setattr(Easel, "canvas", None)
    file = ("image[]", ("a.png", saved(picture(200, 200)), "image/png"))
    answer = mirrors_client.post(EDIT, data={"model": "photos"}, files=[file] * 8)
    assert answer.status_code == 400
    assert "This takes 2312 tiles" in answer.json()["error"]["message"]


@pytest.mark.parametrize("size", [(9, 9), (16, 16), (17, 40), (64, 33), (1, 90)])
def test_the_header_says_how_many_tiles_there_will_be(size: tuple[int, int]) -> None:
    easel = Easel(Shape(data=(3, 16, 16), source=(3, 16, 16)), Corruption("noise", 0.1), False)
    file = saved(picture(*size))
    assert easel.measured(file) == (len(easel.canvas(file, None).sources), size[0] * size[1])


def parts(count: int) -> bytes:
    return b'--x\r\ncontent-disposition: form-data; name="n"\r\n\r\n1\r\n' * count + b"--x--"


def test_a_form_of_many_parts_is_refused_before_they_are_read(mirrors_client: TestClient) -> None:
    kind = "multipart/form-data; boundary=x"
    assert fields(parts(64), kind) == {"n": ["1"] * 64}
    answer = mirrors_client.post(EDIT, content=parts(300_000), headers={"content-type": kind})
    assert answer.status_code == 400
    assert "more than 64 parts" in answer.json()["error"]["message"]


def test_what_is_long_is_read_beside_the_loop(
    monkeypatch: pytest.MonkeyPatch, mirrors_client: TestClient
) -> None:
    where: list[bool] = []

    def seen(*_: Any) -> dict[str, Any]:
        where.append(threading.current_thread().name.startswith("asyncio_"))
        return {}

    monkeypatch.setattr(forms, "fields", seen)
    assert mirrors_client.post(EDIT, **form()).status_code == 400
    assert where == [True]


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


def test_too_many_files_are_counted_and_not_repeated(mirrors_client: TestClient) -> None:
    file = ("image[]", ("a.png", bytes(2**20), "image/png"))
    answer = mirrors_client.post(EDIT, data={"model": "photos"}, files=[file] * 17)
    assert answer.status_code == 400
    assert '“image” is "17 files"' in answer.json()["error"]["message"]


def test_uploads_may_be_larger_than_other_bodies(mirrors_client: TestClient) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    file = saved(noise)
    assert len(file) > 2**20
    files = {"image": ("a.png", file, "image/png")}
    said = mirrors_client.post(EDIT, data={"model": "style"}, files=files)
    assert said.status_code == 400
    assert "colours" in said.json()["error"]["message"]
    large = mirrors_client.post(EDIT, data={"model": "style"}, files={"image": ("a.png", bytes(2**25 + 1))})
    assert large.status_code == 413

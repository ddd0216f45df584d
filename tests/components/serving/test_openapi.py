"""schemathesis asks the routes whatever `/openapi.json` says that they take, and much that it does not."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from components.families.family import Shape
from components.labels import reading
from components.serving.catalog import Catalog
from components.serving.jobs import Jobs
from components.serving.routes.application import create_app
from components.settings import Settings
from tests.components import waves
from tests.components.serving.chemist import chemist
from tests.components.serving.hum import hum
from tests.components.serving.painter import Painter, masked, mirrors, picture, saved, served
from tests.components.serving.parrot import HI
from tests.components.serving.songs import songs

UNFIT = ("positive_data_acceptance",)
"""A schema cannot say what a model knows: its classes, its sizes, what is a picture."""
EXAMPLES = 40
BODIES = {
    "ImageRequest": ["beasts"],
    "ImageEditRequest": ["fill"],
    "ImageVariationRequest": ["digits"],
    "CompletionRequest": ["tales", "plain"],
    "ChatRequest": ["tales"],
    "SpeechRequest": ["hum", "sing"],
    "SoundRequest": ["hum", "sing"],
    "SeriesRequest": ["waves"],
    "MoleculeRequest": ["drugs"],
    "MusicRequest": ["songs"],
    "JobRequest": ["tales", "beasts"],
}
"""What is asked of which models."""
ALONE = ("ImageEditRequest", "ImageVariationRequest")
"""What only one model can do, which is asked where none is named."""


class Kept(Catalog):
    """One that an application does not close when it ends, as schemathesis ends it after every call."""

    def close(self) -> None:
        return


def narrow(description: dict[str, Any], models: list[str], jobs: list[str]) -> None:
    """Leave of what may be asked for at random a part that models can do, so that more than refusals is seen."""
    png = base64.b64encode(saved(picture(16, 16, 1))).decode()
    hole = base64.b64encode(masked(16, 16, (slice(2, 9), slice(2, 9)))).decode()
    few = {
        **{"n": [1, 2, 5], "size": ["auto"], "label": [None], "guidance": [None]},
        **{"steps": [None], "strength": [0, 0.5], "image": [png], "mask": [hole], "max_tokens": [None, 1, 9]},
        **{"input": ["low", "High, mid"], "file": [png]},
        **{"context": [None, [float(step % 5) for step in range(24)]], "horizon": [None, 3]},
        **{"channel": [None], "contains": [None, "C"], "bars": [1, 2], "prime": [None]},
        **{"best_of": [None], "truncation": ["auto"], "logprobs": [None], "top_logprobs": [None]},
    }
    description["components"]["schemas"]["LabelRequest"]["properties"]["file"] = {"enum": few["file"]}
    for name, fitting in BODIES.items():
        body, alone = description["components"]["schemas"][name], name in ALONE
        own = {**few, "model": [*fitting, *[None] * alone]}
        if name.startswith("Image"):
            own |= {"prompt": ["", "cat"], "truncation": [None]}
        body["properties"] |= {
            field: {"enum": own[field]} for field in own.keys() & body["properties"].keys()
        }
        if "messages" in body["properties"]:
            body["properties"]["messages"] = {"anyOf": [{"enum": [HI]}, body["properties"]["messages"]]}
        body["required"] = [*body.get("required", []), *["model"] * (not alone)]
    for path, operations in description["paths"].items():
        named = {"enum": models if "models" in path else jobs}
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path":
                    parameter["schema"] = named


@pytest.fixture(scope="module")
def app(text_catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """An application with a model of each kind."""
    root = tmp_path_factory.mktemp("openapi")
    beasts = served(root, "beasts", Painter(), Shape(data=(1, 8, 8), classes=3))
    catalog = Kept(
        {
            **text_catalog.loaded,
            "beasts": beasts,
            "fill": mirrors(root)["fill"],
            "hum": hum(root),
            "sing": hum(root, "sing"),
            "waves": waves.served(waves.learned(waves.prepared(root / "waves"), 5)),
            "drugs": chemist(root),
            "songs": songs(root),
        }
    )
    jobs = Jobs(root / "jobs")
    home = Settings(home=root / "home")
    return create_app(catalog, jobs=jobs, reader=lambda file: reading.read(file, home, "The file"))


@pytest.fixture(scope="module")
def schema(app: FastAPI) -> Any:
    """Its description, which names the models so that they are asked."""
    client = TestClient(app)
    ids = [client.post("/v1/jobs", json={"model": "digits", "n": 1}).json()["id"] for _ in range(2)]
    narrow(app.openapi(), [one["id"] for one in client.get("/v1/models").json()["data"]], ids)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def operations() -> list[tuple[str, str]]:
    app = create_app(Catalog({}), jobs=Jobs(Path("none")), reader=lambda file: reading.read(file, Settings()))
    paths = app.openapi()["paths"]
    return [(path, method) for path, found in paths.items() for method in found]


def examined(operation: Any, mode: GenerationMode, examples: int) -> list[int]:
    """Ask so often, the same each time, and look at every answer; their statuses."""
    statuses: list[int] = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        answer = case.call_and_validate(excluded_checks=[CHECKS.get_one(name) for name in UNFIT])
        statuses.append(answer.status_code)

    ask()
    return statuses


@pytest.mark.parametrize(("path", "method"), operations(), ids=lambda part: part)
def test_every_answer_is_as_the_description_says(schema: Any, path: str, method: str) -> None:
    operation = schema[path][method]
    seen = examined(operation, GenerationMode.POSITIVE, EXAMPLES)
    assert min(seen) < 300, seen
    if operation.body or operation.query:
        assert examined(operation, GenerationMode.NEGATIVE, EXAMPLES)


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "beasts", "label": "cat"},
        {"model": "tales", "prompt": "Once upon a time", "max_tokens": 4},
        {"model": "hum", "label": "low"},
        {"model": "songs", "bars": 1},
        {"model": "waves"},
        {"model": "waves", "context": [float(step % 5) for step in range(24)]},
        {
            "model": "waves",
            "context": "when,tide\n" + "".join(f"2024-01-{day:02},{day % 5}\n" for day in range(1, 25)),
        },
        {"model": "drugs", "n": 5},
        {"model": "drugs", "n": 5, "valid_only": True},
    ],
    ids=lambda asked: "-".join([asked["model"], *list(asked)[1:]]),
)
def test_every_field_of_an_answer_is_described(app: FastAPI, asked: dict[str, Any]) -> None:
    answer = TestClient(app).post("/v1/generations", json={"seed": 0, **asked})
    assert answer.status_code == 200, answer.text
    description = create_app(Catalog({})).openapi()
    for named in description["components"]["schemas"].values():
        named["additionalProperties"] = named.get("additionalProperties", False)
    content = description["paths"]["/v1/generations"]["post"]["responses"]["200"]["content"]
    told = {**content["application/json"]["schema"], "components": description["components"]}
    Draft202012Validator(told).validate(answer.json())


@pytest.mark.long
@pytest.mark.parametrize(("path", "method"), operations(), ids=lambda part: part)
def test_many_more_answers_are_as_the_description_says(schema: Any, path: str, method: str) -> None:
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        if mode is GenerationMode.POSITIVE or schema[path][method].body or schema[path][method].query:
            assert examined(schema[path][method], mode, 20 * EXAMPLES)

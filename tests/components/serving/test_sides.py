"""Who is answered by which version while one is tried, without a registry: models whose output can be foreseen."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from components.families.family import Shape
from components.filtering import ContentFilter
from components.promotion.canary import Criteria
from components.promotion.ledger import Line
from components.serving import trial as trials
from components.serving.catalog import Catalog, Loaded
from components.serving.keys import Keyring
from components.serving.routes import sides
from components.serving.routes.access import Access
from components.serving.routes.application import create_app
from components.serving.trial import Trial
from components.terms import Terms
from tests.components.serving.painter import Painter, served
from tests.components.serving.parrot import CHAT, COMPLETE, HI, parrot, stream, texts
from tests.until import until

DRAW = "/v1/images/generations"


def version(loaded: Loaded, number: int) -> Loaded:
    return dataclasses.replace(loaded, served=dataclasses.replace(loaded.served, version=number))


def begun(catalog: Catalog, event: Any, loaded: Loaded, share: float = 0.5, turn: str = "a" * 64) -> Trial:
    """Try `loaded` beside the champion of its product."""
    product = loaded.served.product
    line = Line(
        event=event,
        product=product,
        version=loaded.served.version,
        digest=loaded.model.digest,
        champion=2,
        reasons=(),
        who="ada",
        terms=Criteria(share=share).numbers(),
        time=datetime.now(UTC).isoformat(),
        previous="",
        hash=turn,
    )
    found = Trial(line, loaded, catalog.loaded[product])
    catalog.begin(product, found)
    return found


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """A parrot, and a painter of one level a picture."""
    painter = served(tmp_path, "animals", Painter(), Shape(data=(1, 8, 8), classes=3))
    found = Catalog({"tales": parrot(tmp_path), "animals": painter})
    yield found
    for one in found.trials.values():
        one.close()
    found.close()


@pytest.fixture
def client(catalog: Catalog) -> Iterator[TestClient]:
    with TestClient(create_app(catalog), raise_server_exceptions=False) as client:
        yield client


def other(tmp_path: Path, **options: Any) -> Loaded:
    folder = tmp_path / "other"
    folder.mkdir()
    return version(parrot(folder, **options), 3)


def broken(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step of the model fail."""

    def fails(*_: object) -> None:
        raise RuntimeError("a broken model")

    monkeypatch.setitem(vars(loaded.model.family), "advance", fails)


def asked(client: TestClient, headers: dict[str, str] | None = None, **body: Any) -> str:
    """The version that answers."""
    answer = client.post(COMPLETE, json={"model": "tales", "prompt": "hi", **body}, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-genloom-version"])


def settled(trial: Trial) -> None:
    """Wait until the shadow has been asked and has answered."""
    until(lambda: not (trial._mirroring and not trial._mirroring.done()) and not trial.loaded.engine.busy)


def test_a_share_is_answered_by_the_canary_and_each_keeps_its_side(
    catalog: Catalog, client: TestClient, tmp_path: Path
) -> None:
    canary = begun(catalog, "canary", other(tmp_path), share=0.3)
    names = [f"user-{number}" for number in range(16)]
    first = {name: asked(client, user=name) for name in names}
    assert set(first.values()) == {"2", "3"}
    assert first == {name: asked(client, user=name) for name in names}
    assert first == {name: asked(client, safety_identifier=name) for name in names}, (
        "whatever its field is called"
    )
    sessions = {name: asked(client, {"x-genloom-session": name}) for name in names}
    assert sessions == {name: asked(client, {"x-genloom-session": name}) for name in names}
    assert set(sessions.values()) == {"2", "3"}
    assert {asked(client) for _ in range(40)} == {"2", "3"}, "who does not say is drawn anew"
    assert (canary.ours.failed, canary.theirs.failed) == (0, 0)
    assert canary.ours.answered + canary.theirs.answered == 120


def test_a_shadow_that_ends_while_the_champion_answers_costs_nobody_an_answer(
    catalog: Catalog, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = begun(catalog, "shadow", other(tmp_path), share=1.0)
    champion = catalog.loaded["tales"]
    order = champion.model.modality.order

    def ends(*arguments: Any) -> Any:
        trial.close()
        return order(*arguments)

    monkeypatch.setitem(vars(champion.model.modality), "order", ends)
    assert asked(client) == "2"


def test_shares_are_fair_and_of_each_canary_anew(catalog: Catalog, tmp_path: Path) -> None:
    loaded = other(tmp_path)
    taken = {}
    for share, turn in ((0.3, "a" * 64), (0.3, "b" * 64), (0.0001, "a" * 64), (1.0, "a" * 64)):
        trial = begun(catalog, "canary", loaded, share, turn)
        taken[share, turn[0]] = {number for number in range(5000) if trial.takes(f"name {number}")}
        trial.close()
    first, second = taken[0.3, "a"], taken[0.3, "b"]
    assert 1370 <= len(first) <= 1630, "30% of 5000, to four deviations"
    assert 370 <= len(first & second) <= 530, "9% of 5000: the two know nothing of each other"
    assert len(taken[0.0001, "a"]) < 10
    assert len(taken[1.0, "a"]) == 5000


def test_a_key_keeps_its_side(catalog: Catalog, tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "keys.json")
    secrets = [ring.create(f"app-{number}")[1] for number in range(12)]
    begun(catalog, "canary", other(tmp_path))
    with TestClient(create_app(catalog, Access(ring, required=True))) as client:

        def sides() -> list[str]:
            return [asked(client, {"authorization": f"Bearer {secret}"}) for secret in secrets]

        found = sides()
        assert set(found) == {"2", "3"}
        assert sides() == found


def test_a_request_may_name_its_side(catalog: Catalog, client: TestClient, tmp_path: Path) -> None:
    assert asked(client, model="tales@champion") == "2"
    answer = client.post(COMPLETE, json={"model": "tales@canary"})
    assert answer.status_code == 404
    assert (
        "The model “tales” has no “canary” that answers; there is tales/2"
        in answer.json()["error"]["message"]
    )
    begun(catalog, "canary", other(tmp_path))
    for name, number in (("champion", "2"), ("2", "2"), ("canary", "3"), ("3", "3")):
        assert {asked(client, model=f"tales@{name}") for _ in range(6)} == {number}
    answer = client.post(COMPLETE, json={"model": "tales@4"})
    assert answer.status_code == 404
    assert "there is tales/2 and tales/3" in answer.json()["error"]["message"]


def test_a_canary_is_told(catalog: Catalog, client: TestClient, tmp_path: Path) -> None:
    told = {model["id"]: model["canary"] for model in client.get("/v1/models").json()["data"]}
    assert told == {"tales": None, "animals": None}
    begun(catalog, "canary", other(tmp_path), share=1.0)
    asked(client)
    told = {model["id"]: model["canary"] for model in client.get("/v1/models").json()["data"]}
    assert told == {"tales": {"version": 3, "share": 1.0}, "animals": None}
    assert client.get("/health").json()["models"][0]["canary"] == {"version": 3, "share": 1.0}
    lines = client.get("/metrics").text.splitlines()
    assert 'genloom_trial_answered_total{model="tales",trial="canary",version="3"} 1.0' in lines
    assert 'genloom_trial_answered_total{model="tales",trial="canary",version="2"} 0.0' in lines
    for number in (2, 3):
        assert f'genloom_engine_width{{model="tales",version="{number}"}} 4.0' in lines
    assert f'genloom_requests_total{{model="tales",route="{COMPLETE}",status="200",version="3"}} 1.0' in lines


def test_what_a_canary_fails_the_champion_answers(
    catalog: Catalog, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = begun(catalog, "canary", other(tmp_path), share=1.0)
    broken(canary.loaded, monkeypatch)
    assert asked(client) == "2"
    assert texts(stream(client, COMPLETE, prompt="hi", max_tokens=4)) == ["hihi"]
    assert (canary.ours.failed, canary.ours.answered, canary.theirs.answered) == (2, 0, 2)
    for _ in range(5):
        assert asked(client) == "2"
    assert canary.loaded.engine.sick
    assert canary.ours.failed == 3, "a sick one is not asked any more"


def test_what_only_the_canary_refuses_is_its_fault(
    catalog: Catalog, client: TestClient, tmp_path: Path
) -> None:
    canary = begun(catalog, "canary", other(tmp_path, chat=False), share=1.0)
    answer = client.post(CHAT, json={"model": "tales", "messages": HI, "max_tokens": 2})
    assert (answer.status_code, answer.headers["x-genloom-version"]) == (200, "2")
    assert canary.ours.failed == 1
    assert client.post(COMPLETE, json={"model": "tales", "prompt": "x" * 200}).status_code == 400
    assert canary.ours.failed == 1, "what both refuse is the client's"


@pytest.mark.long
def test_a_canary_that_stands_still_holds_nobody_up(
    catalog: Catalog, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = begun(catalog, "canary", other(tmp_path, pause=3.0), share=1.0)
    monkeypatch.setattr(sides, "PAUSE", 0.05)
    monkeypatch.setattr(trials, "STUCK", -1.0)
    canary.look(every=1e9)
    assert canary.stuck
    assert asked(client, max_tokens=2) == "2"


def test_a_shadow_is_never_seen(catalog: Catalog, client: TestClient, tmp_path: Path) -> None:
    before = [client.post(COMPLETE, json={"model": "tales", "prompt": "hi", "seed": 3}).json()["choices"]]
    shadow = begun(catalog, "shadow", other(tmp_path, chat=False), share=1.0)
    for number in range(10):
        assert asked(client, user=f"user-{number}") == "2"
        settled(shadow)
    answer = client.post(COMPLETE, json={"model": "tales", "prompt": "hi", "seed": 3})
    assert [answer.json()["choices"]] == before
    settled(shadow)
    assert texts(stream(client, COMPLETE, prompt="hi", max_tokens=4)) == ["hihi"]
    settled(shadow)
    assert (shadow.ours.answered, shadow.ours.failed, shadow.theirs.answered) == (12, 0, 12)
    answer = client.post(CHAT, json={"model": "tales", "messages": HI, "max_tokens": 2})
    assert answer.headers["x-genloom-version"] == "2"
    settled(shadow)
    assert shadow.ours.failed == 1, "it has no chat template"
    assert [model["canary"] for model in client.get("/v1/models").json()["data"]] == [None, None]
    assert client.post(COMPLETE, json={"model": "tales@3"}).status_code == 404
    assert (
        'genloom_trial_answered_total{model="tales",trial="shadow",version="3"} 12.0'
        in client.get("/metrics").text
    )


def test_a_shadow_that_is_busy_is_not_asked(catalog: Catalog, client: TestClient, tmp_path: Path) -> None:
    shadow = begun(catalog, "shadow", other(tmp_path, pause=0.5), share=1.0)
    for _ in range(6):
        assert asked(client) == "2"
    assert shadow.ours.dropped >= 4
    assert shadow.theirs.answered == 6


def test_a_shadow_that_fails_harms_nobody(
    catalog: Catalog, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow = begun(catalog, "shadow", other(tmp_path), share=1.0)
    broken(shadow.loaded, monkeypatch)
    for number in range(4):
        assert asked(client, user=f"user-{number}") == "2"
        settled(shadow)
    assert (shadow.ours.answered, shadow.ours.failed) == (0, 4)


def test_pictures_and_their_streams_go_to_the_canary_too(
    catalog: Catalog, client: TestClient, tmp_path: Path
) -> None:
    folder = tmp_path / "next"
    folder.mkdir()
    painter = version(served(folder, "animals", Painter(), Shape(data=(1, 8, 8), classes=2)), 3)
    canary = begun(catalog, "canary", painter, share=1.0)
    answer = client.post(DRAW, json={"model": "animals", "label": "cat"})
    assert (answer.status_code, answer.headers["x-genloom-version"]) == (200, "3")
    answer = client.post(DRAW, json={"model": "animals", "label": "dog", "stream": True})
    assert answer.headers["x-genloom-version"] == "3"
    answer = client.post(DRAW, json={"model": "animals", "label": "owl"})
    assert (answer.status_code, answer.headers["x-genloom-version"]) == (200, "2")
    assert (canary.ours.answered, canary.ours.failed) == (2, 1), "it does not know an owl"


def test_probes_compare_the_same_seeds(catalog: Catalog, tmp_path: Path) -> None:
    canary = begun(catalog, "canary", other(tmp_path))
    for _ in range(3):
        canary._probe()
    assert (canary.ours.probes, canary.theirs.probes, canary.ours.broken) == (3, 3, 0)
    assert canary.ours.variety == canary.theirs.variety, "the two are the same model"
    assert canary.ours.variety.count == 24
    assert canary.ours.requests == 0, "a probe is no request"


def test_what_the_filter_withholds_is_no_failure_of_the_canary(
    catalog: Catalog, client: TestClient, tmp_path: Path
) -> None:
    """Its client is told so as the champion's would be."""
    code = tmp_path / "own.py"
    code.write_text("def refuse(content, media_type):\n    return 'all of it'\n")
    terms = Terms(code=code)
    folder = tmp_path / "canary"
    folder.mkdir()
    loaded = version(served(folder, "animals", Painter(), Shape(data=(1, 8, 8), classes=3)), 3)
    strict = dataclasses.replace(loaded, filter=ContentFilter(terms))
    canary = begun(catalog, "canary", strict, share=0.5)
    answer = client.post(DRAW, json={"model": "animals@canary"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_policy_violation")
    assert canary.theirs.failed == 0

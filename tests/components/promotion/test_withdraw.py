"""Versions that nobody may use any more: by every door, whatever was half done, and back again."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.artifact import WEIGHTS, read_manifest, save
from components.errors import UserError, WithdrawnError
from components.families.family import Shape, kind_of
from components.labels import reading
from components.labels.statement import Statement
from components.project import ProductRow
from components.promotion import ledger, mirror, revocation
from components.promotion.canary import Criteria
from components.promotion.lineage import descendants, lineage, trained_on
from components.promotion.mirror import KEPT
from components.promotion.parcel import pack, unpack
from components.promotion.promote import champion, promote, rollback, verify
from components.promotion.registry import Registry
from components.promotion.trials import start
from components.promotion.version import Version
from components.promotion.withdraw import approve, restore, withdraw
from components.settings import Settings
from components.train.runs import RunRecord, write_run

ROW = ProductRow(dataset="digits")
WHY = "it repeats a face"


@pytest.fixture
def three(settings: Settings, register) -> list[Version]:
    """Three versions, each better than the one before; the second was started from the first. All were champion."""
    found = []
    for seed, init in ((1, None), (2, "digits/1"), (3, None)):
        found.append(register(seed, distance=10.0 - seed, init=init))
        promote(settings, "digits", ROW)
    return found


def aliases(settings: Settings) -> dict[str, str]:
    found = Registry(settings).client.get_registered_model("digits").aliases
    return {name: str(number) for name, number in found.items()}


def tag(settings: Settings, number: int) -> str | None:
    tags = Registry(settings).client.get_model_version("digits", str(number)).tags
    value = tags.get("genloom.withdrawn")
    return None if value is None else str(value)


def events(settings: Settings) -> list[tuple[str, int]]:
    return [(line.event, line.version) for line in ledger.read(ledger.path_of(settings, "digits"))]


def test_a_withdrawn_champion_gives_way_and_no_door_lets_it_back(settings: Settings, three) -> None:
    registry = Registry(settings)
    rollback(settings, "digits")  # to the second; the third is no good champion any more
    done = withdraw(settings, three[1], WHY)
    assert (done.changed, done.before, done.champion) == (True, 2, 1)
    assert aliases(settings) == {"champion": "1", "challenger": "3"}
    assert tag(settings, 2) == WHY
    assert revocation.status_of(settings, "digits", 2).state == "withdrawn"
    assert revocation.status_of(settings, "digits", 2).why == WHY
    assert revocation.status_of(settings, "digits", 1).state == "champion"
    assert registry.version("digits", 2).withdrawn == WHY
    assert reading.standing_of(settings, Statement("digits", 2, three[1].digest)) == "withdrawn"
    assert reading.standing_of(settings, Statement("digits", 1, three[0].digest)) == "champion"
    for forced in (False, True):
        refused = promote(settings, "digits", ROW, which=2, force=forced)
        assert not refused.accepted
        assert WHY in refused.reasons[0]
        assert not start(settings, "digits", ROW, "canary", Criteria(), which=2, force=forced).accepted
    for use in (
        lambda: rollback(settings, "digits", to=2),
        lambda: start(settings, "digits", ROW, "shadow", Criteria(), which=2),
        lambda: registry.fetch(three[1]),
        lambda: registry.usable("digits", 2),
        lambda: approve(settings, three[1], "bo"),
    ):
        with pytest.raises(WithdrawnError, match=WHY):
            use()
    assert champion(settings, "digits").number == 1
    assert verify(settings, "digits") == len(events(settings))


def test_doing_it_again_changes_nothing_and_lifting_it_brings_nothing_back_by_itself(
    settings: Settings, three
) -> None:
    withdraw(settings, three[2], WHY)
    count = len(events(settings))
    again = withdraw(settings, three[2], "another reason")
    assert (again.changed, again.why, len(events(settings))) == (False, WHY, count)
    assert aliases(settings) == {"champion": "2", "challenger": "2"}
    lifted = restore(settings, three[2], "the face was nobody's")
    assert (lifted.changed, lifted.champion) == (True, 2)
    assert not restore(settings, three[2], "again").changed
    assert tag(settings, 3) is None
    assert aliases(settings) == {"champion": "2", "challenger": "3"}
    assert rollback(settings, "digits", to=3).version == 3
    assert Registry(settings).fetch(three[2]).is_dir()
    assert events(settings)[3:] == [("revoke", 3), ("restore", 3), ("rollback", 3)]


def test_without_a_champion_the_product_says_why(settings: Settings, register) -> None:
    only = register(1)
    promote(settings, "digits", ROW)
    done = withdraw(settings, only, WHY)
    assert (done.before, done.champion) == (1, None)
    assert aliases(settings) == {}
    registry = Registry(settings)
    for name in ("digits", "digits@champion"):
        with pytest.raises(WithdrawnError, match=f"has no champion: digits/1 was withdrawn on .*{WHY}"):
            registry.named(name)
    with pytest.raises(UserError, match="no challenger"):
        registry.named("digits@challenger")
    with pytest.raises(UserError, match="nothing to roll back"):
        rollback(settings, "digits")
    restore(settings, only, "a mistake")
    back = rollback(settings, "digits", to=1)
    assert (back.version, back.previous) == (1, None)


def test_a_withdrawal_that_was_killed_is_finished_by_the_next_command(
    settings: Settings, three, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mirror, "mark", killed)
        with pytest.raises(KeyboardInterrupt):
            withdraw(settings, three[2], WHY)
    assert tag(settings, 3) is None
    assert revocation.status_of(settings, "digits", 3).state == "withdrawn", "it holds from the first moment"
    assert champion(settings, "digits").number == 2
    assert tag(settings, 3) == WHY
    assert aliases(settings) == {"champion": "2", "challenger": "2"}
    assert not withdraw(settings, three[2], WHY).changed


def test_a_trial_of_it_ends_and_one_of_another_version_goes_on(settings: Settings, three) -> None:
    rollback(settings, "digits")
    start(settings, "digits", ROW, "shadow", Criteria(), which=3)
    withdraw(settings, three[0], WHY)
    trial = revocation.standing_of(settings, "digits").trial
    assert trial is not None
    assert revocation.status_of(settings, "digits", 3).state == "shadow"
    withdraw(settings, three[2], WHY)
    assert revocation.standing_of(settings, "digits").trial is None


def test_what_was_made_from_it_and_what_was_trained_on_its_data(settings: Settings, three, register) -> None:
    registry = Registry(settings)
    grandchild = register(4, init="digits/2", revision="r2")
    assert [one.name for one in descendants(registry, [three[0]])] == ["digits/2", "digits/4"]
    assert lineage(settings, three[0]).descendants == ("digits/2", "digits/4")
    assert lineage(settings, grandchild).ancestors == ("digits/2", "digits/1")
    assert [one.number for one in trained_on(registry, "digits")] == [1, 2, 3, 4]
    assert [one.number for one in trained_on(registry, "digits", "r2")] == [4]
    assert trained_on(registry, "faces") == []


def test_what_was_imported_was_made_from_nothing_here(settings: Settings, three, make) -> None:
    """Its settings name versions of the project it comes from, whose numbers others have here."""
    artifact, evaluation = make(5, init="digits/1")
    imported = Registry(settings).register(
        artifact, evaluation, "import-5", "", origin={"version": "digits/9"}
    )
    assert imported not in descendants(Registry(settings), [three[0]])
    assert lineage(settings, imported).ancestors == ("digits/1",), "told, and not looked for"
    withdraw(settings, three[0], WHY, purge=True)
    assert not any("was made from" in one for one in promote(settings, "digits", ROW, which=4).reasons)


def test_a_withdrawn_version_is_not_imported_again(settings: Settings, three, tmp_path: Path) -> None:
    folder = pack(settings, three[0], tmp_path / "parcel")
    withdraw(settings, three[0], WHY, purge=True)
    with pytest.raises(WithdrawnError, match="digits/1 was withdrawn on"):
        unpack(settings, folder, lambda *_: pytest.fail("nothing is measured"))
    assert not Registry(settings).copy_of(three[0]).exists()
    left = {path.name for path in Registry(settings).pictures(three[0]).rglob("*") if path.is_file()}
    assert left <= KEPT


def test_what_was_made_from_it_becomes_champion_only_by_force(settings: Settings, three) -> None:
    rollback(settings, "digits", to=1)
    withdraw(settings, three[0], WHY)
    refused = promote(settings, "digits", ROW, which=2)
    assert not refused.accepted
    assert any(
        "digits/2 was made from digits/1, and digits/1 was withdrawn" in one for one in refused.reasons
    )
    assert promote(settings, "digits", ROW, which=2, force=True, why="I know").accepted


def test_data_that_was_withdrawn_makes_no_champion_by_itself(settings: Settings, three, register) -> None:
    withdraw(settings, three[0], WHY, data="digits@r1")
    with pytest.raises(WithdrawnError, match="may not be used: digits/1 was withdrawn"):
        revocation.check_data(settings, "digits", "r1")
    revocation.check_data(settings, "digits", "r2")
    register(5, distance=1.0)
    refused = promote(settings, "digits", ROW)
    assert not refused.accepted
    assert "trained on digits at revision r1" in refused.reasons[0]
    restore(settings, three[0], "the rows were cleared")
    revocation.check_data(settings, "digits", "r1")
    withdraw(settings, three[2], WHY)
    assert not withdraw(settings, three[2], "a wrong licence", data="digits@r1").changed
    with pytest.raises(WithdrawnError, match="a wrong licence"):
        revocation.check_data(settings, "digits", "r1")
    restore(settings, three[2], "it was right")
    revocation.check_data(settings, "digits", "r1")
    assert promote(settings, "digits", ROW).accepted


def test_data_are_lifted_though_the_weights_of_a_version_were_purged(settings: Settings, three) -> None:
    withdraw(settings, three[0], "not ours", data="digits@r1")
    withdraw(settings, three[1], "not ours", data="digits@r1", purge=True)
    restore(settings, three[0], "they are", by_data=True)
    with pytest.raises(WithdrawnError, match="may not be used: digits/2 was withdrawn"):
        revocation.check_data(settings, "digits", "r1")
    done = restore(settings, three[1], "they are", by_data=True)
    assert (done.changed, done.gone) == (True, True)
    revocation.check_data(settings, "digits", "r1")
    assert revocation.status_of(settings, "digits", 2).state == "withdrawn"
    assert tag(settings, 2) == "not ours"
    assert not restore(settings, three[1], "they are", by_data=True).changed
    withdraw(settings, three[1], "not ours after all", data="digits@r1")
    with pytest.raises(WithdrawnError, match="not ours after all"):
        revocation.check_data(settings, "digits", "r1")


def test_a_reason_is_a_part_of_a_sentence(settings: Settings, three) -> None:
    assert withdraw(settings, three[0], " a\n photograph. ").why == "a photograph"
    assert restore(settings, three[0], "nobody's\nphotograph.").why == "nobody's photograph"
    assert [line.why for line in ledger.read(ledger.path_of(settings, "digits"))[3:]] == [
        "a photograph",
        "nobody's photograph",
    ]
    with pytest.raises(UserError, match="say why"):
        restore(settings, three[0], " . ")


def test_the_same_weights_or_the_same_training_do_not_return(
    settings: Settings, three, make, tmp_path: Path
) -> None:
    withdraw(settings, three[2], WHY)
    artifact, evaluation = make(3)
    registry = Registry(settings)
    assert registry.register(artifact, evaluation, "again", "").withdrawn == WHY, "it stays the same version"
    model = kind_of("vae")(latent=2, width=8)
    about = {**read_manifest(artifact)["about"], "commit": "another"}
    from components.artifact import About, load

    other = tmp_path / "other"
    save(other, model, load(artifact).networks, Shape(data=(1, 4, 4)), About(**about))
    assert read_manifest(other)["files"][WEIGHTS] == read_manifest(artifact)["files"][WEIGHTS]
    with pytest.raises(WithdrawnError, match="These weights may not become a version"):
        registry.register(other, evaluation, "other", "")
    fresh, better = make(6, distance=1.0)
    about = {**read_manifest(fresh)["about"], "key": "key-3"}
    twin = tmp_path / "twin"
    save(twin, model, load(fresh).networks, Shape(data=(1, 4, 4)), About(**about))
    registry.register(twin, better, "twin", "")
    refused = promote(settings, "digits", ROW)
    assert not refused.accepted
    assert any("trained just as digits/3 was" in reason for reason in refused.reasons)
    assert registry.find("digits", "key-3").number == 4, "the one that may be used comes first"


def test_purged_weights_are_gone_and_the_figures_stay(settings: Settings, three) -> None:
    registry = Registry(settings)
    folder, run = registry.fetch(three[1]), settings.runs / "digits-vae-again"
    about = (
        "digits-vae-again",
        "digits-vae",
        "digits",
        "vae",
        three[1].key,
        {},
        "digits",
        "r1",
        "2026-11-27",
    )
    write_run(RunRecord(*about, workers=0, steps=1, pid=0, state="done", folder=run))
    (run / "artifact").mkdir(parents=True)
    (run / "artifact" / WEIGHTS).write_bytes(b"weights")
    withdraw(settings, three[1], WHY)
    stored = list((settings.home / "mlartifacts").rglob(WEIGHTS))
    withdraw(settings, three[1], WHY, purge=True)
    assert len(list((settings.home / "mlartifacts").rglob(WEIGHTS))) == len(stored) - 1
    assert not folder.exists()
    assert not (run / "artifact").exists()
    assert registry.report(three[1]).metrics["distance"].value == 8.0
    assert registry.version("digits", 2).digest == three[1].digest
    assert lineage(settings, registry.version("digits", 2)).ancestors == ("digits/1",)
    assert not list(registry.pictures(three[1]).glob("*.png"))
    with pytest.raises(UserError, match="were purged"):
        restore(settings, three[1], "please")
    for use in (
        lambda: revocation.check(settings, "digits", 2),
        lambda: revocation.check_digest(settings, "digits", three[1].digest),
        lambda: rollback(settings, "digits", 2),
    ):
        with pytest.raises(WithdrawnError, match="its weights were purged, so use another version") as said:
            use()
        assert "models restore" not in str(said.value), "nobody is sent where he is refused"
    withdraw(settings, three[1], WHY, purge=True)
    assert events(settings)[3:] == [("revoke", 2), ("purge", 2)]


def test_a_product_may_ask_for_a_second_pair_of_eyes(
    settings: Settings, register, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ProductRow(dataset="digits", approval="required")
    version = register(1)
    for forced in (False, True):
        refused = promote(settings, "digits", row, force=forced, why="now")
        assert not refused.accepted
        assert "needs an approval, and digits/1 has none" in refused.reasons[0]
    assert approve(settings, version, ledger.who())
    assert "may not promote it as well" in promote(settings, "digits", row).reasons[0]
    assert approve(settings, version, "bo")
    assert not approve(settings, version, "bo")
    assert Registry(settings).version("digits", 1).approved == "bo"
    assert promote(settings, "digits", row).accepted
    withdraw(settings, version, WHY)
    restore(settings, version, "it was nothing")
    assert Registry(settings).version("digits", 1).approved is None, "what was withdrawn is looked at again"
    with pytest.raises(UserError, match="--by NAME"):
        approve(settings, version, " ")
    with pytest.raises(UserError, match="say why"):
        withdraw(settings, version, " ")


def test_a_ledger_of_before_is_read_as_it_was(settings: Settings, three) -> None:
    text = ledger.path_of(settings, "digits").read_text()
    assert not any(f'"{name}":' in text for name in ("terms", "data", "by")), "old lines keep their hashes"

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.errors import FailedError, UserError
from components.project import Guard, ProductRow
from components.promotion import ledger
from components.promotion.promote import champion, promote, rollback, verify
from components.promotion.registry import Registry
from components.settings import Settings

ROW = ProductRow(dataset="digits")


def lines(settings: Settings) -> list[ledger.Line]:
    return ledger.read(ledger.path_of(settings, "digits"))


def events(settings: Settings) -> list[tuple[str, int, int | None]]:
    return [(line.event, line.version, line.champion) for line in lines(settings)]


def alias(settings: Settings) -> str | None:
    found = Registry(settings).client.get_registered_model("digits").aliases.get("champion")
    return None if found is None else str(found)


def test_the_better_version_becomes_champion_and_the_worse_is_refused(settings: Settings, register) -> None:
    assert champion(settings, "digits") is None
    register(1, distance=10.0)
    first = promote(settings, "digits", ROW, why="the first", flow_run="flow-1")
    assert (first.accepted, first.version, first.previous) == (True, 1, None)
    register(2, distance=12.0)
    worse = promote(settings, "digits", ROW)
    assert (worse.accepted, worse.version, worse.previous) == (False, 2, 1)
    assert "2 worse" in worse.reasons[0]
    assert alias(settings) == "1"
    register(3, distance=7.0)
    assert promote(settings, "digits", ROW).accepted
    found = champion(settings, "digits")
    assert found is not None
    assert (found.number, alias(settings)) == (3, "3")
    assert set(found.aliases) == {"champion", "challenger"}
    assert events(settings) == [("promote", 1, None), ("refuse", 2, 1), ("promote", 3, 1)]
    head = lines(settings)[0]
    assert (head.why, head.flow_run, head.who) == ("the first", "flow-1", ledger.who())
    assert head.reasons == first.reasons
    assert verify(settings, "digits") == 3


def test_a_promotion_is_safe_to_repeat(settings: Settings, register) -> None:
    register(1)
    promote(settings, "digits", ROW)
    again = promote(settings, "digits", ROW)
    assert not again.accepted
    assert again.reasons == ("digits/1 is already champion.",)
    register(2, distance=12.0)
    assert not promote(settings, "digits", ROW).accepted
    assert not promote(settings, "digits", ROW).accepted
    assert events(settings) == [("promote", 1, None), ("refuse", 2, 1)]


def test_force_overrules_the_gate_and_the_ledger_says_so(settings: Settings, register) -> None:
    register(1, distance=10.0)
    promote(settings, "digits", ROW)
    register(2, distance=12.0)
    forced = promote(settings, "digits", ROW, force=True, why="a bug in the first")
    assert forced.accepted
    last = lines(settings)[-1]
    assert (last.event, last.why) == ("promote", "a bug in the first")
    assert "2 worse" in last.reasons[0]
    assert "--force" in last.reasons[-1]


def test_a_guard_keeps_the_first_version_out(settings: Settings, register) -> None:
    register(1)
    row = ProductRow(dataset="digits", guards={"precision": Guard(least=0.95)})
    assert not promote(settings, "digits", row).accepted
    assert champion(settings, "digits") is None
    assert events(settings) == [("refuse", 1, None)]


def test_a_champion_on_older_data_is_evaluated_again_before_it_is_compared(
    settings: Settings, make, register
) -> None:
    first = register(1, distance=10.0)
    promote(settings, "digits", ROW)
    register(2, distance=9.0, revision="r2")
    refused = promote(settings, "digits", ROW)
    assert not refused.accepted
    assert "evaluate the champion again" in refused.reasons[0]
    Registry(settings).evaluated(first, make(1, distance=11.0, revision="r2")[1])
    assert promote(settings, "digits", ROW).accepted


def test_rollback_returns_to_the_champion_before_and_the_gate_keeps_what_it_left(
    settings: Settings, register
) -> None:
    for seed, distance in ((1, 10.0), (2, 9.0), (3, 8.0)):
        register(seed, distance)
        promote(settings, "digits", ROW)
    back = rollback(settings, "digits", why="it draws threes only")
    assert (back.accepted, back.version, back.previous, alias(settings)) == (True, 2, 3, "2")
    returned = promote(settings, "digits", ROW, which=3)
    assert not returned.accepted
    assert "left by a rollback (it draws threes only)" in returned.reasons[0]
    assert rollback(settings, "digits").version == 1
    assert rollback(settings, "digits", to=3).version == 3
    repeated = rollback(settings, "digits", to=3)
    assert (repeated.accepted, repeated.previous) == (True, 3)
    assert [event for event, _, _ in events(settings)] == ["promote"] * 3 + [
        "rollback",
        "refuse",
        "rollback",
        "rollback",
    ]
    assert verify(settings, "digits") == 7


def test_rollback_says_why_it_cannot(settings: Settings, register) -> None:
    register(1, 10.0)
    with pytest.raises(UserError, match="no champion yet"):
        rollback(settings, "digits")
    promote(settings, "digits", ROW)
    register(2, 12.0)
    with pytest.raises(UserError, match="no champion before it"):
        rollback(settings, "digits")
    with pytest.raises(UserError, match=r"digits/2 was never champion \(these were: 1\)"):
        rollback(settings, "digits", to=2)


def test_what_cannot_be_fetched_whole_does_not_become_champion(settings: Settings, register) -> None:
    register(1)
    [weights] = (settings.home / "mlartifacts").rglob("networks.safetensors")
    weights.write_bytes(b"not the weights")
    with pytest.raises(UserError, match="cannot be used"):
        promote(settings, "digits", ROW)
    assert events(settings) == []


def test_an_alias_that_someone_moved_is_moved_back(settings: Settings, register) -> None:
    register(1)
    promote(settings, "digits", ROW)
    register(2, 12.0)
    client = Registry(settings).client
    client.set_registered_model_alias("digits", "champion", "2")
    assert Registry(settings).version("digits", "champion").number == 1
    found = champion(settings, "digits")
    assert found is not None
    assert (found.number, alias(settings)) == (1, "1")


def test_lines_cut_from_the_end_of_the_ledger_are_noticed(settings: Settings, register) -> None:
    register(1)
    promote(settings, "digits", ROW)
    register(2, 9.0)
    promote(settings, "digits", ROW)
    path = ledger.path_of(settings, "digits")
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert ledger.verify(path) == 1
    for act in (
        lambda: verify(settings, "digits"),
        lambda: promote(settings, "digits", ROW, which=2),
        lambda: rollback(settings, "digits"),
    ):
        with pytest.raises(FailedError, match="lines were removed"):
            act()


def test_a_registry_of_another_history_is_noticed(
    settings: Settings, empty_store: Path, make, register
) -> None:
    register(1)
    promote(settings, "digits", ROW)
    shutil.copy(empty_store, settings.home / "other.db")
    other = Settings(home=settings.home, tracking_uri=f"sqlite:///{settings.home / 'other.db'}")
    registry = Registry(other)
    for act in (
        lambda: registry.find("digits", "any"),
        lambda: registry.register(*make(2), "digits-vae-2", ""),
        lambda: registry.version("digits", "champion"),
        lambda: champion(other, "digits"),
        lambda: promote(other, "digits", ROW),
    ):
        with pytest.raises(FailedError, match=r"champion digits/1 .* is not in the registry"):
            act()
    assert registry.products() == []


PROMOTE = """
import os, signal, sys, time
from pathlib import Path
from components.project import ProductRow
from components.promotion import promote as module
from components.promotion.registry import Registry
from components.settings import Settings
settings = Settings(home=Path(sys.argv[1]))
true_append = module.ledger.append
def append(path, entry):
    if sys.argv[3] == "slowly":
        time.sleep(1)
    line = true_append(path, entry)
    if sys.argv[3] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return line
module.ledger.append = append
print("ready", flush=True)
input()
decision = module.promote(settings, "digits", ProductRow(dataset="digits"), sys.argv[2])
print(decision.accepted, decision.version, decision.previous)
"""


def at_once(settings: Settings, *requests: tuple[int, str]) -> list[tuple[int, list[str]]]:
    """Promote versions, each by a process of its own, all let go together; exit codes and last words."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTE, str(settings.home), str(version), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for version, how in requests
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120)[0].split() for process in started]
    return [(process.returncode, words) for process, words in zip(started, said, strict=True)]


def test_a_crash_between_ledger_and_alias_is_mended_by_the_next_call(settings: Settings, register) -> None:
    register(1, 10.0)
    promote(settings, "digits", ROW)
    register(2, 9.0)
    assert at_once(settings, (2, "die")) == [(-9, [])]
    assert events(settings)[-1] == ("promote", 2, 1)
    assert alias(settings) == "1"
    assert Registry(settings).version("digits", "champion").number == 2
    again = promote(settings, "digits", ROW, which=2)
    assert again.reasons == ("digits/2 is already champion.",)
    assert alias(settings) == "2"
    assert verify(settings, "digits") == 2


def test_two_promotions_at_once_come_one_after_the_other(
    settings: Settings, register, tmp_path: Path
) -> None:
    register(1, 10.0)
    promote(settings, "digits", ROW)
    register(2, 9.0)
    register(3, 8.0)
    said = [words for _, words in at_once(settings, (2, "slowly"), (3, "slowly"))]
    two_first = said == [["True", "2", "1"], ["True", "3", "2"]]
    three_first = said == [["False", "2", "3"], ["True", "3", "1"]]
    assert two_first or three_first
    order = [("promote", 2, 1), ("promote", 3, 2)] if two_first else [("promote", 3, 1), ("refuse", 2, 3)]
    assert events(settings)[1:] == order
    assert alias(settings) == "3"
    assert verify(settings, "digits") == 3

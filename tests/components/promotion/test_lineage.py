from components.project import ProductRow
from components.promotion.lineage import lineage
from components.promotion.promote import promote
from components.promotion.registry import Registry
from components.settings import Settings


def test_a_lineage_names_parents_evaluation_and_decisions(settings: Settings, register) -> None:
    row = ProductRow(dataset="digits")
    register(1, 10.0)
    promote(settings, "digits", row)
    register(2, 9.0, init="digits/1")
    promote(settings, "digits", row)
    register(3, 12.0, init="digits/2")
    found = lineage(settings, Registry(settings).named("digits/3"))
    assert found.ancestors == ("digits/2", "digits/1")
    assert (found.version.commit, found.version.dirty, found.version.flow_run) == ("0123abcd", True, "flow-7")
    assert found.metrics["distance"].value == 12.0
    assert found.events == ()
    events = lineage(settings, Registry(settings).named("digits/1")).events
    assert [(line.event, line.version) for line in events] == [("promote", 1), ("promote", 2)]

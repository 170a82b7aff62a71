"""Every attack that the demo shows, on a world of their own; each is built to leave it usable for the next."""

from collections.abc import Iterator

import pytest

from demo.drills import GROUPS, Drill
from demo.world import World, build_world

DRILLS = [drill for group in GROUPS for drill in group.drills]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with build_world(tmp_path_factory.mktemp("demo") / "world") as made:
        yield made


@pytest.mark.parametrize("drill", DRILLS, ids=[drill.name for drill in DRILLS])
def test_gets_what_it_must_get(world: World, drill: Drill) -> None:
    assert drill.attempt(world) == drill.expected


def test_each_has_a_name_of_its_own() -> None:
    assert len({drill.name for drill in DRILLS}) == len(DRILLS) > 30

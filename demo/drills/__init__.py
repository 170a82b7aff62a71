"""The attacks of the demo, by who was stolen. Tests run the same ones."""

from demo.drills import broker, device, outage, outside, worker
from demo.drills.drill import Drill, Group

__all__ = ["GROUPS", "Drill", "Group"]

GROUPS: tuple[Group, ...] = (outside.GROUP, broker.GROUP, worker.GROUP, device.GROUP, outage.GROUP)

"""Scenarios by name, in the order they are run."""

from chaos.scenarios import (
    brokers,
    cancelling,
    changes,
    clocks,
    databases,
    disks,
    dying,
    engines,
    freezing,
    killing,
    leaving,
    points,
    short,
    submitting,
)
from chaos.scenarios.scenario import Scenario

_FAMILIES = (
    *(killing, submitting, dying, points, leaving, freezing),
    *(brokers, databases, disks, engines, cancelling, clocks, changes, short),
)

ALL: tuple[Scenario, ...] = tuple(scenario for family in _FAMILIES for scenario in family.SCENARIOS)

"""Every compressor by name: a plan that uses it alone, and what it is good for.

The contract suite, benchmarks and commands go through this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.compressors.plan import CompressionPlan, make_plan


@dataclass(frozen=True)
class Compressor:
    """One entry."""

    plan: CompressionPlan
    speeds_up: bool
    """Computes faster than floats; False: only storage and wire shrink."""


COMPRESSORS: dict[str, Compressor] = {
    "prune": Compressor(make_plan(steps="prune"), speeds_up=True),
    "prune-taylor": Compressor(make_plan(steps="prune", importance="taylor"), speeds_up=True),
    "lowrank": Compressor(make_plan(steps="lowrank", energy=0.7), speeds_up=True),
    "int8": Compressor(make_plan(steps="quantise"), speeds_up=True),
    "prune-lowrank-int8": Compressor(make_plan(steps="prune,lowrank,quantise", energy=0.8), speeds_up=True),
}

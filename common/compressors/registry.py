"""Every compressor by name: a plan that uses it alone, and what it is good for.

The contract suite, benchmarks and commands go through this table.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedstill.common.compressors.plan import CompressionPlan, make_plan


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
    "int8-packed": Compressor(make_plan(steps="quantise", storage="packed"), speeds_up=True),
    "int4": Compressor(make_plan(steps="quantise", bits=4, storage="packed"), speeds_up=False),
    "int4-qat": Compressor(make_plan(steps="quantise", bits=4, qat=True), speeds_up=False),
    "sparse": Compressor(make_plan(steps="sparsify", sparsity=0.8), speeds_up=False),
    "sparse-int8": Compressor(make_plan(steps="sparsify,quantise", sparsity=0.8), speeds_up=True),
    "2:4-int8": Compressor(make_plan(steps="sparsify,quantise", pattern="2:4"), speeds_up=True),
    "1-bit-qat": Compressor(make_plan(steps="quantise", bits=1, qat=True), speeds_up=True),
    "prune-lowrank-int8": Compressor(make_plan(steps="prune,lowrank,quantise", energy=0.8), speeds_up=True),
}

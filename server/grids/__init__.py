"""Grids of our own: the same apps in one process, on this machine's CPUs or on a Ray cluster."""

from fedstill.server.grids.actor_needs import ActorNeeds
from fedstill.server.grids.local_grid import LocalGrid
from fedstill.server.grids.ray_grid import RayGrid

__all__ = ["ActorNeeds", "LocalGrid", "RayGrid"]

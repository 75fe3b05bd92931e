"""Which student a node trains, in which codec it gets its labels, and with which hyperparameters."""

from fedstill.server.planner.fixed import plan_node, plan_training

__all__ = ["plan_node", "plan_training"]

"""FedStill from Python: what the commands do, with arrays, functions and modules, and records that come back.

The names are those of `fedstill` itself, which imports them from here when they are first asked for.
"""

from fedstill.server.api.entries import compare, compress, plan, simulate
from fedstill.server.api.results import Frames, Run, read_run

__all__ = ["Frames", "Run", "compare", "compress", "plan", "read_run", "simulate"]

"""`teacher`: soft labels go out and nothing comes back; `local`: nothing is exchanged at all.

Reference: Hinton, Vinyals, Dean 2015, arXiv:1503.02531.
"""

from __future__ import annotations

from fedstill.server.schemes.records import Scheme

BUILT_IN = {"teacher": Scheme(has_teacher=True, uses_public=True), "local": Scheme(is_alone=True)}

"""`fedstill compress`: a model and data in, a Pareto front of measured artefacts out."""

from fedstill.server.compress.folder import FRONT_FILE, PICTURE_FILE
from fedstill.server.compress.records import Budget, Front, Row, find_front
from fedstill.server.compress.running import Request, compress_model
from fedstill.server.compress.terminal import print_front

__all__ = [
    "FRONT_FILE",
    "PICTURE_FILE",
    "Budget",
    "Front",
    "Request",
    "Row",
    "compress_model",
    "find_front",
    "print_front",
]

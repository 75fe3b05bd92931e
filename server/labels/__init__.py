"""Labels and samples on the coordinator's side: the store, and the service over its files."""

from server.labels.service import LabelService
from server.labels.store import EncodedLabels, LabelSet, LabelStore

__all__ = ["EncodedLabels", "LabelService", "LabelSet", "LabelStore"]

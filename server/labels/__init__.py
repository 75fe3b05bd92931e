"""Labels and samples on the coordinator's side: the stores, and the service over their files."""

from fedstill.server.labels.array_uploads import UploadedRows, UploadStore
from fedstill.server.labels.service import LabelService
from fedstill.server.labels.store import EncodedLabels, LabelSet, LabelStore

__all__ = ["EncodedLabels", "LabelService", "LabelSet", "LabelStore", "UploadStore", "UploadedRows"]

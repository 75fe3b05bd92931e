"""Labels and samples on a node's side: the cache that fetches them, and uploads."""

from fedstill.clients.labels.cache import FetchedArray, LabelCache
from fedstill.clients.labels.send import UploadedArray, upload_array
from fedstill.clients.labels.transport import Transport
from fedstill.clients.labels.upload import upload_artefact

__all__ = ["FetchedArray", "LabelCache", "Transport", "UploadedArray", "upload_array", "upload_artefact"]

"""Labels and samples on a node's side: the cache that fetches them, and uploads."""

from clients.labels.cache import FetchedArray, LabelCache
from clients.labels.send import UploadedArray, upload_array
from clients.labels.transport import Transport
from clients.labels.upload import upload_artefact

__all__ = ["FetchedArray", "LabelCache", "Transport", "UploadedArray", "upload_array", "upload_artefact"]

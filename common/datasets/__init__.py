"""Data that a user brings: readers, built-in sets, and who holds what."""

from fedstill.common.datasets.builtin import DATASETS, Loader
from fedstill.common.datasets.load import absolute_source, load_dataset, read_samples
from fedstill.common.datasets.records import RAW_TASKS, Dataset, Partition, Samples, Splits
from fedstill.common.datasets.splits import cut_private, split_dataset

__all__ = [
    "DATASETS",
    "RAW_TASKS",
    "Dataset",
    "Loader",
    "Partition",
    "Samples",
    "Splits",
    "absolute_source",
    "cut_private",
    "load_dataset",
    "read_samples",
    "split_dataset",
]

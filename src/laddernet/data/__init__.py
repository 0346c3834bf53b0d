"""Data sets by name, ready for the estimators, and the choice of labelled rows."""

from laddernet.data.datasets import DATASETS, Dataset, DatasetInfo, data_folder, fetch, load, missing_files
from laddernet.data.labels import SparseLabels, choose_labeled, hide_labels, hold_out, labeled_rows

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetInfo",
    "SparseLabels",
    "choose_labeled",
    "data_folder",
    "fetch",
    "hide_labels",
    "hold_out",
    "labeled_rows",
    "load",
    "missing_files",
]

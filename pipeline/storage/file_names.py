"""Names of files and folders that several rooms write or read, in workspaces and in folders of results.

Names used by one room only are defined there, and those of the tables of `results/` next to the code that writes them.
"""

from __future__ import annotations

CONFIG = "config.resolved.yaml"
"""The configuration with every default written out."""
PLANNED_STUDY = "study.yaml"
"""The study that `init` and `adapt` plan."""
PROVENANCE = "provenance.json"
"""Commands, versions, inputs and run times."""
RESULTS = "results"
"""The folder of the tables."""

FILES = "files.json"
"""List of the files that Graft wrote into a folder."""
FILE_DIGESTS = "file-digests.json"
"""Cache of the digests of input files."""
INDEX = "index.html"
"""The start page of a folder."""
PREDICTION, PREDICTION_TABLE = "prediction.json", "predictions.csv"
"""Of a folder of predictions: its model, options and files; and its table, with a row for each structure."""

PLAN_UNIT, PLAN = "study", "study.json"
"""Unit of `check` and its file: split, channels and classes."""
RECORD = "record.json"
"""Of a preprocessed case: what each step did, so that it can be undone."""
QUALITY, QUALITY_PICTURE = "qc.json", "qc.png"
"""Of a preprocessed case: numbers and picture for quality control."""
SAMPLE = "sample.json"
"""Of a source network: the patients that it was trained on, and the out-of-bag patients."""
BANK = "filters.npy"
"""Of a group of layers: its filters."""
STRUCTURES, STRUCTURE = "measure-filters", "structure.json"
"""Folder of the workspace, and file of a group of layers in it: is there anything to learn from its filters?"""
SUMMARY_JSON = "summary.json"
"""Machine-readable numbers: of a group's filters, and in `results/` of the study."""
HISTORY = "history.csv"
"""Of a training: its steps as a table."""

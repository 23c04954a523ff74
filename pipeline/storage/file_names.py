"""Names of files and folders that more than one room writes or reads, in workspaces and in folders of results.

What one room alone knows is named there; so are the tables of `results/`, beside the code that writes them.
"""

from __future__ import annotations

CONFIG = "config.resolved.yaml"
"""The configuration with every default written out."""
PROVENANCE = "provenance.json"
"""What ran, with which versions, on which inputs, for how long."""
RESULTS = "results"
"""The folder of the tables."""

FILES = "files.json"
"""In a folder that Graft fills and replaces: what it wrote there."""
FILE_DIGESTS = "file-digests.json"
"""Digests of input files, so that they are read once."""
INDEX = "index.html"
"""The page of a folder."""
PREDICTION, PREDICTION_TABLE = "prediction.json", "predictions.csv"
"""Of a folder of predictions: what it is and what Graft wrote beside the cases; one row for each structure."""

PLAN_UNIT, PLAN = "study", "study.json"
"""Unit of `check` and its file: who plays which role, channels and classes."""
RECORD = "record.json"
"""Of a preprocessed case: what every step did, so that it can be undone."""
QUALITY, QUALITY_PICTURE = "qc.json", "qc.png"
"""Of a preprocessed case: numbers and picture to judge it by."""
SAMPLE = "sample.json"
"""Of a source network: the patients that it was trained on, and those left out."""
BANK = "filters.safetensors"
"""Of a group of layers: its filters."""
SUMMARY_JSON = "summary.json"
"""Numbers for machines: of a group's filters, and in `results/` of the study."""
HISTORY = "history.csv"
"""Of a training: its steps as a table."""

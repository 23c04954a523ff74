"""Checks of a dataset before anything is computed from it: each says what is wrong and how to fix it."""

from data.checks.battery import check_case, check_dataset
from data.checks.finding import Finding, Level
from data.checks.report import Presence, Report

__all__ = ["Finding", "Level", "Presence", "Report", "check_case", "check_dataset"]

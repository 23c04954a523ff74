"""Volumes, cases and datasets, their layouts and checks, and the synthetic cohort."""

"""Frozen, typed models of every option of a study, and how they are read from YAML."""

"""Frozen, typed models of all options of a study, and how they are read from YAML."""

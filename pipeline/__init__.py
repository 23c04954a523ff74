"""The stages of a study, from raw scans to the report, and the `graft` command."""

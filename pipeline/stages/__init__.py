"""The stages of a study, one in each file."""

"""Checks of a dataset before anything is computed from it: each says what is wrong and how to fix it."""

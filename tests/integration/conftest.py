"""Tests of whole studies look at tables and models, not at pictures."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_drawn(module_without_drawing: None) -> None:
    """Studies in the process of the tests leave their figures empty."""

"""Steps are timed as they are trained."""

import pytest
from pydantic import TypeAdapter

from models.networks.factory import NetworkOptions
from pipeline.planning.speed import measure_speed
from pipeline.prediction.sliding_window import SlidingWindowOptions
from pipeline.training.patches import PatchOptions


@pytest.mark.parametrize("heads", [0, 1])
def test_a_network_with_heads_on_coarser_levels_is_timed_too(heads: int) -> None:
    raw = {"name": "dynunet", "channels": [4, 6, 8], "deep_supervision": heads}
    network, patches = TypeAdapter(NetworkOptions).validate_python(raw), PatchOptions(size=(8, 8, 8), batch=1)
    speed = measure_speed(network, 1, 2, patches, (8, 8, 8), SlidingWindowOptions(), "cpu", 1)
    assert speed.step > 0
    assert speed.prediction > 0

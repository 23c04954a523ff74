"""`graft predict` makes the mask that evaluation makes of the stored prediction of the same case."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data.volume import Volume
from graft.images import read_scan
from pipeline.arms.choices import ArmOptions
from pipeline.deployment.case_prediction import predict_case
from pipeline.deployment.model_folder import read_model
from pipeline.deployment.predict_options import PredictOptions
from pipeline.prediction.dice_thresholds import MaskRule
from pipeline.prediction.native_maps import NativeMaps
from pipeline.prediction.native_mask import native_mask
from pipeline.prediction.scan_prediction import predict_scan
from pipeline.prediction.stored_prediction import CasePrediction, StoredPrediction, load_prediction
from pipeline.storage.cached_case import CachedCase
from preprocessing.chain import Chain

MakeModel = Callable[..., Path]
MakeScan = Callable[..., Volume]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("rule", MaskRule)
def test_the_stored_prediction_of_a_scan_gives_the_same_mask(
    make_model: MakeModel, make_scan: MakeScan, tmp_path: Path, temperature: float, rule: MaskRule
) -> None:
    arm = ArmOptions(logit_temperature=temperature, mask=rule)
    model = read_model(make_model(tmp_path / "model", bayesian=False, arm=arm, classes={"core": 1, "rim": 2}))
    about, scan = model.description, read_scan(make_scan(0), ("T1",), "case")
    kept = {}
    found = predict_case(model, scan, PredictOptions(), "cpu", keep=kept.__setitem__)

    chain = Chain(about.preprocessing)
    processed, records = chain.apply(scan.subject)
    affine = processed.reference.affine
    average, _ = predict_scan(
        (draws.member.with_weights(draw) for draws in model.draws(None, "cpu") for draw in draws),
        1,
        torch.from_numpy(processed.image()),
        about.patch,
        about.window,
        heads=about.heads,
    )
    case = CachedCase("case", "case", tmp_path, {"core": (1,), "rim": (2,)})
    case.__dict__["affine"] = affine
    StoredPrediction.of(CasePrediction(average, torch.zeros(1, 2)), case, "0").write(tmp_path / "case.safetensors")
    read = load_prediction(tmp_path / "case.safetensors").read(about.arm.reading)
    native = NativeMaps(chain, records, affine)
    maps = [native(own) for own in read.foreground]
    for name, expected in zip(("core", "rim"), maps, strict=True):
        np.testing.assert_array_equal(kept[name].array, expected.array)
    np.testing.assert_array_equal(found.mask.array, native_mask(maps, [1, 2], read.thresholds).array)
    assert found.mask.array.any()

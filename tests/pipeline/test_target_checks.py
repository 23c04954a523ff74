"""Inputs that would spoil target training are reported or refused before any training starts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from data.errors import DataError, ModelError
from data.splits import Split
from models.filter_bank import FilterBank
from models.priors.factory import PriorOptions, build_prior
from models.priors.gaussian_options import Centre, GaussianOptions
from models.priors.reuse_or_redraw import ReuseOrRedrawOptions
from models.priors.standardisation import Covariance
from models.priors.vae_options import Condition, FilterVAEOptions
from pipeline.arms.preset_densities import ON_DEMAND
from pipeline.arms.presets import PRESETS, named_priors
from pipeline.config.reading import as_yaml, read_config
from pipeline.config.study import StudyConfig
from pipeline.stages.study_plan import StudyPlan
from pipeline.stages.target_checks import compare_with_source, refuse_empty_labels, require_kernel_size
from pipeline.storage.tensors import save_tensors
from pipeline.storage.workspace import Workspace


def study(
    training: dict[str, Any] | None = None,
    priors: dict[str, Any] | None = None,
    source_training: dict[str, Any] | None = None,
    unlabelled: Any = None,
    **target: Any,
) -> StudyConfig:
    dataset = {"path": "somewhere", "modality": "mr", "foreground": [1]}
    raw = {
        "name": "s",
        "datasets": {"a": dataset, "b": {**dataset, **target}},
        "source": {"dataset": "a", "patients": 4},
        "target": {"dataset": "b", "pool": 5, "test": 2, "unlabelled": unlabelled},
        "target_training": {"sizes": [5], **(training or {})},
        "priors": priors or {},
        "source_training": source_training or {},
    }
    return StudyConfig.model_validate(raw)


@pytest.mark.parametrize(("sizes", "words"), [([6], "`target.pool` has 5"), ([-1, 5], "at least 0")])
def test_sizes_that_cannot_be_are_refused(sizes: list[int], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        study({"sizes": sizes})


def planned(config: StudyConfig, folder: Path, channels: tuple[str, ...] = ("T1",)) -> StudyPlan:
    classes = {"a": {"x": (1,)}, "b": {"x": (1,)}}
    return StudyPlan(Split({}, {}, {}), classes, {"a": ("T1",), "b": channels}, config, Workspace(folder))


def test_other_modality_channels_or_spacing_are_told_and_refused_when_strict(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    other = {"preprocessing": {"resampling": {"spacing": [2, 2, 2]}}}
    for plan, words in (
        (planned(study(**other), tmp_path), ["'a' has the spacing 1 × 1 × 1 mm", "'b' 2 × 2 × 2 mm"]),
        (planned(study(modality="ct"), tmp_path), ["'a' has the modality mr", "'b' ct"]),
        (planned(study(), tmp_path, ("FLAIR",)), ["'a' has the channels T1", "'b' FLAIR"]),
        (planned(study(), tmp_path, ("T1", "T2")), ["'b' T1, T2", "stem.weight start at random"]),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            compare_with_source(plan)
        assert any(all(word in message for word in words) for message in caplog.messages)
        with pytest.raises(DataError) as refused:
            compare_with_source(plan, strict=True)
        assert refused.value.exit_code == 2
        assert "--strict" in str(refused.value)
    caplog.clear()
    compare_with_source(planned(study(), tmp_path), strict=True)
    assert caplog.messages == []


def test_an_empty_label_is_refused_and_named(make_case) -> None:
    empty = make_case("empty", label=np.zeros((8, 8, 8)))
    refuse_empty_labels([make_case("full")])
    with pytest.raises(DataError, match="empty in empty") as refused:
        refuse_empty_labels([make_case("full"), empty])
    assert str(empty.path) in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        GaussianOptions(covariance=Covariance.ISOTROPIC),
        GaussianOptions(centre=Centre.SOURCE_POSITION, covariance=Covariance.ISOTROPIC),
        FilterVAEOptions(hidden=(4,), max_steps=1),
        ReuseOrRedrawOptions(shape=GaussianOptions()),
    ],
    ids=["pooled", "position", "vae", "reuse"],
)
def test_a_prior_of_another_kernel_size_is_refused(options: PriorOptions, tmp_path: Path) -> None:
    columns = [torch.arange(20) % 10 if k == 2 else torch.zeros(20, dtype=torch.int64) for k in range(5)]
    columns[4] = torch.arange(20) // 10
    for voxels in (27, 125):
        prior = build_prior(options, voxels)
        prior.fit(FilterBank(torch.randn(20, voxels), *columns))
        path = tmp_path / f"{voxels}.safetensors"
        save_tensors(path, prior.state_dict())
        if voxels == 27:
            require_kernel_size(path, options)
            continue
        with pytest.raises(ModelError, match="kernels of 125 voxels") as refused:
            require_kernel_size(path, options)
        assert str(path) in str(refused.value)


def test_densities_of_presets_are_added_when_an_arm_names_them(tmp_path: Path) -> None:
    assert set(study().priors.densities) == {"isotropic", "gaussian_full", "vae"}
    every = study({"arms": list(PRESETS)}, source_training={"trunk_steps": 5}, unlabelled="all")
    assert set(every.priors.densities) == {"isotropic", "gaussian_full", "vae", *ON_DEMAND}
    assert every.priors.densities["vae_conditional"].condition is Condition.LAYER
    by_name = study({"arms": {"mine": {"prior": "gaussian_source"}, "other": {"preset": "reuse_or_redraw"}}})
    assert {"gaussian_source", "reuse_or_redraw"} <= set(by_name.priors.densities)
    changed = study({"arms": ["gaussian_source"]}, {"densities": {"gaussian_source": {"spread": 2.0}}})
    assert changed.priors.densities["gaussian_source"].spread == 2.0
    assert changed.priors.densities["gaussian_source"].centre is Centre.SOURCE_POSITION
    # The resolved configuration is read to the same study.
    (tmp_path / "resolved.yaml").write_text(as_yaml(every))
    assert read_config(tmp_path / "resolved.yaml") == every


def test_a_density_that_the_study_removes_is_missed() -> None:
    with pytest.raises(ValidationError, match="'gaussian_source', which is not one of"):
        study({"arms": ["gaussian_source"]}, {"densities": {"gaussian_source": None}})


@pytest.mark.parametrize("change", [{"members": 2}, {"posterior": {"kind": "mixture", "components": 2}}])
def test_several_networks_cannot_share_a_prior_centred_on_one(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="centred on one source network"):
        study({"arms": {"arm": {"preset": "gaussian_source", **change}}})


@pytest.mark.parametrize("density", [{"kind": "gaussian", "centre": "source_position"}, {"kind": "reuse_or_redraw"}])
def test_an_arm_starts_from_the_network_that_its_prior_is_centred_on(density: dict[str, Any]) -> None:
    def around(network: int) -> dict[str, Any]:
        named = {"centre": "source_position", "covariance": "isotropic", "network": network}
        own = {"position": named} if density["kind"] == "reuse_or_redraw" else named
        return {"densities": {"around": {**density, **own}}}

    fitting = {"preset": "gaussian_source", "prior": "around"}
    assert study({"arms": {"arm": fitting}}, around(0)).target_training.arms["arm"].prior == "around"
    with pytest.raises(ValidationError, match="starts from source network 0 and its prior is centred on 1"):
        study({"arms": {"arm": fitting}}, around(1))
    assert study({"arms": {"arm": {**fitting, "init": "random"}}}, around(1))


@pytest.mark.parametrize("arm", ["gaussian_branches", "hierarchical", "fine_tune_branches"])
def test_what_knows_positions_across_networks_needs_a_trunk(arm: str) -> None:
    assert study({"arms": [arm]}, source_training={"trunk_steps": 5}).target_training.arms[arm].init == "branches"
    with pytest.raises(
        ValidationError, match=r"only where they branch from a trunk: set `source_training.trunk_steps`"
    ):
        study({"arms": [arm]})


def test_branches_that_are_scored_leave_two_to_fit_to() -> None:
    def with_networks(networks: int, **priors: Any) -> StudyConfig:
        return study({"arms": ["gaussian_branches"]}, priors, {"trunk_steps": 5, "networks": networks})

    assert with_networks(3)
    assert with_networks(4, held_out="cross", folds=2)
    for networks, priors in ((1, {}), (2, {}), (4, {"held_out_networks": 3}), (3, {"held_out": "cross", "folds": 2})):
        with pytest.raises(ValidationError, match="needs 2 networks or more to be fitted to"):
            with_networks(networks, **priors)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"init": "prior"}, "a density of changes, which needs filters to start from"),
        ({"posterior": {"kind": "mixture", "components": 2}}, "2 components and a density of changes"),
        ({"layer_scale": "learned", "prior": "vae"}, "the prior 'vae', which is not a Gaussian"),
        ({"layer_scale": "learned", "prior": "auto"}, "the prior 'auto', which is not a Gaussian"),
        ({"layer_scale": "learned", "posterior": {"kind": "mixture"}}, "needs another posterior"),
        ({"spared": "last_block", "prior": "l2"}, "are of a fitted prior"),
    ],
)
def test_choices_that_do_not_go_with_a_density_of_changes_are_refused(change: dict[str, Any], words: str) -> None:
    assert study({"arms": {"arm": {"preset": "displacement", "members": 2, "layer_scale": "learned"}}})
    with pytest.raises(ValidationError, match=words):
        study({"arms": {"arm": {"preset": "displacement", **change}}})


def test_priors_that_arms_name() -> None:
    arms = {"dwp": None, "x": {"preset": "gaussian"}, "y": {"prior": "p"}, "z": PRESETS["gaussian_full"]}
    assert named_priors(arms) == ["vae", "isotropic", "p", "gaussian_full"]
    assert named_priors(["swag", "unknown"]) == ["none", "none"]


def test_swag_needs_steps_to_collect_from() -> None:
    with pytest.raises(ValidationError, match="fewer than 2 iterates"):
        study({"arms": ["swag"], "steps": 2})

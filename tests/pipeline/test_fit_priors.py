"""Held-out scores, the choice of `auto`, and updates from an earlier study, on small banks."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data.errors import ConfigError, ModelError, WorkspaceError
from models.filter_bank import FilterBank
from models.filters import FilterLayer
from models.priors.factory import fit_prior, load_prior
from models.priors.filter_vae import FilterVAE
from models.priors.gaussian_options import GaussianOptions
from models.priors.vae_options import FilterVAEOptions
from pipeline.config.study import StudyConfig
from pipeline.execution.progress import ProgressFile
from pipeline.priors.density_choice import choose, resolve_densities
from pipeline.priors.filter_options import PriorFitOptions
from pipeline.priors.filter_summary import FilterSummary
from pipeline.priors.group_fit import GroupFit, full_gaussian
from pipeline.priors.held_out_scores import difference, divide_positions, estimate, network_folds, score
from pipeline.priors.prior_units import compare_densities, fit_density, score_density
from pipeline.stages.earlier_study import earlier_densities
from pipeline.storage.prior_files import DENSITY, FIT, SCORES
from pipeline.storage.stored_bank import StoredBank, write_bank
from pipeline.storage.tensors import load_tensors

TINY_VAE = {"kind": "vae", "hidden": [8], "latent": 2, "max_steps": 12, "batch": 64}
BOOSTED = {**TINY_VAE, "latent_prior": "boosted", "components": 2, "component_steps": 3, "boost_subset": 50}
AROUND_SOURCE = {"kind": "gaussian", "centre": "source_position", "covariance": "isotropic"}
LAYER = FilterLayer("a.weight", 20, 20, transposed=False)


def write_starts(path: Path, networks: int, trunk: bool) -> Path:
    """Writes what the networks started from: each from filters of its own, or all from those of a trunk."""

    def banks():
        rows = torch.arange(LAYER.count)
        for network in range(networks):
            generator = torch.Generator().manual_seed(7 if trunk else 7 + network)
            filters, full = 0.1 * torch.randn(len(rows), 27, generator=generator), torch.full_like
            yield FilterBank(filters, 0 * rows, rows // 20, rows % 20, full(rows, network), full(rows, 0))

    write_bank(path, banks(), (networks, LAYER.count))
    return path


def write_trained(path: Path, starts: Path, networks: int) -> Path:
    """Writes two snapshots of networks that moved from their starts: a little, and some positions more than others."""
    order = [(network, snapshot) for network in range(networks) for snapshot in range(2)]

    def banks():
        for network, snapshot in order:
            start = StoredBank(starts).load({network})
            common = torch.randn(27, 27, generator=torch.Generator().manual_seed(0)) / 27**0.5
            generator = torch.Generator().manual_seed(100 + network)
            noise = torch.randn(LAYER.count, 27, generator=generator) @ common
            size = torch.where(torch.arange(LAYER.count) % 4 == 0, 0.06, 0.01)[:, None]
            filters = start.filters + (0.5 + 0.5 * snapshot) * (0.02 + size * noise)
            yield replace(start, filters=filters, snapshot=torch.full_like(start.snapshot, snapshot))

    write_bank(path, banks(), (len(order), LAYER.count))
    return path


def write_networks(path: Path, networks: int, snapshots: int = 2, mixing_seed: int = 0) -> Path:
    """Writes a bank of correlated filters; each network has a scale of its own, so that networks differ."""
    mixing = torch.randn(27, 27, generator=torch.Generator().manual_seed(mixing_seed))
    order = [(network, snapshot) for network in range(networks) for snapshot in range(snapshots)]

    def banks():
        rows = torch.arange(LAYER.count)
        for network, snapshot in order:
            base = torch.randn(len(rows), 27, generator=torch.Generator().manual_seed(network)) @ mixing
            noise = torch.randn(len(rows), 27, generator=torch.Generator().manual_seed(100 * network + snapshot))
            filters = 0.02 * (1 + 0.1 * network) * (base + 0.1 * noise)
            filters[:20] *= 1e-4
            full = torch.full_like
            yield FilterBank(filters, 0 * rows, rows // 20, rows % 20, full(rows, network), full(rows, snapshot))

    write_bank(path, banks(), (len(order), LAYER.count))
    return path


def fit(folder: Path, bank: Path, earlier=None, starts: Path | None = None, **options):
    """Fits, scores and compares; the densities lie in folders of their names, their scores in `scored`."""
    group = GroupFit("g", bank, PriorFitOptions(**options), 0.01, earlier or {}, 0, starts)
    progress = ProgressFile(folder.with_name("progress"))
    fits = {density: folder / density for density in group.options.densities}
    scores = {density: folder / "scored" / density for density in group.options.scorable}
    for path in (*fits.values(), *scores.values()):
        path.mkdir(parents=True)
    for density, path in fits.items():
        fit_density(path, progress, group=group, density=density)
    several = len(StoredBank(bank).networks) > 1
    for density, path in scores.items():
        fitted = None if group.options.refits(several) else fits[density]
        score_density(path, progress, group=group, density=density, fitted=fitted)
    compare_densities(folder, progress, group=group, fits=fits, scores=scores)
    return json.loads((folder / SCORES).read_text())


def test_folds_score_every_network_once_without_having_seen_it() -> None:
    [last] = network_folds((0, 1, 2, 3), PriorFitOptions(held_out_networks=2))
    assert (last.fitted, last.scored) == ((0, 1), (2, 3))
    [greedy] = network_folds((0, 1), PriorFitOptions(held_out_networks=4))
    assert (greedy.fitted, greedy.scored) == ((0,), (1,))
    folds = network_folds((0, 1, 2, 3, 4), PriorFitOptions(held_out="cross", folds=3))
    assert sorted(n for fold in folds for n in fold.scored) == [0, 1, 2, 3, 4]
    assert all(set(fold.fitted) | set(fold.scored) == {0, 1, 2, 3, 4} for fold in folds)
    assert all(not set(fold.fitted) & set(fold.scored) for fold in folds)
    assert len(network_folds((0, 1, 2), PriorFitOptions(held_out="cross", folds=9))) == 3


def test_standard_errors_are_over_networks_and_differences_are_paired() -> None:
    values = {n: torch.tensor([n - 1.0, n + 1.0], dtype=torch.float64) for n in range(4)}
    found = estimate(values)
    assert found["mean"] == pytest.approx(1.5)
    assert found["standard_error"] == pytest.approx((5 / 3) ** 0.5 / 2)
    assert found["standard_error_over"] == "networks"
    better = {n: v + 0.5 + 0.01 * n for n, v in values.items()}
    paired = difference(better, values)
    assert paired["mean"] == pytest.approx(0.515)
    assert paired["standard_error"] == pytest.approx(0.01 * (5 / 3) ** 0.5 / 2)
    alone = estimate({0: values[0]})
    assert alone["standard_error_over"] == "filters of one network"
    assert "standard_error" not in estimate({0: values[0][:1]})


def test_the_latent_that_the_filters_chose_is_in_the_records(tmp_path: Path) -> None:
    bank = write_networks(tmp_path / "bank.npy", 3)
    densities = {"vae": {**TINY_VAE, "latent": "auto"}, "fixed": TINY_VAE}
    scores = fit(tmp_path / "fits", bank, densities=densities)["densities"]
    chosen = json.loads((tmp_path / "fits/vae" / FIT).read_text())["latent"]
    assert 5 < chosen <= 26
    assert scores["vae"]["latent"] == chosen
    state = load_tensors(tmp_path / "fits/vae" / DENSITY)
    assert len(state["encoder.mean.weight"]) == chosen
    assert "latent" not in scores["fixed"]
    assert "latent" not in scores["gaussian_full"]


def test_many_draws_are_scored_a_few_filters_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    network = torch.arange(3).repeat_interleave(1000)
    zeros = torch.zeros_like(network)
    bank = FilterBank(torch.randn(3000, 27, generator=generator), zeros, torch.arange(3000), zeros, network, zeros)
    vae = FilterVAE(FilterVAEOptions(latent=2, hidden=(4,), max_steps=1))
    vae.fit(bank, generator)
    together: list[int] = []
    bound = vae.bound

    def watched(standardised: torch.Tensor, rows: torch.Tensor | None, samples: int, *others: Any) -> torch.Tensor:
        together.append(len(standardised) * samples)
        return bound(standardised, rows, samples, *others)

    monkeypatch.setattr(vae, "bound", watched)
    values = score(vae, bank, 32, generator)
    assert {number: len(of_network) for number, of_network in values.items()} == {0: 1000, 1: 1000, 2: 1000}
    assert sum(together) == 3000 * 32
    assert max(together) <= 32_768
    gaussian = fit_prior(GaussianOptions(), bank)[0]
    assert torch.equal(score(gaussian, bank, 32, generator)[1], gaussian.log_prob(bank.filters).double()[1000:2000])


def test_auto_takes_the_simplest_within_two_standard_errors() -> None:
    def scored(mean, parameters, to_best, error=None):
        about = {"mean": to_best} | ({} if error is None else {"standard_error": error})
        return {"mean": mean, "parameters": parameters, "difference_to_best": about}

    densities = {
        "simple": scored(9.0, 28, -1.0, 0.4),
        "middle": scored(9.7, 405, -0.3, 0.2),
        "rich": scored(10.0, 9000, 0.0, 0.0),
    }
    choice = choose(densities)
    assert (choice["density"], choice["best"]) == ("middle", "rich")
    assert choice["good_enough"] == ["middle", "rich"]
    assert list(choice["by_parameters"]) == ["simple", "middle", "rich"]
    assert choose(densities | {"simple": scored(9.9, 28, -0.1, 0.05)})["density"] == "simple"
    # Without a standard error only the best will do.
    assert choose(densities | {"middle": scored(9.99, 405, -0.01)})["density"] == "rich"
    assert choose({}) is None


def test_scores_are_in_raw_units_of_all_filters_of_other_networks(tmp_path: Path) -> None:
    bank = write_networks(tmp_path / "bank.safetensors", 5)
    densities = {"vae": None, "around": AROUND_SOURCE}
    scores = fit(tmp_path / "fit", bank, densities=densities, held_out_networks=4)
    assert scores["held_out"] == 4 * LAYER.count
    assert set(scores["densities"]) == {"isotropic", "gaussian_full"}
    assert "permuted" in scores["not_scored"]["around"]
    stored = StoredBank(bank)
    fitted = stored.load({0}).above_norm(0.01)
    assert scores["fitted_on"] == len(fitted) < 2 * LAYER.count
    prior = load_prior(GaussianOptions(covariance="isotropic"), load_tensors(tmp_path / "fit/isotropic" / DENSITY))
    everything = stored.load().above_norm(0.01)
    # The file holds the fit to all networks, the score that of the fit to the first one.
    assert prior.fit(everything).log_density == pytest.approx(
        float(prior.log_prob(everything.filters).mean()), abs=1e-3
    )
    prior.fit(fitted)
    means = [float(prior.log_prob(stored.load({n}).last_snapshots().filters).double().mean()) for n in (1, 2, 3, 4)]
    found = scores["densities"]["isotropic"]
    assert list(found["network_means"].values()) == pytest.approx(means, abs=1e-4)
    assert found["mean"] == pytest.approx(sum(means) / 4, abs=1e-4)
    assert found["standard_error"] == pytest.approx(float(torch.tensor(means).std()) / 2, rel=1e-3)
    gap = found["mean"] - scores["densities"]["gaussian_full"]["mean"]
    assert found["difference_to_gaussian_full"]["mean"] == pytest.approx(gap)
    assert found["difference_to_gaussian_full"]["mean"] < -2 * found["difference_to_gaussian_full"]["standard_error"]
    assert scores["auto"]["density"] == "gaussian_full"
    assert scores["densities"]["gaussian_full"]["parameters"] == 27 + 27 * 28 // 2


def test_cross_validation_scores_every_network_and_names_subsamples(tmp_path: Path) -> None:
    bank = write_networks(tmp_path / "bank.safetensors", 4, snapshots=3)
    options = {"held_out": "cross", "folds": 4, "largest_fit": 1000, "largest_score": 200, "refit": False}
    scores = fit(tmp_path / "fit", bank, densities={"gaussian_full": None, "vae": TINY_VAE}, **options)
    assert scores["folds"] == [[0], [1], [2], [3]]
    vae = scores["densities"]["vae"]
    assert list(vae["network_means"]) == ["0", "1", "2", "3"]
    # Without it in the study, the full Gaussian is fitted for the comparison all the same.
    assert set(scores["densities"]) == {"isotropic", "vae"}
    assert {"mean", "standard_error"} == set(vae["difference_to_gaussian_full"])
    assert (vae["scored"], scores["held_out"], scores["held_out_of"]) == (200, 200, 4 * LAYER.count)
    assert vae["fitted_filters"] == 1000 < vae["given_filters"] == 4 * 3 * (LAYER.count - 20)
    assert scores["refitted_on_all"]


def test_one_network_is_divided_by_positions(tmp_path: Path) -> None:
    path = write_networks(tmp_path / "bank.safetensors", 1)
    rest, held = divide_positions(StoredBank(path).load(), torch.Generator().manual_seed(0))
    assert not set(rest.positions.keys().tolist()) & set(held.positions.keys().tolist())
    assert len(held) == LAYER.count // 10
    scores = fit(tmp_path / "fit", path, densities={"vae": None, "around": AROUND_SOURCE})
    assert scores["densities"]["isotropic"]["standard_error_over"] == "filters of one network"
    assert "around" in scores["not_scored"]


@pytest.mark.slow
def test_a_position_prior_knows_every_position_whatever_is_drawn(tmp_path: Path) -> None:
    bank = write_networks(tmp_path / "bank.safetensors", 3)
    reuse = {"kind": "reuse_or_redraw", "position": {**AROUND_SOURCE, "network": 1}, "shape": {"kind": "gaussian"}}
    densities = {"vae": TINY_VAE, "isotropic": None, "around": AROUND_SOURCE, "reuse": reuse}
    fit(tmp_path / "fit", bank, densities=densities, largest_fit=1000)
    for name, prefix in (("around", "position."), ("reuse", "position.position.")):
        assert len(load_tensors(tmp_path / "fit" / name / DENSITY)[prefix + "keys"]) == LAYER.count
    with pytest.raises(ModelError, match="source network 7"):
        fit(tmp_path / "none", bank, densities={"around": {**AROUND_SOURCE, "network": 7}})


def test_auto_is_resolved_by_group(tmp_path: Path) -> None:
    options = PriorFitOptions()
    for group, density in (("a", "vae"), ("b", "isotropic"), ("c", None)):
        (tmp_path / group).mkdir()
        auto = None if density is None else {"density": density}
        scores = {
            "group": group,
            "fitted_on": 1,
            "held_out": 1,
            "held_out_networks": "0",
            "densities": {},
            "auto": auto,
        }
        (tmp_path / group / "scores.json").write_text(json.dumps(scores))
    files = {group: tmp_path / group / SCORES for group in "ab"}
    assert resolve_densities(files, "auto", options.densities) == {"a": "vae", "b": "isotropic"}
    assert resolve_densities(files, "vae", options.densities) == {"a": "vae", "b": "vae"}
    with pytest.raises(WorkspaceError, match="which density `auto` stands for"):
        resolve_densities({"c": tmp_path / "c" / SCORES}, "auto", options.densities)
    with pytest.raises(WorkspaceError, match="'vae'"):
        resolve_densities(files, "auto", {"isotropic": GaussianOptions()})


def test_options_pass_scaling_on_and_keep_auto_free() -> None:
    options = PriorFitOptions(
        scaling="fan_in",
        densities={"vae": {"scaling": "layer"}, "mix": {"kind": "gaussian_mixture"}, "around": AROUND_SOURCE},
    )
    scalings = {name: str(density.scaling) for name, density in options.densities.items()}
    assert scalings == {
        "isotropic": "fan_in", "gaussian_full": "fan_in", "vae": "layer", "mix": "fan_in", "around": "none"
    }  # fmt: skip
    assert PriorFitOptions.model_validate(options.model_dump(mode="json")) == options
    assert full_gaussian(options.densities) is None
    assert full_gaussian(PriorFitOptions().densities) == "gaussian_full"
    with pytest.raises(ValueError, match="auto"):
        PriorFitOptions(densities={"auto": {"kind": "gaussian"}})


def config_of(update_from: Path | None = None, grouping: str = "consecutive", **priors) -> StudyConfig:
    dataset = {"path": "x", "modality": "mr", "foreground": ["a"]}
    return StudyConfig.model_validate(
        {
            "name": "t",
            "datasets": {"a": dataset},
            "source": {"dataset": "a", "patients": 2},
            "target": {"dataset": "a", "pool": 20, "test": 1},
            "filters": {"grouping": grouping},
            "priors": {"densities": {"boo": BOOSTED}, "update_from": update_from, **priors},
        }
    )


@pytest.mark.parametrize(("networks", "refit"), [(1, True), (3, True), (3, False)])
def test_dead_filters_are_modelled_by_a_spike_and_left_out_of_other_fits(
    tmp_path: Path, networks: int, refit: bool
) -> None:
    bank = write_networks(tmp_path / "bank.safetensors", networks)
    densities = {
        "vae": None,
        "spike": {"kind": "spike_and_slab"},
        "own": {"kind": "spike_and_slab", "norm_threshold": 0},
    }
    found = fit(tmp_path / "fit", bank, densities=densities, refit=refit)["densities"]
    whole, living = found["spike"]["given_filters"], found["gaussian_full"]["given_filters"]
    # One filter in twenty is dead; a single network keeps a tenth of the positions for scoring.
    assert found["own"]["given_filters"] == found["spike"]["fitted_filters"] == whole
    fitted = {1: 1, 3: 3 if refit else 2}[networks]
    assert whole == fitted * 2 * 400 * (0.9 if networks == 1 else 1)
    assert living == pytest.approx(0.95 * whole, abs=20)
    # All held-out filters are scored, the dead ones too.
    assert found["spike"]["scored"] == found["gaussian_full"]["scored"]
    assert found["spike"]["mean"] > found["gaussian_full"]["mean"] + 1
    prior = load_prior(
        PriorFitOptions(densities=densities).densities["spike"], load_tensors(tmp_path / "fit/spike" / DENSITY)
    )
    assert float(prior.logit_dead.sigmoid()) == pytest.approx((whole - living + 1) / (whole + 2))


def test_shared_scaling_reaches_the_slab_of_a_spike() -> None:
    options = PriorFitOptions(
        scaling="layer", densities={"spike": {"kind": "spike_and_slab", "slab": {"kind": "gaussian"}}}
    )
    assert options.densities["spike"].slab.scaling == "layer"


@pytest.fixture
def earlier_study(tmp_path: Path) -> Path:
    """A workspace whose BooVAE is fitted."""
    root = tmp_path / "earlier"
    folder = root / "fit-priors" / "g"
    folder.parent.mkdir(parents=True)
    bank = write_networks(tmp_path / "first.safetensors", 2)
    fit(folder, bank, densities={"vae": None, "boo": BOOSTED}, refit=False)
    fitted = folder / "boo"
    files = {path.name: path.stat().st_size for path in fitted.iterdir()}
    (fitted / "done.json").write_text(json.dumps({"digest": "0", "files": files}))
    (root / "collect-filters" / "g").mkdir(parents=True)
    summary = FilterSummary(
        group="g", layers=(LAYER.parameter,), networks=(0, 1), snapshots=2, filters=len(StoredBank(bank)),
        norm_quantile_levels=(0.5,), norm_quantiles=(1.0,), moved_from_initial=1.0, moved_quantiles=(1.0,),
        moved_by_network={"0": 1.0, "1": 1.0},
    )  # fmt: skip
    (root / "collect-filters" / "g" / "summary.json").write_text(summary.model_dump_json())
    resolved = config_of().model_dump(mode="json")
    (root / "config.resolved.yaml").write_text(yaml.safe_dump(resolved))
    return root


def test_a_boovae_goes_on_from_an_earlier_study(earlier_study: Path, tmp_path: Path) -> None:
    config = config_of(earlier_study)
    earlier = earlier_densities(config, "g", [LAYER])
    assert set(earlier) == {"boo"}
    bank = write_networks(tmp_path / "second.safetensors", 3, mixing_seed=5)
    scores = fit(tmp_path / "fit", bank, earlier, densities={"vae": None, "boo": BOOSTED})
    assert scores["densities"]["boo"]["source_sets"] == 2
    before = earlier["boo"].load().state_dict()
    after = load_tensors(tmp_path / "fit" / "boo" / DENSITY)
    # The components of the first set are still there, those of the second have joined them.
    assert len(after["latent_prior.log_weights"]) > len(before["latent_prior.log_weights"])
    old = before["latent_prior.pseudo_inputs"]
    assert torch.equal(after["latent_prior.pseudo_inputs"][: len(old)], old)
    assert torch.equal(after["standardisation.mean"], before["standardisation.mean"])
    assert earlier_densities(config_of(), "g", [LAYER]) == {}


def test_a_third_source_set_counts_as_much_as_the_two_before_each(earlier_study: Path, tmp_path: Path) -> None:
    root = earlier_study
    for number in (2, 3):
        earlier = earlier_densities(config_of(root), "g", [LAYER])
        before = earlier["boo"].load()
        bank = write_networks(tmp_path / f"{number}.safetensors", 2, mixing_seed=number)
        root = Path(shutil.copytree(root, tmp_path / f"study-{number}"))
        folder = root / "fit-priors" / "g"
        shutil.rmtree(folder)
        scores = fit(folder, bank, earlier, densities={"vae": None, "boo": BOOSTED}, refit=False)
        assert scores["densities"]["boo"]["source_sets"] == number
        files = {path.name: path.stat().st_size for path in (folder / "boo").iterdir()}
        (folder / "boo" / "done.json").write_text(json.dumps({"digest": "0", "files": files}))
        after = earlier_densities(config_of(root), "g", [LAYER])["boo"].load()
        assert int(after.sets) == number
        assert len(after.latent_prior.log_weights) == number * BOOSTED["components"]
        old = before.latent_prior.pseudo_inputs
        assert torch.equal(after.latent_prior.pseudo_inputs[: len(old)], old)


def test_an_earlier_study_that_does_not_fit_is_refused(earlier_study: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="cannot be read, so priors cannot be updated"):
        earlier_densities(config_of(tmp_path / "nowhere"), "g", [LAYER])
    with pytest.raises(ConfigError, match="no density of"):
        earlier_densities(config_of(earlier_study, densities={"boo": None}), "g", [LAYER])
    with pytest.raises(ConfigError, match="no density 'other'"):
        earlier_densities(config_of(earlier_study, densities={"other": BOOSTED}), "g", [LAYER])
    with pytest.raises(ConfigError, match="'vae' of the earlier study cannot be updated"):
        earlier_densities(config_of(earlier_study, densities={"vae": BOOSTED}), "g", [LAYER])
    other = {**BOOSTED, "hidden": [9], "latent": 3, "max_steps": 7}
    with pytest.raises(ConfigError, match="differs in latent, hidden"):
        earlier_densities(config_of(earlier_study, densities={"boo": other}), "g", [LAYER])
    with pytest.raises(ModelError, match=r"b\.weight"):
        earlier_densities(config_of(earlier_study), "g", [FilterLayer("b.weight", 1, 1, transposed=False)])
    with pytest.raises(WorkspaceError, match="the group 'h'"):
        earlier_densities(config_of(earlier_study), "h", [LAYER])
    with pytest.raises(ConfigError, match="grouped by"):
        earlier_densities(config_of(earlier_study, "layer"), "g", [LAYER])
    (earlier_study / "fit-priors" / "g" / "boo" / DENSITY).unlink()
    with pytest.raises(WorkspaceError, match="missing or damaged"):
        earlier_densities(config_of(earlier_study), "g", [LAYER])


KNOWING = {
    "vae": None,
    "branches": {"kind": "gaussian", "centre": "branches", "shrinkage": None},
    "change": {"kind": "displacement"},
    "other_change": {"kind": "displacement", "change": {"kind": "gaussian_mixture", "components": 2}},
}


@pytest.mark.slow
def test_densities_that_know_positions_are_scored_on_networks_that_they_were_not_fitted_to(tmp_path: Path) -> None:
    starts = write_starts(tmp_path / "starts.safetensors", 5, trunk=True)
    bank = write_trained(tmp_path / "bank.safetensors", starts, 5)
    scores = fit(tmp_path / "unit", bank, starts=starts, densities=KNOWING, held_out="cross", folds=5)
    means = {name: own["mean"] for name, own in scores["densities"].items()}
    # What moved by a third of its size is known far better by who knows where it was.
    assert means["isotropic"] + 20 < means["change"] < means["branches"]
    assert means["change"] < means["other_change"] < means["branches"]
    assert scores["densities"]["branches"]["scored"] == 5 * LAYER.count
    # An arm that starts anywhere can use what `auto` chooses.
    assert scores["auto"]["density"] in {"isotropic", "gaussian_full"}
    assert set(scores["auto"]["by_parameters"]) == {"isotropic", "gaussian_full"}
    options = PriorFitOptions(densities=KNOWING).densities["branches"]
    fitted = load_prior(options, load_tensors(tmp_path / "unit" / "branches" / DENSITY))
    last = StoredBank(bank).load(last_snapshots=True)
    mean = torch.stack([last.of_network(network).filters for network in range(5)]).mean(0)
    centres = fitted.at_positions().centres(last.of_network(0).positions)
    assert torch.allclose(centres, mean, atol=1e-6)


def test_branches_without_a_common_start_are_refused_in_a_sentence(tmp_path: Path) -> None:
    starts = write_starts(tmp_path / "starts.safetensors", 3, trunk=False)
    bank = write_trained(tmp_path / "bank.safetensors", starts, 3)
    found = fit(tmp_path / "unit", bank, starts=starts, densities={"vae": None, "change": {"kind": "displacement"}})
    assert found["densities"]["change"]["mean"] > found["densities"]["isotropic"]["mean"] + 20
    with pytest.raises(ModelError, match="the networks 0, 1, 2 each started from weights of their own") as refused:
        fit(tmp_path / "other", bank, starts=starts, densities={"vae": None, "branches": KNOWING["branches"]})
    assert "`source_training.trunk_steps`" in str(refused.value)
    with pytest.raises(ModelError, match="what the filters were at the start of their networks is not known"):
        fit(tmp_path / "third", bank, densities={"vae": None, "change": {"kind": "displacement"}})

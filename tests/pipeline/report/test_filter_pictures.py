"""Slices, mosaics, latents, spectra and samples of banks against closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch
from pydantic import TypeAdapter
from torch import nn

from models.filter_bank import FilterBank
from models.priors.factory import PriorOptions
from models.priors.filter_vae import FilterVAE
from models.priors.vae_networks import GaussianNet
from models.priors.vae_options import Condition, FilterVAEOptions
from pipeline.priors.scores_record import Estimate
from pipeline.report.density_scores import reference_density, vae_densities
from pipeline.report.filter_change_figures import (
    GroupFilters,
    distance_figure,
    norm_figure,
    relative_distance,
    spectrum_figure,
)
from pipeline.report.filter_figures import MOST_AXES, interpolation_figure, sample_figure, traversal_figure
from pipeline.report.filter_files import TrainedPairs, group_folders, read_filters, read_trained_pairs
from pipeline.report.filter_mosaic import colour_limit, column_mosaic, orthogonal_slices, row_mosaic
from pipeline.report.latent_traversal import Traversal, draw_pairs, interpolate, traverse
from pipeline.storage.stored_bank import write_bank
from pipeline.storage.tensors import save_tensors

ONE_KERNEL = np.array([100 * x + 10 * y + z for x in range(3) for y in range(3) for z in range(3)], float)


def make_bank(count: int, layers: int = 2, seed: int = 1) -> FilterBank:
    generator = torch.Generator().manual_seed(seed)
    filters = torch.randn(count, 27, generator=generator)
    rows = torch.arange(count)
    return FilterBank(filters, (rows * layers) // count, rows // 7, rows % 7, rows % 3, rows % 2)


def fitted_vae(bank: FilterBank, condition: Condition = Condition.NONE, latent: int = 3) -> FilterVAE:
    options = FilterVAEOptions(latent=latent, hidden=(8,), max_steps=30, batch=64, condition=condition)
    prior = FilterVAE(options)
    prior.fit(bank, torch.Generator().manual_seed(2))
    return prior.eval().requires_grad_(False)


def with_linear_decoder(prior: FilterVAE, latent: int = 3) -> FilterVAE:
    torch.manual_seed(4)
    mean, log_variance = nn.Linear(latent, 27), nn.Linear(latent, 27)
    prior.decoder = GaussianNet(nn.Identity(), mean, log_variance, -10.0).double().requires_grad_(False)
    return prior


def test_slices_go_through_the_centre_with_the_second_axis_upwards() -> None:
    xy, xz, yz = orthogonal_slices(ONE_KERNEL)[0]
    np.testing.assert_array_equal(xy, [[21, 121, 221], [11, 111, 211], [1, 101, 201]])
    np.testing.assert_array_equal(xz, [[12, 112, 212], [11, 111, 211], [10, 110, 210]])
    np.testing.assert_array_equal(yz, [[102, 112, 122], [101, 111, 121], [100, 110, 120]])


def test_mosaics_hold_every_weight_where_their_labels_say() -> None:
    filters = np.stack([ONE_KERNEL, -ONE_KERNEL, ONE_KERNEL + 1])
    column = column_mosaic(filters)
    centres = column.pixels[np.ix_(column.rows.astype(int), column.columns.astype(int))]
    np.testing.assert_array_equal(centres, np.tile([111, -111, 112], (3, 1)))
    assert np.isnan(column.pixels).any()
    assert np.isfinite(column.pixels).sum() == 3 * 27 * 16
    row = row_mosaic(np.stack([filters, filters + 5]))
    centres = row.pixels[np.ix_(row.rows.astype(int), row.columns.astype(int))]
    np.testing.assert_array_equal(centres, [[111, -111, 112], [116, -106, 117]])


def test_one_colour_scale_for_trained_filters_and_samples() -> None:
    generator = np.random.default_rng(0)
    blocks = {"Trained": generator.normal(0, 1, (4, 27)), "Samples": generator.normal(0, 5, (4, 27))}
    images = [axes.images[0] for axes in sample_figure(blocks).axes if axes.images]
    assert len(images) == 2
    assert {image.get_clim() for image in images} == {(-colour_limit(*blocks.values()), colour_limit(*blocks.values()))}
    shown = np.asarray(images[0].get_array())
    assert np.nanmax(shown) == pytest.approx(orthogonal_slices(blocks["Trained"]).max())


def test_samples_are_sorted_by_norm() -> None:
    filters = np.stack([np.full(27, 0.1), np.full(27, 3.0), np.full(27, -1.0)])
    image = sample_figure({"Trained": filters}).axes[0].images[0]
    columns = column_mosaic(filters).columns.astype(int)
    np.testing.assert_allclose(np.asarray(image.get_array())[0, columns], [3.0, -1.0, 0.1])


def test_traversal_of_a_linear_decoder_in_closed_form() -> None:
    bank = make_bank(200)
    prior = with_linear_decoder(fitted_vae(bank).double())
    walk = traverse(prior, bank, steps=5)
    assert isinstance(prior.decoder.mean, nn.Linear)
    weight, bias = prior.decoder.mean.weight.numpy(), prior.decoder.mean.bias.numpy()
    colouring, centre = prior.standardisation.colouring.numpy(), prior.standardisation.mean.numpy()
    means, log_variances = (a.numpy() for a in prior.encode(bank.filters.double(), bank.positions))
    spread = np.sqrt(means.var(0) + np.exp(log_variances).mean(0))
    np.testing.assert_allclose(walk.steps, [-2, -1, 0, 1, 2])
    np.testing.assert_array_equal(walk.axes, np.argsort(-means.var(0)))
    np.testing.assert_allclose(walk.activity, np.sort(means.var(0))[::-1])
    for row, axis in enumerate(walk.axes):
        for column, step in enumerate(walk.steps):
            latent = means.mean(0) + step * spread[axis] * np.eye(3)[axis]
            np.testing.assert_allclose(
                walk.filters[row, column], (weight @ latent + bias) @ colouring + centre, rtol=1e-5, atol=1e-6
            )


def test_share_of_variance_that_a_perfect_and_a_constant_decoder_keep() -> None:
    bank = make_bank(200)
    prior = fitted_vae(bank).double()
    codes = torch.zeros(200, 27, dtype=torch.float64)

    class Perfect(FilterVAE):
        def encode(self, filters, where=None):  # type: ignore[no-untyped-def]
            return filters[:, :3], torch.zeros(len(filters), 3, dtype=filters.dtype)

        def decode(self, latents, where=None):  # type: ignore[no-untyped-def]
            return codes[: len(latents)] if len(latents) == 200 else torch.zeros(len(latents), 27)

    prior.__class__ = Perfect
    codes = bank.filters.double()
    assert traverse(prior, bank).explained == pytest.approx(1.0)
    codes = bank.filters.double().mean(0).expand(200, 27)
    assert traverse(prior, bank).explained == pytest.approx(0.0)


def test_interpolation_of_a_linear_decoder_is_a_straight_line_between_decoded_ends() -> None:
    bank = make_bank(200)
    prior = with_linear_decoder(fitted_vae(bank).double())
    (pair,) = draw_pairs(bank, 1, 0, "encoder_1")
    way = interpolate(prior, pair, steps=5)
    means, _ = prior.encode(pair.filters.double(), pair.positions)
    first, last = prior.decode(means, pair.positions).numpy()
    np.testing.assert_allclose(way.ends, pair.filters.numpy())
    for share, filters in zip(way.shares, way.filters, strict=True):
        np.testing.assert_allclose(filters, (1 - share) * first + share * last, rtol=1e-5, atol=1e-6)


def test_a_layer_conditional_decoder_is_asked_for_the_largest_layer() -> None:
    bank = make_bank(210)
    bank = bank[torch.cat([torch.arange(60), torch.arange(105, 210)])]  # 60 of layer 0, 105 of layer 1
    prior = fitted_vae(bank, Condition.LAYER)
    nn.init.normal_(
        prior.decoder.mean.weight, generator=torch.Generator().manual_seed(1)
    )  # else it may ignore the layer
    walk = traverse(prior, bank)
    means, _ = prior.encode(bank.filters, bank.positions)
    where = bank.positions[-1:]
    assert where.layer.tolist() == [1]
    middle = prior.decode(means.mean(0, keepdim=True), where).numpy()
    other = prior.decode(means.mean(0, keepdim=True), bank.positions[:1]).numpy()
    assert np.abs(middle - other).max() > 1e-3
    np.testing.assert_allclose(walk.filters[0, 2], middle[0], rtol=1e-5, atol=1e-6)
    pairs = draw_pairs(bank, 2, 0, "encoder_1")
    assert [pair.layer.tolist() for pair in pairs] == [[1, 1], [1, 1]]


def test_pairs_are_distinct_reproducible_and_of_the_larger_half() -> None:
    bank = make_bank(200)
    pairs = draw_pairs(bank, 2, 7, "encoder_1")
    again = draw_pairs(bank, 2, 7, "encoder_1")
    drawn = torch.cat([pair.filters for pair in pairs])
    assert torch.equal(drawn, torch.cat([pair.filters for pair in again]))
    assert len(torch.unique(drawn, dim=0)) == 4
    assert drawn.norm(dim=1).min() >= bank[:100].filters.norm(dim=1).median()


def test_unused_axes_are_named_and_a_large_latent_is_cut() -> None:
    count = MOST_AXES + 3
    filters = np.random.default_rng(0).normal(size=(count, 3, 27)).astype(np.float32)
    activity = np.where(np.arange(count) < 2, 0.5, 0.001)
    walk = Traversal(np.array([-2.0, 0.0, 2.0]), np.arange(count), activity, filters, 0.5)
    assert walk.used == 2
    axes = traversal_figure(walk).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(names) == MOST_AXES
    assert [name.endswith("unused") for name in names[:4]] == [False, False, True, True]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["−2 sd", "mean", "+2 sd"]


def test_small_decoder_means_are_enlarged_by_a_round_factor() -> None:
    bank = make_bank(40)
    (pair,) = draw_pairs(bank, 1, 0, "g")
    way = interpolate(fitted_vae(bank), pair)
    small = type(way)(way.shares, way.ends, np.tile(way.ends[:1] / 15, (5, 1)))
    figure, factor = interpolation_figure([small])
    image = np.asarray(figure.axes[0].images[0].get_array())
    columns = column_mosaic(np.zeros((7, 27))).columns.astype(int)
    assert factor in (5.0, 10.0, 20.0)
    np.testing.assert_allclose(image[5, columns[1]], factor / 15 * image[5, columns[0]], rtol=1e-5)


def test_distances_in_closed_form() -> None:
    start = np.random.default_rng(0).normal(size=(500, 27)).astype(np.float32)
    pairs = TrainedPairs(start, start * np.float32(-0.5), 1, 500)
    np.testing.assert_allclose(relative_distance(pairs), 1.5, rtol=1e-6)


def test_histograms_count_every_filter_and_mark_the_threshold() -> None:
    start = np.random.default_rng(0).normal(size=(500, 27)).astype(np.float32)
    trained = start * np.float32(1.1)
    trained[:100] = 0  # norms of zero have no logarithm and still count
    groups = {"one": GroupFilters(trained, TrainedPairs(start, trained, 1, 500), 0.25, 0.8)}
    axes = norm_figure(groups).axes[0]
    outlines = [p for p in axes.patches if isinstance(p, StepPatch) and p.get_label() in {"trained", "initial"}]
    assert len(outlines) == 2
    for outline in outlines:
        assert np.nansum(outline.get_data().values) == pytest.approx(1.0)
    assert outlines[0].get_data().values[0] == pytest.approx(0.2)
    (threshold,) = [line for line in axes.lines if line.get_label() == "threshold"]
    assert list(threshold.get_xdata()) == [0.25, 0.25]
    assert axes.get_title("right") == "80.0 % kept"
    moved = distance_figure(groups).axes[0]
    assert moved.get_title("right") == "median 10 %"
    lines = {line.get_label(): line.get_ydata() for line in spectrum_figure(groups).axes[0].lines}
    assert np.mean(lines["initial"]) == pytest.approx(1.0)


def test_reads_the_same_random_filters_with_where_they_came_from(tmp_path: Path) -> None:
    bank = make_bank(1000)
    write_bank(tmp_path / "collect-filters/g/filters.npy", [bank[:500], bank[500:]], (2, 500))
    sample = read_filters(tmp_path, "g", 100, seed=3)
    again = read_filters(tmp_path, "g", 100, seed=3)
    assert sample is not None
    assert again is not None
    assert len(sample) == 100
    assert torch.equal(sample.filters, again.filters)
    rows = [int((bank.filters == f).all(1).nonzero()) for f in sample.filters]
    assert rows == sorted(set(rows))
    whole = bank[torch.tensor(rows)]
    assert all(
        torch.equal(getattr(sample, c), getattr(whole, c)) for c in ("layer", "out_index", "in_index", "network")
    )
    everything = read_filters(tmp_path, "g", 5000, seed=3)
    assert everything is not None
    assert torch.equal(everything.filters, bank.filters)
    assert read_filters(tmp_path, "other", 100, seed=3) is None


def test_pairs_are_of_the_same_filter_in_the_last_snapshot(tmp_path: Path) -> None:
    for network in range(20):
        folder = tmp_path / f"train-source/network-{network:02d}"
        initial = {"a.weight": torch.randn(4, 5, 3, 3, 3), "b.weight": torch.randn(2, 3, 3, 3, 3)}
        save_tensors(folder / "initial.safetensors", initial)
        for snapshot, factor in ((2, 7.0), (10, 3.0), (9, 8.0)):
            save_tensors(folder / f"snapshot-{snapshot}.safetensors", {k: factor * v for k, v in initial.items()})
    pairs = read_trained_pairs(tmp_path, "g", ["a.weight", "b.weight"], 80, seed=1)
    assert pairs is not None
    assert (pairs.networks, pairs.total, len(pairs.initial)) == (8, 8 * 26, 80)
    np.testing.assert_allclose(pairs.trained, 3 * pairs.initial)
    assert len(np.unique(pairs.initial, axis=0)) == 80
    assert read_trained_pairs(tmp_path / "elsewhere", "g", ["a.weight"], 80, seed=1) is None


def test_groups_of_the_encoder_come_first(tmp_path: Path) -> None:
    for name in ("decoder_1", "decoder_10", "decoder_2", "encoder_1"):
        (tmp_path / "collect-filters" / name).mkdir(parents=True)
    names = [folder.name for folder in group_folders(tmp_path, "collect-filters")]
    assert names == ["encoder_1", "decoder_1", "decoder_2", "decoder_10"]


def test_the_full_gaussian_and_vaes_are_known_by_their_options() -> None:
    pooled = {"kind": "gaussian", "covariance": "full", "centre": "pooled"}
    densities = {
        "scaled": pooled | {"scaling": "layer"},
        "placed": pooled | {"centre": "source_position"},
        "mine": pooled,
        "deep": {"kind": "vae"},
    }
    adapter: TypeAdapter[dict[str, PriorOptions]] = TypeAdapter(dict[str, PriorOptions])
    options = adapter.validate_python(densities)
    assert reference_density(options, list(densities)) == "mine"
    assert reference_density(options, ["scaled", "deep"]) is None
    assert reference_density({}, ["isotropic", "gaussian_full"]) == "gaussian_full"
    assert vae_densities(options, ["mine", "deep"]) == ["deep"]


def test_only_a_known_error_makes_a_difference_clear() -> None:
    assert Estimate(mean=1.0, standard_error=0.4).clear
    assert not Estimate(mean=1.0, standard_error=0.5).clear
    assert not Estimate(mean=1.0).clear

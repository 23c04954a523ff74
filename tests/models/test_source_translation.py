"""Histogram matching, amplitudes, random contrast and the kernel distance, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.kernel_distance import RandomFeatureMap, median_distance, squared_mmd
from models.translation.fourier_amplitude import swap_amplitudes
from models.translation.histogram_matching import match_quantiles, quantile_function
from models.translation.random_contrast import ContrastOptions, random_contrast, tissue_centres, tissue_classes

PLAIN = ContrastOptions(texture=0, blur=0, bias=0, noise=0)


def test_matched_quantiles_are_those_of_the_target_and_beyond_them_the_map_has_slope_one() -> None:
    source = np.linspace(0.0, 1.0, 5)[None]
    image = torch.tensor([-1.0, 0.0, 0.3, 1.0, 1.5], dtype=torch.float64).reshape(1, 5, 1, 1)
    matched = match_quantiles(image, source, 2 * source + 1)
    torch.testing.assert_close(matched.flatten(), torch.tensor([0.0, 1.0, 1.6, 3.0, 3.5], dtype=torch.float64))
    torch.testing.assert_close(match_quantiles(image, source, source), image)


def test_equal_quantiles_go_to_the_mean_of_what_they_match() -> None:
    # Half of the source is air.
    source, target = np.array([[0.0, 0.0, 1.0]]), np.array([[4.0, 6.0, 9.0]])
    image = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).reshape(1, 3, 1, 1)
    assert match_quantiles(image, source, target).flatten().tolist() == [5.0, 7.0, 9.0]


def test_a_matched_image_has_the_distribution_of_the_target_in_each_channel() -> None:
    generator = np.random.default_rng(0)
    source, target = generator.normal(size=(2, 4000)), generator.exponential([[1.0], [5.0]], size=(2, 4000))
    image = torch.from_numpy(source).reshape(2, 20, 20, 10)
    matched = match_quantiles(image, *(quantile_function(own, 500) for own in (source, target)))
    for own, wanted in zip(matched, target, strict=True):
        assert np.quantile(own, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(wanted, [0.1, 0.5, 0.9]), rel=0.01)


def wave(cycles: int, amplitude: float) -> torch.Tensor:
    """`[1, 16, 4, 4]`: cycles along the first axis, around 0."""
    line = amplitude * torch.cos(2 * math.pi * cycles * torch.arange(16, dtype=torch.float64) / 16)
    return line[None, :, None, None].expand(1, 16, 4, 4).clone()


def test_with_a_beta_of_zero_the_mean_alone_is_swapped_whatever_its_sign() -> None:
    image, reference = wave(3, 1.0) - 2, wave(1, 2.0) + 0.5
    torch.testing.assert_close(swap_amplitudes(image, reference, 0.0), image + 2.5)


def test_amplitudes_are_swapped_up_to_beta_and_phases_stay() -> None:
    shifted = wave(1, 1.0).roll(3, 1)
    image = shifted + wave(4, 1.0)
    reference = wave(1, 5.0) + wave(4, 7.0)
    # One cycle in 16 voxels is below β = 0.1, four are above it.
    torch.testing.assert_close(swap_amplitudes(image, reference, 0.1), 5 * shifted + wave(4, 1.0))
    torch.testing.assert_close(swap_amplitudes(image, reference, 0.5), 5 * shifted + wave(4, 7.0))


def test_tissue_classes_are_the_clusters_of_the_scan() -> None:
    values = np.repeat(np.array([[0.0, 5.0, 9.0], [1.0, -1.0, 4.0]], np.float32), [50, 10, 30], axis=1)
    centres = tissue_centres(values[:, np.random.default_rng(0).permutation(90)], 3)
    np.testing.assert_allclose(centres, [[0, 1], [5, -1], [9, 4]], atol=1e-6)
    image = torch.tensor([[0.4, 8.0], [1.0, 3.0]])[:, :, None, None]
    assert tissue_classes(image, torch.from_numpy(centres)).flatten().tolist() == [0, 2]


def test_each_class_has_one_intensity_and_a_whole_scan_mean_zero_and_deviation_one() -> None:
    tissue = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]).reshape(2, 2, 2)
    shares, structures = torch.tensor([3 / 8, 2 / 8, 3 / 8]), torch.zeros(2, 2, 2, dtype=torch.int64)
    image = random_contrast(tissue, structures, shares, 2, PLAIN, np.random.default_rng(1))
    assert image.shape == (2, 2, 2, 2)
    for channel in image:
        assert float(channel.mean()) == pytest.approx(0, abs=1e-5)
        assert float(channel.std(correction=0)) == pytest.approx(1, abs=1e-5)
        assert [len(channel[tissue == own].unique()) for own in range(3)] == [1, 1, 1]
    assert not torch.equal(image[0], image[1])
    again = random_contrast(tissue, structures, shares, 2, PLAIN, np.random.default_rng(1))
    assert torch.equal(again, image)


@pytest.mark.parametrize(("own", "values"), [(0.0, 1), (1.0, 2)])
def test_a_structure_has_its_own_intensity_or_that_of_its_tissue(own: float, values: int) -> None:
    tissue = torch.zeros(4, 4, 4, dtype=torch.int64)
    structures = tissue.clone()
    structures[:2] = 3
    options = PLAIN.model_copy(update={"own_intensity": own})
    image = random_contrast(tissue, structures, torch.tensor([1.0]), 1, options, np.random.default_rng(0))
    assert len(image.unique()) == values


def test_the_scanner_blurs_shades_and_adds_noise() -> None:
    tissue = (torch.arange(8) > 3).long()[:, None, None].expand(8, 8, 8)
    structures, shares = torch.zeros_like(tissue), torch.tensor([0.5, 0.5])
    for name, value in (("texture", 0.3), ("blur", 2.0), ("bias", 0.5), ("noise", 0.2)):
        options = PLAIN.model_copy(update={name: value})
        image = random_contrast(tissue, structures, shares, 1, options, np.random.default_rng(2))
        assert len(image[0, 4:].unique()) > 1, name


def test_the_kernel_distance_is_the_unbiased_estimate() -> None:
    first, second = (torch.tensor(own, dtype=torch.float64) for own in ([[0.0], [2.0]], [[1.0], [4.0]]))

    def kernel(distance: float) -> float:
        return math.exp(-(distance**2) / (2 * 1.5**2))

    across = (kernel(1) + kernel(4) + kernel(1) + kernel(2)) / 4
    assert squared_mmd(first, second, 1.5) == pytest.approx(kernel(2) + kernel(3) - 2 * across, abs=1e-12)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(100, 2, 20, 3, generator=generator, dtype=torch.float64)
    found = [squared_mmd(own[0], own[1], median_distance(own[0])) for own in drawn]
    # The biased estimate would be about 2 (1 − k) / 20 > 0.03 for samples of one distribution.
    assert abs(np.mean(found)) < 0.006
    assert min(found) < 0
    assert median_distance(torch.zeros(3, 2)) == 1.0


def test_the_feature_map_is_fixed_and_tells_contrast_and_brightness_apart() -> None:
    torch.manual_seed(1)
    first = RandomFeatureMap(1)
    torch.manual_seed(2)
    patches = torch.randn(6, 1, 9, 8, 7)
    features = first(patches)
    assert features.shape == (6, 128)
    assert torch.equal(features, RandomFeatureMap(1)(patches))
    for other in (-patches, patches + 1, 2 * patches):
        assert not torch.allclose(features, first(other), rtol=0.05)

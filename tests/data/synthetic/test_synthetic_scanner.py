import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from pydantic import ValidationError

from data.synthetic.deformation import Displacement, Warp, WarpOptions, random_affine
from data.synthetic.scanner import Sampler, ScanGrid, ScannerOptions, acquire, bias_field, draw_grid
from data.volume import Volume

STILL = Displacement(np.full(3, -60.0), 4.0, np.zeros((3, 31, 31, 31)))
TEMPLATE_AFFINE = np.array([[2.0, 0, 0, -60], [0, 2, 0, -60], [0, 0, 2, -60], [0, 0, 0, 1]])
CODES = np.zeros((61, 61, 61), dtype=np.uint8)


def draw(seed: int, **options: object) -> ScanGrid:
    rng = np.random.default_rng(seed)
    body = rng.uniform(-30, 30, (300, 3))
    return draw_grid(body, body, ScannerOptions(**options), rng)  # type: ignore[arg-type]


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_grid_holds_what_is_needed_and_has_the_asked_spacing(seed: int) -> None:
    body = np.random.default_rng(seed).uniform(-30, 30, (300, 3))
    grid = draw(seed, in_plane_spacing=(1.5, 2), through_plane_spacing=(4, 5))
    index = apply_affine(np.linalg.inv(grid.affine), body)
    assert (index >= 0).all()
    assert (index <= np.array(grid.shape) - 1).all()
    spacing = np.sort(grid.spacing)
    assert 1.5 <= spacing[0] <= 2
    assert spacing[0] == pytest.approx(spacing[1])
    assert 4 <= grid.spacing[grid.slice_axis] <= 5


def test_every_orientation_stores_the_same_world() -> None:
    grid = draw(3)
    array = np.random.default_rng(0).standard_normal(grid.shape)
    seen = set()
    for seed in range(60):
        code = draw(seed).orientation
        seen.add(code)
        stored = ScanGrid(grid.shape, grid.affine, code, grid.slice_axis).stored(array)
        canonical = nib.as_closest_canonical(nib.Nifti1Image(stored.array, stored.affine))
        assert stored.orientation == code
        np.testing.assert_array_equal(canonical.get_fdata(), array)
        np.testing.assert_allclose(canonical.affine, grid.affine, atol=1e-9)
    assert len(seen) > 25
    assert {draw(seed, random_orientation=False).orientation for seed in range(5)} == {"RAS"}


def test_voxels_are_means_of_the_warped_template() -> None:
    # The mean of a linear signal over a voxel is its value at the voxel's centre, through any affine.
    warp = Warp(random_affine(WarpOptions(), np.zeros(3), np.random.default_rng(5)), STILL)
    slope = np.array([0.3, -0.2, 0.5], dtype=np.float32)
    signal = np.tensordot(slope, np.indices(CODES.shape, dtype=np.float32), 1)
    affine = np.diag([3.0, 2.5, 4.0, 1])
    affine[:3, 3] = [-24, -22, -30]
    grid = ScanGrid((17, 19, 16), affine, "RAS", 2)
    (image,), _ = Sampler(grid, warp, TEMPLATE_AFFINE, sample_mm=1.0).average([signal], CODES, [])
    world = apply_affine(affine, np.moveaxis(np.indices(grid.shape), 0, -1))
    index = apply_affine(np.linalg.inv(TEMPLATE_AFFINE), warp.inverse(world))
    np.testing.assert_allclose(image, index @ slope, atol=2e-3)


def test_shares_are_partial_volumes_and_nothing_lies_beyond_the_template() -> None:
    codes = CODES.copy()
    codes[30:] = 7  # world x from −1 mm on
    grid = ScanGrid((4, 4, 4), np.diag([4.0, 4, 4, 1]), "RAS", 2)
    _, shares = Sampler(grid, Warp(np.eye(4), STILL), TEMPLATE_AFFINE, sample_mm=0.5).average([], codes, [7])
    np.testing.assert_allclose(shares[0, 0], 0.75, atol=0.01)  # voxel 0 spans −2 to 2 mm
    np.testing.assert_allclose(shares[0, 1:], 1)
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = 200
    far = Sampler(ScanGrid((4, 4, 4), affine, "RAS", 2), Warp(np.eye(4), STILL), TEMPLATE_AFFINE, 2.0)
    (image,), shares = far.average([np.ones(CODES.shape, np.float32)], codes, [7], outside=-5)
    assert (image == -5).all()
    assert not shares.any()


def test_bias_field_is_smooth_positive_and_as_strong_as_asked() -> None:
    grid = ScanGrid((60, 60, 40), np.diag([4.0, 4, 5, 1]), "RAS", 2)
    logs = np.stack(
        [np.log(bias_field(grid, ScannerOptions(bias_strength=0.3), np.random.default_rng(s))) for s in range(8)]
    )
    assert np.sqrt((logs**2).mean()) == pytest.approx(0.3, rel=0.35)
    assert np.abs(np.diff(logs, axis=1)).max() < 0.1
    flat = bias_field(grid, ScannerOptions(bias_strength=0), np.random.default_rng(0))
    np.testing.assert_allclose(flat, 1)


def test_noise_is_rician() -> None:
    grid = ScanGrid((40, 40, 40), np.diag([2.0, 2, 2, 1]), "RAS", 2)
    options = ScannerOptions(bias_strength=0, noise=0.05, signal_scale=(5000, 5000))
    air = acquire(np.zeros(grid.shape, np.float32), grid, options, np.random.default_rng(0)) / 5000
    # Rayleigh in air: mean σ √(π/2), deviation σ √(2 − π/2).
    assert air.mean() == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.02)
    assert air.std() == pytest.approx(0.05 * np.sqrt(2 - np.pi / 2), rel=0.02)
    tissue = acquire(np.ones(grid.shape, np.float32), grid, options, np.random.default_rng(0)) / 5000
    assert tissue.mean() == pytest.approx(1 + 0.05**2 / 2, abs=0.001)
    assert tissue.std() == pytest.approx(0.05, rel=0.03)


def test_stored_values_are_signed_16_bit() -> None:
    grid = ScanGrid((5, 5, 5), np.diag([2.0, 2, 2, 1]), "RAS", 2)
    bright = acquire(np.full(grid.shape, 100, np.float32), grid, ScannerOptions(), np.random.default_rng(0))
    assert bright.dtype == np.int16
    assert bright.min() >= 0
    assert isinstance(grid.stored(bright), Volume)


@pytest.mark.parametrize("wrong", [{"in_plane_spacing": (3, 2)}, {"through_plane_spacing": (0, 2)}, {"noise": -1}])
def test_options_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        ScannerOptions(**wrong)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.synthetic.deformation import (
    LARGEST_GRADIENT,
    Displacement,
    Warp,
    WarpOptions,
    least_squares_affine,
    random_affine,
    random_displacement,
    rotation_matrix,
    smooth_noise,
    with_expansion,
)

LOWER, UPPER = np.full(3, -60.0), np.full(3, 60.0)


def draw_warp(seed: int, **options: float) -> Warp:
    rng = np.random.default_rng(seed)
    chosen = WarpOptions(**options)
    return Warp(random_affine(chosen, np.zeros(3), rng), random_displacement(chosen, LOWER, UPPER, rng))


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000), deformation=st.floats(0, 8), fine=st.floats(0, 4))
def test_inverse_undoes_forward(seed: int, deformation: float, fine: float) -> None:
    warp = draw_warp(seed, deformation_mm=deformation, fine_deformation_mm=fine)
    points = np.random.default_rng(seed).uniform(-70, 70, (200, 3))
    np.testing.assert_allclose(warp.inverse(warp.forward(points)), points, atol=0.01)


def test_violent_displacement_is_shrunk_until_it_folds_nowhere() -> None:
    displacement = random_displacement(
        WarpOptions(deformation_mm=8, deformation_scale_mm=6, fine_deformation_mm=4, fine_deformation_scale_mm=4),
        LOWER,
        UPPER,
        np.random.default_rng(0),
    )
    assert displacement.largest_gradient() == pytest.approx(LARGEST_GRADIENT)
    assert displacement.smallest_jacobian() > 0


def test_gradient_bound_holds_for_a_linear_displacement() -> None:
    slope = np.array([[0.1, 0.2, 0.0], [0.0, -0.3, 0.1], [0.05, 0.0, 0.15]])
    positions = Displacement(LOWER, 4.0, np.zeros((3, 9, 9, 9))).positions()
    linear = Displacement(LOWER, 4.0, np.moveaxis(positions @ slope.T, -1, 0))
    assert linear.largest_gradient() == pytest.approx(np.linalg.norm(slope))
    assert linear.smallest_jacobian() == pytest.approx(np.linalg.det(np.eye(3) + slope))
    inside = np.array([[-50.0, -41.3, -33.7]])
    np.testing.assert_allclose(linear.at(inside), inside @ slope.T, atol=1e-9)


def test_displacement_that_is_no_contraction_has_no_inverse() -> None:
    alternating = np.indices((3, 9, 9, 9)).sum(0) % 2 * 40.0
    warp = Warp(np.eye(4), Displacement(LOWER, 4.0, alternating))
    with pytest.raises(ArithmeticError, match="no inverse"):
        warp.inverse(np.random.default_rng(0).uniform(-58, -32, (500, 3)))


def test_expansion_pushes_away_from_its_centre() -> None:
    still = Displacement(LOWER, 4.0, np.zeros((3, 31, 31, 31)))
    pushed = with_expansion(still, np.zeros(3), radius=15.0, strength=0.25)
    np.testing.assert_allclose(pushed.at(np.zeros((1, 3))), 0, atol=1e-9)
    at_radius = pushed.at(np.array([[16.0, 0, 0], [-16.0, 0, 0]]))
    expected = 0.25 * 16 * np.exp(-(16**2) / (2 * 15**2))
    np.testing.assert_allclose(at_radius, [[expected, 0, 0], [-expected, 0, 0]], atol=1e-9)


def test_least_squares_affine_recovers_an_affine_and_ignores_what_it_cannot_explain() -> None:
    rng = np.random.default_rng(1)
    affine = random_affine(WarpOptions(rotation_degrees=30, shear=0.2), np.array([3.0, 4, 5]), rng)
    points = rng.uniform(-80, 80, (50, 3)) + 1000
    target = points @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(least_squares_affine(points, target), affine, atol=1e-8)
    # Residuals that are orthogonal to 1, x, y and z leave the fit as it is.
    design = np.column_stack([points, np.ones(50)])
    noise = rng.standard_normal((50, 3))
    noise -= design @ np.linalg.lstsq(design, noise, rcond=None)[0]
    np.testing.assert_allclose(least_squares_affine(points, target + noise), affine, atol=1e-6)


def test_rotation_matrix_turns_right_handed() -> None:
    np.testing.assert_allclose(rotation_matrix(np.array([0, 0, np.pi / 2])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(rotation_matrix(np.array([np.pi / 2, 0, 0])) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    turned = rotation_matrix(np.array([0.3, -0.8, 1.1]))
    np.testing.assert_allclose(turned @ turned.T, np.eye(3), atol=1e-12)


def test_affine_options_at_zero_leave_the_subject_where_it_is() -> None:
    still = WarpOptions(rotation_degrees=0, translation_mm=0, scaling=0, shear=0)
    np.testing.assert_allclose(
        random_affine(still, np.array([5.0, 6, 7]), np.random.default_rng(0)), np.eye(4), atol=1e-12
    )


def test_smooth_noise_has_unit_deviation_and_is_smooth() -> None:
    noise = smooth_noise((60, 60, 60), 3.0, np.random.default_rng(0))
    assert noise.std() == pytest.approx(1, abs=0.15)
    # The autocorrelation of Gaussian-smoothed white noise at distance d is exp(−d² / 4σ²).
    correlation = np.corrcoef(noise[:-3].ravel(), noise[3:].ravel())[0, 1]
    assert correlation == pytest.approx(np.exp(-9 / 36), abs=0.06)

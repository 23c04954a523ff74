import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy import ndimage

from data.synthetic.abdomen import LOWER, Organ, draw_phantom
from data.synthetic.brain import SyntheticScan
from data.synthetic.cohort import CohortOptions, make_case
from data.synthetic.cohort_kind import CohortKind
from data.synthetic.scanner import ScannerOptions

STEP = 4.0
COARSE = ScannerOptions(in_plane_spacing=(5, 5), through_plane_spacing=(6, 6), sample_mm=3)


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    return draw_phantom(STEP, np.random.default_rng(0))


@pytest.fixture(scope="module")
def scan() -> SyntheticScan:
    return make_case(CohortOptions(cohort=CohortKind.ABDOMEN, cases=1, scanner=COARSE), 0)


def place(codes: np.ndarray, organ: Organ) -> np.ndarray:
    return np.array(ndimage.center_of_mass(codes == organ)) * STEP + LOWER


@pytest.mark.slow
@pytest.mark.parametrize("organ", list(Organ))
def test_every_organ_is_there(codes: np.ndarray, organ: Organ) -> None:
    present = {o for s in range(3) for o in np.unique(draw_phantom(8.0, np.random.default_rng(s)))}
    assert organ in present or (codes == organ).any()


def test_organs_lie_where_they_belong(codes: np.ndarray) -> None:
    liver, spleen, kidney = (place(codes, organ) for organ in (Organ.LIVER, Organ.SPLEEN, Organ.KIDNEY))
    assert liver[0] > 20  # the patient's right
    assert spleen[0] < -60
    assert spleen[1] < liver[1]
    assert kidney[2] < liver[2]
    assert place(codes, Organ.SPINAL_CANAL)[1] < place(codes, Organ.SPONGIOSA)[1]
    assert place(codes, Organ.LUNG)[2] > liver[2]


@pytest.mark.slow
def test_organ_volumes_are_those_of_adults() -> None:
    volumes = []
    for seed in range(5):
        codes = draw_phantom(STEP, np.random.default_rng(seed))
        volumes.append([np.isin(codes, o).sum() * STEP**3 / 1000 for o in ((1, 17), 2, Organ.KIDNEY)])
        _, pieces = ndimage.label(np.isin(codes, (1, 17)), np.ones((3, 3, 3)))
        assert pieces == 1
    liver, spleen, kidneys = np.mean(volumes, axis=0)
    assert 1000 < liver < 2200
    assert 80 < spleen < 350
    assert 150 < kidneys < 500


@pytest.mark.slow
def test_scan_is_in_hounsfield_units(scan: SyntheticScan) -> None:
    image, label = scan.images[0].array, scan.label.array
    assert image.dtype == np.int16
    assert image.min() >= -1024
    assert 40 < np.median(image[label == Organ.LIVER]) < 150
    assert 40 < np.median(image[label == Organ.SPLEEN]) < 170
    assert -1030 < np.median(image[image < -950]) < -970
    assert set(np.unique(label)) == {0, 1, 2}
    assert scan.brain_mask is None


def test_truth_places_the_organs(scan: SyntheticScan) -> None:
    world = apply_affine(scan.label.affine, np.argwhere(scan.label.array == Organ.LIVER))
    template = apply_affine(np.linalg.inv(scan.affine), world.mean(axis=0))
    assert template[0] > 20
    assert scan.smallest_jacobian > 0
    assert scan.residual_mm < 6

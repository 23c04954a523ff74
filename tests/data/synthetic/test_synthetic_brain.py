import numpy as np
import pytest
from scipy import ndimage

from data.synthetic.anatomy import Head, Shells, Tissue, draw_surroundings, load_head
from data.synthetic.contrast import Contrast, ContrastOptions, draw_signals, render_signal, sharpen_fractions
from data.synthetic.ms_lesions import LESION_LOAD_ML, LESION_SIZE_MM3, MSLesionOptions, draw_lesions, draw_sizes
from data.synthetic.tumour import CORE, OEDEMA, RIM, TumourOptions, draw_tumour


@pytest.fixture(scope="module")
def head() -> Head:
    return load_head(2)


@pytest.mark.slow
def test_template_brain_is_one_piece_of_adult_size(head: Head) -> None:
    assert ndimage.label(head.brain)[1] == 1
    millilitres = head.brain.sum() * head.step**3 / 1000
    assert 1600 < millilitres < 2000
    np.testing.assert_allclose(head.fractions.sum(axis=0), head.brain, atol=1e-5)


def test_template_keeps_the_atlas_world(head: Head) -> None:
    from nilearn.datasets import load_mni152_wm_template

    atlas = load_mni152_wm_template(resolution=1)
    weights = np.asarray(atlas.dataobj)
    expected = np.array(ndimage.center_of_mass(weights)) + atlas.affine[:3, 3]
    found = np.array(ndimage.center_of_mass(head.fractions[2])) * head.step + head.box_affine[:3, 3]
    np.testing.assert_allclose(found, expected, atol=0.5)


def test_shells_follow_each_other_outwards(head: Head) -> None:
    tissue = draw_surroundings(head, Shells(csf=2, skull=6, scalp=6), np.random.default_rng(0))
    x, y = (round(-head.affine[a, 3] / head.step) for a in (0, 1))
    top = int(np.argwhere(head.brain[x - head.box[0].start, y - head.box[1].start]).max()) + head.box[2].start
    ray = [Tissue(code) for code in tissue[x, y, top + 1 :]]
    order = [t for i, t in enumerate(ray) if i == 0 or t != ray[i - 1]]
    assert [t for t in order if t in (Tissue.BONE, Tissue.FAT, Tissue.SKIN, Tissue.AIR)][-3:] == [
        Tissue.FAT,
        Tissue.SKIN,
        Tissue.AIR,
    ]
    assert ray.index(Tissue.CSF) < ray.index(Tissue.BONE) < ray.index(Tissue.FAT) < ray.index(Tissue.SKIN)
    assert not tissue[0].any()
    assert (tissue == Tissue.VITREOUS).sum() * head.step**3 / 2000 == pytest.approx(8, abs=3)  # ml of one eye


@pytest.mark.parametrize(
    ("contrast", "order"),
    [
        (Contrast.T1, [Tissue.CSF, Tissue.GREY_MATTER, Tissue.WHITE_MATTER]),
        (Contrast.T2, [Tissue.WHITE_MATTER, Tissue.GREY_MATTER, Tissue.CSF]),
        (Contrast.FLAIR, [Tissue.CSF, Tissue.WHITE_MATTER, Tissue.GREY_MATTER, Tissue.MS_LESION]),
    ],
)
def test_contrasts_order_the_tissues(contrast: Contrast, order: list[Tissue]) -> None:
    signals = draw_signals(contrast, ContrastOptions(tissue_variation=0.02), np.random.default_rng(0))
    assert signals[Tissue.WHITE_MATTER] == 1
    assert list(signals[order]) == sorted(signals[order])


def test_signal_of_pure_tissue_is_its_mean_and_a_lesion_changes_only_its_own_voxels(head: Head) -> None:
    rng = np.random.default_rng(0)
    options = ContrastOptions(texture=0, tissue_variation=0)
    signals = draw_signals(Contrast.FLAIR, options, rng)
    around = draw_surroundings(head, Shells.draw(rng), rng)
    fractions = sharpen_fractions(head.fractions, 2.0)
    lesions = draw_lesions(head, MSLesionOptions(contrast=(1, 1), contrast_variation=0), rng)
    plain = render_signal(head, around, fractions, [], signals, options, rng)
    ill = render_signal(head, around, fractions, [lesions], signals, options, rng)
    pure = np.zeros(head.shape, bool)
    pure[head.box] = fractions[2] > 0.9999
    np.testing.assert_allclose(plain[pure], 1, atol=0.01)
    touched = np.zeros(head.shape, bool)
    touched[head.box] = lesions.fraction > 0
    assert (ill[~touched] == plain[~touched]).all()
    lesion = np.zeros(head.shape, bool)
    lesion[head.box] = lesions.fraction >= 0.5
    assert np.median(ill[lesion]) > np.median(plain[lesion]) + 0.4


def test_sharpening_keeps_the_sum_and_sharpens(head: Head) -> None:
    sharp = sharpen_fractions(head.fractions, 2.0)
    np.testing.assert_allclose(sharp.sum(axis=0), head.brain, atol=1e-4)
    assert sharp.max(axis=0)[head.brain].mean() > head.fractions.max(axis=0)[head.brain].mean() + 0.05
    assert sharp[0].sum() < sharpen_fractions(head.fractions, 4.0)[0].sum()


def test_lesion_sizes_follow_the_measured_quantiles() -> None:
    patients = [draw_sizes(MSLesionOptions(load_ml=(1, 52)), np.random.default_rng(s)) for s in range(200)]
    sizes = np.concatenate(patients)
    measured = LESION_SIZE_MM3
    for level, index, tolerance in ((25, 2, 0.25), (50, 3, 0.25), (75, 4, 0.25), (90, 5, 0.5)):
        assert np.percentile(sizes, level) == pytest.approx(measured[index], rel=tolerance)
    load = np.array([p.sum() for p in patients]) / 1000
    assert np.median(load) == pytest.approx(LESION_LOAD_ML[3], rel=0.35)
    assert 45 < np.median([len(p) for p in patients]) < 95


def test_load_is_cut_to_the_asked_range() -> None:
    loads = [draw_sizes(MSLesionOptions(load_ml=(8, 12)), np.random.default_rng(s)).sum() / 1000 for s in range(40)]
    assert min(loads) > 7
    assert max(loads) < 12.5


def test_lesions_lie_in_white_matter_and_mostly_at_ventricles(head: Head) -> None:
    at_ventricle, total = 0.0, 0.0
    for seed in range(6):
        lesions = draw_lesions(head, MSLesionOptions(), np.random.default_rng(seed))
        mask = lesions.fraction >= 0.5
        assert head.brain[mask].all()
        assert (head.fractions[2][mask] > 0.6).all()
        labelled, count = ndimage.label(mask, np.ones((3, 3, 3)))
        nearest = ndimage.minimum(head.ventricle_distance, labelled, np.arange(1, count + 1))
        sizes = np.bincount(labelled.ravel())[1:]
        at_ventricle += sizes[nearest <= 3].sum()
        total += sizes.sum()
    assert 0.5 < at_ventricle / total < 0.95  # measured: 0.75


def test_lesions_of_the_same_stream_are_the_same(head: Head) -> None:
    first, second, other = (draw_lesions(head, MSLesionOptions(), np.random.default_rng(s)).fraction for s in (1, 1, 2))
    assert (first == second).all()
    assert (first != other).any()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_tumour_is_one_mass_of_the_asked_volume(head: Head, seed: int) -> None:
    options = TumourOptions(volume_ml=(60, 60), mass_effect=(0, 0), mass_share=(0.4, 0.4), core_share=(0.5, 0.5))
    tumour = draw_tumour(head, options, np.random.default_rng(seed))
    millilitres = {value: (tumour.labels == value).sum() * head.step**3 / 1000 for value in (CORE, RIM, OEDEMA)}
    assert millilitres[OEDEMA] == pytest.approx(36, abs=0.1)
    assert millilitres[CORE] + millilitres[RIM] == pytest.approx(24, abs=0.1)
    assert millilitres[CORE] == pytest.approx(12, rel=0.1)
    assert head.brain[tumour.labels > 0].all()
    whole, pieces = ndimage.label(tumour.labels > 0, np.ones((3, 3, 3)))
    assert np.bincount(whole.ravel())[1:].max() > 0.98 * (tumour.labels > 0).sum(), pieces
    # The rim wraps the core: no core voxel touches oedema or healthy tissue.
    around = ndimage.binary_dilation(tumour.labels == CORE)
    assert np.isin(tumour.labels[around], (CORE, RIM)).all()


@pytest.mark.slow
def test_oedema_prefers_white_matter_and_keeps_out_of_ventricles(head: Head) -> None:
    shares = []
    for seed in range(4):
        labels = draw_tumour(head, TumourOptions(volume_ml=(80, 80)), np.random.default_rng(seed)).labels
        shares.append(head.fractions[2][labels == OEDEMA].mean())
        assert (head.ventricle_distance[labels == OEDEMA] > 0).all()
    assert np.mean(shares) > head.fractions[2][head.brain].mean() + 0.15

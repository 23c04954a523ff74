from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError

from data.errors import PreprocessingError
from data.modality import Modality
from data.volume import Volume
from preprocessing.alignment import AlignmentOptions
from preprocessing.chain import Chain, PreprocessingOptions, default_options
from preprocessing.orientation import OrientationOptions, to_canonical
from preprocessing.padding import PaddingOptions
from preprocessing.registration import rotation_about
from preprocessing.resampling import ResamplingOptions
from preprocessing.step import Interpolation
from preprocessing.subject import Subject
from preprocessing.template import load_template


def _oblique_brain(background=-0.8) -> Subject:
    """A stripped brain, z-scored, stored as PIL-like axes on an oblique anisotropic grid, with a label in it."""
    template = load_template(4.0)
    brain = np.where(template.mask, template.image.array * 3, background).astype(np.float32)
    turn = rotation_about(np.array([0, -18.0, 10]), (9, -4, 6))
    affine = turn @ np.diag([1.03, 0.97, 1.0, 1]) @ template.image.affine
    order = np.zeros((4, 4))
    order[[1, 2, 0, 3], [0, 1, 2, 3]] = 1
    array = np.flip(brain.transpose(1, 2, 0), axis=0)
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = array.shape[0] - 1
    affine = affine @ order @ flip
    index = np.stack(np.indices(array.shape), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    label = (np.linalg.norm(index - [25, -20, 20], axis=-1) < 22).astype(np.int16)
    return Subject("a", {"T1": Volume(np.ascontiguousarray(array), affine)}, Volume(label, affine))


def _dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def _quick(modality: Modality, spacing=4.0) -> PreprocessingOptions:
    options = default_options(modality)
    changes = {"resampling": ResamplingOptions(spacing=spacing)}
    if options.alignment is not None:
        changes["alignment"] = AlignmentOptions(spacings=(8.0,))
    return options.model_copy(update=changes)


@pytest.mark.slow
@pytest.mark.parametrize("modality", [Modality.MR_BRAIN, Modality.MR, Modality.CT])
def test_a_chain_ends_on_one_grid_and_inverts_to_the_raw_one(modality):
    raw = _oblique_brain()
    chain = Chain(_quick(modality).model_copy(update={"padding": PaddingOptions(multiple=8)}))
    processed, records = chain.apply(raw)
    assert processed.one_grid()
    assert processed.reference.orientation == "RAS"
    assert all(n % 8 == 0 for n in processed.reference.shape)
    records = json.loads(json.dumps(records))
    back = chain.invert(processed.label, records)
    assert back.shape == raw.reference.shape
    assert np.abs(back.affine - raw.reference.affine).max() <= 1e-6
    assert _dice(back.array > 0, raw.label.array > 0) > 0.94
    share = processed.label.with_array(processed.label.array.astype(np.float32))
    smooth = chain.invert(share, records, Interpolation.LINEAR)
    assert smooth.array.min() >= 0
    assert smooth.array.max() <= 1 + 1e-6
    assert _dice(smooth.array > 0.5, raw.label.array > 0) > 0.94


def test_the_aligned_brain_lies_where_the_template_has_it():
    raw = _oblique_brain()
    processed, records = Chain(_quick(Modality.MR_BRAIN)).apply(raw)
    mask = processed.mask
    centre = np.argwhere(mask.array > 0).mean(axis=0) @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    template = load_template(4.0)
    expected = np.argwhere(template.mask).mean(axis=0) @ template.image.affine[:3, :3].T + template.image.affine[:3, 3]
    assert np.linalg.norm(centre - expected) < 2
    np.testing.assert_allclose(processed.reference.affine[:3, :3], np.diag([4, 4, 4]))
    assert (processed.reference.array[mask.array == 0] == 0).all()
    assert not [reason for record in records for reason in record["suspect"]]


def test_equal_spacing_without_alignment_changes_no_label_voxel():
    raw = _oblique_brain()
    spacing = tuple(to_canonical(raw.reference).spacing)
    chain = Chain(default_options(Modality.MR).model_copy(update={"resampling": ResamplingOptions(spacing=spacing)}))
    processed, records = chain.apply(raw)
    np.testing.assert_array_equal(chain.invert(processed.label, records).array, raw.label.array)


@pytest.mark.slow
def test_the_same_subject_gives_the_same_bytes():
    options = _quick(Modality.MR_BRAIN)
    first, second = (Chain(options).apply(_oblique_brain()) for _ in range(2))
    assert first[0].reference.array.tobytes() == second[0].reference.array.tobytes()
    assert json.dumps(first[1]) == json.dumps(second[1])


def test_channels_on_different_grids_end_on_one():
    raw = _oblique_brain()
    coarse = Volume(
        np.ascontiguousarray(raw.reference.array[::2, ::2, ::2]), raw.reference.affine @ np.diag([2, 2, 2, 1])
    )
    two = Subject("a", {"T1": raw.reference, "T2": coarse})
    processed, _ = Chain(_quick(Modality.MR)).apply(two)
    assert processed.one_grid()
    processed, _ = Chain(PreprocessingOptions(canonical_orientation=OrientationOptions())).apply(two)
    assert processed.one_grid()


def test_every_modality_has_a_default_chain_in_the_fixed_order():
    order = list(PreprocessingOptions.model_fields)
    for modality in Modality:
        names = [step.name for step in Chain(default_options(modality)).steps]
        assert names == [name for name in order if name in names]
        assert "resampling" in names
    assert "bias_field" in [step.name for step in Chain(default_options(Modality.MR_HEAD)).steps]


def test_options_survive_a_trip_through_json():
    for modality in Modality:
        options = default_options(modality)
        assert PreprocessingOptions.model_validate_json(options.model_dump_json()) == options


def test_alignment_without_resampling_is_refused():
    with pytest.raises(ValidationError, match="needs resampling"):
        PreprocessingOptions(alignment=AlignmentOptions())


def test_unknown_options_are_refused():
    with pytest.raises(ValidationError):
        PreprocessingOptions(skullstrip={})
    with pytest.raises(ValidationError, match="above 0 mm"):
        ResamplingOptions(spacing=(1, 0, 1))


def test_records_of_another_chain_are_refused():
    raw = _oblique_brain()
    processed, records = Chain(_quick(Modality.MR)).apply(raw)
    with pytest.raises(PreprocessingError, match="records are of the steps"):
        Chain(_quick(Modality.MR_BRAIN)).invert(processed.label, records)


def test_a_volume_from_elsewhere_is_refused():
    chain = Chain(_quick(Modality.MR))
    _, records = chain.apply(_oblique_brain())
    with pytest.raises(PreprocessingError, match="grid"):
        chain.invert(Volume(np.zeros((3, 3, 3), np.uint8), np.eye(4)), records)


def test_a_chain_can_be_stopped_between_its_steps():
    chain = Chain(_quick(Modality.MR).model_copy(update={"padding": PaddingOptions(multiple=8)}))
    shares, carried_out = [], []
    chain.apply(_oblique_brain(), shares.append)
    assert shares == [number / len(chain.steps) for number in range(len(chain.steps))]
    for step in chain.steps:
        step.apply = lambda subject, step=step, apply=step.apply: (carried_out.append(step.name), apply(subject))[1]

    def stop(share):
        if share > 0:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        chain.apply(_oblique_brain(), stop)
    assert carried_out == [chain.steps[0].name]

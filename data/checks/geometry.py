"""Checks of where the voxels lie: affines, units, and whether image, label and mask share a grid."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import polar

from data.checks.finding import Finding, Level
from data.checks.observation import CaseObservation
from data.errors import DataError
from data.image_header import LARGEST_SPACING, SMALLEST_SPACING, format_shape, impossible_extent
from data.plain_number import plain_number
from data.shared_grid import SAME_GRID, place
from data.volume import SNAP_TOLERANCE, affine_displacement


def _without_shear(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine with the nearest orthogonal axes (polar decomposition) and the same spacing and origin."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    straight = affine.copy()
    straight[:3, :3] = polar(affine[:3, :3] / spacing)[0] * spacing
    return straight


def check_affine(case: CaseObservation) -> Iterator[Finding]:
    """An affine cannot be inverted, or is sheared so that a corner moves by more than rounding explains."""
    for file, header in case.headers():
        if header.affine_fault:
            fix = "correct sform and qform, or export the file again"
            yield Finding(Level.ERROR, case.case.name, "affine", f"{file}: {header.affine_fault}", fix)
            continue
        shape = header.shape[:3]
        if len(shape) < 3:
            continue
        moved = affine_displacement(header.affine, _without_shear(header.affine), shape)
        allowed = SNAP_TOLERANCE * float(header.spacing.min())
        if moved > allowed:
            found = (
                f"{file}: the affine is sheared; axes at right angles would move a corner by "
                f"{plain_number(moved)} mm (allowed: {plain_number(allowed)} mm)"
            )
            fix = "resample it to axes at right angles (CT with a tilted gantry: convert with dcm2niix)"
            yield Finding(Level.ERROR, case.case.name, "shear", found, fix)


def check_forms(case: CaseObservation) -> Iterator[Finding]:
    """The sform and the qform of a NIfTI file put the voxels in different places; readers disagree which to use."""
    for file, header in case.headers():
        if header.sform is None or header.qform is None or header.affine_fault or not np.isfinite(header.qform).all():
            continue
        moved = affine_displacement(header.sform, header.qform, header.shape[:3])
        mirrored = np.linalg.det(header.sform[:3, :3]) * np.linalg.det(header.qform[:3, :3]) < 0
        if mirrored or moved > SNAP_TOLERANCE * float(header.spacing.min()):
            found = f"{file}: sform and qform put a corner {plain_number(moved)} mm apart"
            found += ", and one mirrors the other (left and right are in doubt)" if mirrored else "; the sform is used"
            level = Level.ERROR if mirrored else Level.WARNING
            fix = "find out which is right and write it into both (nibabel: set_sform, set_qform)"
            yield Finding(level, case.case.name, "sform_qform", found, fix)


def check_no_form(case: CaseObservation) -> Iterator[Finding]:
    """A file does not say how its voxels lie in the scanner (NIfTI: sform and qform of code 0)."""
    for file, header in case.headers():
        if header.unplaced and not header.affine_fault:
            found = f"{file}: {header.unplaced}, so where right and left are is a guess, and viewers guess differently"
            fix = "export the file again with its orientation, or write it into the header (NIfTI: sform and qform)"
            yield Finding(Level.WARNING, case.case.name, "no_form", found, fix)


def check_units(case: CaseObservation) -> Iterator[Finding]:
    """A NIfTI file declares µm or m instead of mm."""
    for file, header in case.headers():
        if header.unit not in ("micron", "meter"):
            continue
        spacing = " × ".join(f"{s:.4g}" for s in header.spacing)
        name = {"micron": "µm", "meter": "m"}[header.unit]
        outcome = "which is impossible; mm are assumed" if header.unit_ignored else "it was converted"
        found = f"{file} declares {name} as its unit; {outcome}: spacing {spacing} mm"
        fix = "check the spacing, and write the unit mm into the header (xyzt_units = 2)"
        yield Finding(Level.WARNING, case.case.name, "unit", found, fix)


def check_spacing_range(case: CaseObservation) -> Iterator[Finding]:
    """No scanner has this spacing."""
    for file, header in case.headers():
        if header.affine_fault or len(header.shape) < 3:
            continue
        if impossible := impossible_extent(header.shape, header.spacing):
            fix = "correct the spacing in the header, or export the image again"
            yield Finding(Level.ERROR, case.case.name, "implausible_spacing", f"{file} {impossible}", fix)
        elif header.spacing.min() < SMALLEST_SPACING or header.spacing.max() > LARGEST_SPACING:
            spacing = " × ".join(f"{s:.3g}" for s in header.spacing)
            found = f"{file} has a spacing of {spacing} mm"
            fix = f"correct the header: {SMALLEST_SPACING:g} to {LARGEST_SPACING:g} mm are usual"
            yield Finding(Level.WARNING, case.case.name, "implausible_spacing", found, fix)


def check_label_grid(case: CaseObservation) -> Iterator[Finding]:
    """Label or brain mask lie on a different grid from the image, or were brought onto it."""
    if not case.images:
        return
    first = next(iter(case.images))
    for name, check, path in (
        ("label", "label_grid", case.case.label),
        ("brain mask", "mask_grid", case.case.brain_mask),
    ):
        volume = case.values(path)
        if volume is None:
            continue
        try:
            placement = place(volume, case.images, name)
        except DataError as error:
            yield Finding(Level.ERROR, case.case.name, check, error.found, error.fix)
            continue
        if placement.channel != first:
            found = f"{name}: on the grid of {placement.channel}, not on that of the first channel {first}"
            fix = f"if the channels are not co-registered yet, name {placement.channel} first: "
            fix += f"the {name} was drawn on it"
            yield Finding(Level.WARNING, case.case.name, check, found, fix)
        for change in placement.changes:
            yield Finding(Level.INFO, case.case.name, check, change, "nothing to do")


def check_channel_grids(case: CaseObservation) -> Iterator[Finding]:
    """Channels lie on different grids, so that they have to be co-registered and resampled."""
    if not case.images:
        return
    (first, reference), *others = case.images.items()
    for name, volume in others:
        if not reference.same_grid(volume, SAME_GRID):
            shapes = format_shape(volume.shape), format_shape(reference.shape)
            found = f"{name} ({shapes[0]} voxels) lies on a different grid from {first} ({shapes[1]} voxels)"
            fix = "no action is needed if the preprocessing registers the channels"
            yield Finding(Level.INFO, case.case.name, "channel_grid", found, fix)

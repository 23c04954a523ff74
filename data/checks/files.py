"""Checks of the files themselves: present, readable, three-dimensional, with as many frames as channels."""

from __future__ import annotations

from collections.abc import Iterator

from data.checks.finding import Finding, Level
from data.checks.observation import CaseObservation
from data.checks.report import Presence
from data.image_file import NIFTI_SUFFIXES, PAIR_SUFFIXES, image_suffix
from data.image_header import format_shape, thinness
from data.nifti_file import diagnose_nifti

# Voxels that a filter spans.
_FILTER = 3


def check_missing_file(case: CaseObservation) -> Iterator[Finding]:
    """A file that the layout names does not exist."""
    for path, file in case.files.items():
        if file.presence is Presence.MISSING:
            found = f"{case.roles[path]}: there is no file {path}"
            fix = "restore the file, or remove the case from the dataset's list"
            yield Finding(Level.ERROR, case.case.name, "missing_file", found, fix)


def check_unreadable(case: CaseObservation) -> Iterator[Finding]:
    """A file is damaged, truncated, of an unknown kind, or claims more voxels than it can hold."""
    for path, file in case.files.items():
        if file.presence is not Presence.UNREADABLE or file.error is None:
            continue
        if file.header is not None and (file.header.affine_fault or len(file.header.volume_shape) not in (3, 4)):
            continue  # The checks of the affine and of the dimensions report it more precisely.
        found = f"{case.roles[path]}: {file.error.found}"
        yield Finding(Level.ERROR, case.case.name, "unreadable_file", found, file.error.fix)


def check_header(case: CaseObservation) -> Iterator[Finding]:
    """A NIfTI header has faults that readers correct silently, each in its own way."""
    for path, file in case.files.items():
        if file.presence is Presence.PRESENT and image_suffix(path) in NIFTI_SUFFIXES + PAIR_SUFFIXES:
            faults = diagnose_nifti(path)
            if faults:
                found = f"{case.roles[path]}: the header of {path.name} is not valid: {', '.join(faults)}"
                fix = "check the spacing and the orientation in a viewer, and export the file again"
                yield Finding(Level.WARNING, case.case.name, "header", found, fix)


def check_ignored_bytes(case: CaseObservation) -> Iterator[Finding]:
    """Something follows the voxels of a file; readers ignore it."""
    for file, header in case.headers():
        if header.ignored_bytes:
            found = f"{file} holds {header.ignored_bytes:,} bytes after its voxels"
            fix = "they are ignored; if the file was pieced together, export it again"
            yield Finding(Level.WARNING, case.case.name, "trailing_bytes", found, fix)


def check_dimensions(case: CaseObservation) -> Iterator[Finding]:
    """A file is not 3D, or its number of frames differs from the number of channels that the dataset has in it."""
    for path, file in case.files.items():
        if file.header is None:
            continue
        shape, role = file.header.volume_shape, case.roles[path]
        frames = [source.frame for source in case.case.channels.values() if source.path == path]
        wanted = [frame for frame in frames if frame is not None]
        text = f"{role}: {path.name} has the shape {format_shape(file.header.shape)}"
        fix = ""
        if len(shape) not in (3, 4):
            fix = "export it as one 3D volume"
        elif len(shape) == 4 and not wanted:
            fix = "use one frame (or the mean) of the series; a 4D file with one frame is accepted"
        elif wanted and max(wanted) >= (shape[3] if len(shape) == 4 else 1):
            text += f", too few frames for {len(wanted)} channels"
            fix = "correct the channels in dataset.json, or the file"
        if fix:
            yield Finding(Level.ERROR, case.case.name, "not_3d", text, fix)
        elif len(shape) == 4 and shape[3] > max(wanted) + 1:
            text += f", more frames than the {len(wanted)} channels that the dataset names"
            yield Finding(Level.WARNING, case.case.name, "frames", text, "name all channels in dataset.json")
        if not fix and (thin := thinness(shape)):
            text = f"{role}: {path.name} {thin}"
            yield Finding(Level.ERROR, case.case.name, "thin", text, "provide the whole volume, or leave the case out")
        elif not fix and min(shape[:3]) < _FILTER:
            text = f"{role}: {path.name} has the shape {format_shape(shape)}, too thin for 3D filters"
            yield Finding(Level.WARNING, case.case.name, "thin", text, "leave the case out, or check that it is whole")

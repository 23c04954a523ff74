"""One case as it lies on the disk: each file is read once; what cannot be read is kept as its error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from data.case import Case
from data.checks.report import Presence
from data.errors import DataError
from data.image_file import ImageHeader, image_parts, read_header, read_image
from data.label_map import as_brain_mask, as_label_map
from data.modality import Modality
from data.volume import Volume


@dataclass(frozen=True)
class FileObservation:
    """A file that was opened.

    Attributes:
        path: the file.
        presence: whether it is there and readable.
        header: what it claims, if that could be read.
        frames: its volumes, one for each frame, as they are stored; empty if the voxels could not be read.
        error: why something could not be read.
    """

    path: Path
    presence: Presence
    header: ImageHeader | None = None
    frames: tuple[Volume, ...] = ()
    error: DataError | None = None


@dataclass(frozen=True)
class CaseObservation:
    """What was read of a case.

    Attributes:
        case: the case.
        files: path → observation, each file once.
        images: channel → volume as float32, for the channels that are one readable 3D volume.
        label: the label map, if it is one readable 3D volume and its values are labels.
        brain_mask: the brain mask, likewise.
        faults: `label` or `brain mask` → why its values are not those of one.
        declared: label values that the dataset declares.
        foreground: label values that the study uses; `None` means all that are declared.
        roles: path → channels, `label` or `brain mask`.
        ignored: label values of voxels without annotation.
        modality: what the scan is said to be, if anything is said.
    """

    case: Case
    files: dict[Path, FileObservation]
    images: dict[str, Volume]
    label: Volume | None
    brain_mask: Volume | None
    declared: tuple[int, ...]
    foreground: tuple[int, ...] | None = None
    roles: dict[Path, str] = field(default_factory=dict)
    faults: dict[str, DataError] = field(default_factory=dict)
    modality: Modality | None = None
    ignored: tuple[int, ...] = ()

    def values(self, path: Path | None) -> Volume | None:
        """The values of a label or mask as they are stored, if it is one readable 3D volume."""
        return None if path is None else _single(self.files.get(path))

    def headers(self) -> Iterator[tuple[str, ImageHeader]]:
        """Each header that could be read, with its file in words: `T1, FLAIR: scan.nii.gz`."""
        for path, file in self.files.items():
            if file.header is not None:
                yield f"{self.roles[path]}: {path.name}", file.header


def observe_file(path: Path) -> FileObservation:
    """Reads the header and all frames of a file; never raises for what is wrong with the file."""
    header = None
    try:
        header = read_header(path)
        image = read_image(path)
        return FileObservation(path, Presence.PRESENT, image.header, image.frames)
    except DataError as error:
        presence = Presence.UNREADABLE if _is_there(path) else Presence.MISSING
        return FileObservation(path, presence, header, error=error)


def _is_there(path: Path) -> bool:
    try:
        return all(part.exists() for part in image_parts(path)[:1])
    except OSError:  # The folder may not be searched.
        return True


def _single(observation: FileObservation | None, frame: int | None = None) -> Volume | None:
    """The volume of a channel; `None` if it was not read, or if it is not clear which frame is meant."""
    if observation is None or (frame is None and len(observation.frames) > 1):
        return None
    index = frame or 0
    return observation.frames[index] if index < len(observation.frames) else None


def observe_scan(
    case: Case, images: Mapping[str, Volume], modality: Modality, files: Mapping[Path, FileObservation]
) -> CaseObservation:
    """Observes a scan whose channels were read already; its label, if there is one, is ignored.

    Args:
        case: the case.
        images: channel → volume.
        modality: what the scan is said to be.
        files: path → what is known of it; an image in memory stands under the path that the case gives it.
    """
    roles = _channel_roles(case, images)
    seen = {path: files[path] for path in roles}
    return CaseObservation(case, seen, dict(images), None, None, (), roles=roles, modality=modality)


def _channel_roles(case: Case, names: Iterable[str]) -> dict[Path, str]:
    """Path → the channels that it holds."""
    roles: dict[Path, str] = {}
    for name in names:
        path = case.channels[name].path
        roles[path] = f"{roles[path]}, {name}" if path in roles else name
    return roles


def observe_case(
    case: Case,
    channels: Sequence[str],
    declared: Sequence[int],
    foreground: Sequence[int] | None = None,
    modality: Modality | None = None,
    ignored: Sequence[int] = (),
) -> CaseObservation:
    """Reads the given channels, the label and the brain mask of a case."""
    sources = {name: case.channels[name] for name in channels if name in case.channels}
    roles = _channel_roles(case, sources)
    for path, role in ((case.label, "label"), (case.brain_mask, "brain mask")):
        if path is not None:
            roles.setdefault(path, role)
    files = {path: observe_file(path) for path in roles}
    images = {name: _single(files[source.path], source.frame) for name, source in sources.items()}
    observation = CaseObservation(
        case=case,
        files=files,
        images={name: _as_image(volume) for name, volume in images.items() if volume is not None},
        label=None,
        brain_mask=None,
        declared=tuple(declared),
        foreground=None if foreground is None else tuple(foreground),
        roles=roles,
        modality=modality,
        ignored=tuple(ignored),
    )
    return _with_meaning(observation)


def _as_image(volume: Volume) -> Volume:
    # What exceeds float32 becomes Inf, as it does when the case is read for preprocessing.
    with np.errstate(over="ignore", invalid="ignore"):
        return volume.with_array(np.ascontiguousarray(volume.array, np.float32))


def _with_meaning(case: CaseObservation) -> CaseObservation:
    """Reads label and brain mask by the same rules as preprocessing."""
    found: dict[str, Volume | None] = {}
    faults: dict[str, DataError] = {}
    for name, path, rule in (
        ("label", case.case.label, as_label_map),
        ("brain mask", case.case.brain_mask, lambda volume, name, step: as_brain_mask(volume, name)),
    ):
        volume = case.values(path)
        header = None if path is None else case.files[path].header
        try:
            found[name] = None if volume is None or header is None else rule(volume, name, header.step)
        except DataError as error:
            found[name], faults[name] = None, error
    return replace(case, label=found["label"], brain_mask=found["brain mask"], faults=faults)

"""One case as it lies on the disk: each file read once, what could not be read kept as its error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.case import Case
from data.checks.report import Presence
from data.errors import DataError
from data.image_file import ImageHeader, read_frames, read_header
from data.volume import Volume


@dataclass(frozen=True)
class FileObservation:
    """A file that was opened.

    Attributes:
        path: the file.
        presence: whether it is there and readable.
        header: what it claims, if that could be read.
        frames: its volumes, one for each frame; empty if the voxels could not be read.
        error: why something could not be read.
    """

    path: Path
    presence: Presence
    header: ImageHeader | None = None
    frames: tuple[Volume, ...] = ()
    error: DataError | None = None

    @property
    def series(self) -> bool:
        """Whether the file holds several frames."""
        return len(self.frames) > 1


@dataclass(frozen=True)
class CaseObservation:
    """What was read of a case.

    Attributes:
        case: the case.
        files: path → observation, each file once.
        images: channel → volume, for the channels that are one readable 3D volume.
        label: the label map as float32, if it is one readable 3D volume.
        brain_mask: the brain mask, likewise.
        foreground: label values that the study uses; `None` means all that are declared.
        declared: label values that the dataset declares.
    """

    case: Case
    files: dict[Path, FileObservation]
    images: dict[str, Volume]
    label: Volume | None
    brain_mask: Volume | None
    declared: tuple[int, ...]
    foreground: tuple[int, ...] | None = None
    roles: dict[Path, str] = field(default_factory=dict)

    def named_volumes(self) -> list[tuple[str, Volume]]:
        """All volumes of the case with their channel, `label` or `brain mask`."""
        named = [*self.images.items(), ("label", self.label), ("brain mask", self.brain_mask)]
        return [(name, volume) for name, volume in named if volume is not None]


def observe_file(path: Path) -> FileObservation:
    """Reads the header and all frames of a file; never raises for what is wrong with the file."""
    if not path.exists():
        try:
            read_header(path)
        except DataError as error:
            return FileObservation(path, Presence.MISSING, error=error)
    header = None
    try:
        header = read_header(path)
        return FileObservation(path, Presence.PRESENT, header, tuple(read_frames(path)))
    except DataError as error:
        return FileObservation(path, Presence.UNREADABLE, header, error=error)


def _single(observation: FileObservation | None, frame: int | None = None) -> Volume | None:
    """The volume of a channel; `None` if it was not read, or if it is not clear which frame is meant."""
    if observation is None or (frame is None and observation.series):
        return None
    index = frame or 0
    return observation.frames[index] if index < len(observation.frames) else None


def observe_case(
    case: Case,
    channels: Sequence[str],
    declared: Sequence[int],
    foreground: Sequence[int] | None = None,
) -> CaseObservation:
    """Reads the given channels, the label and the brain mask of a case."""
    sources = {name: case.channels[name] for name in channels if name in case.channels}
    roles: dict[Path, str] = {}
    for name, source in sources.items():
        roles[source.path] = f"{roles[source.path]}, {name}" if source.path in roles else name
    for path, role in ((case.label, "label"), (case.brain_mask, "brain mask")):
        if path is not None:
            roles.setdefault(path, role)
    files = {path: observe_file(path) for path in roles}
    images = {name: _single(files[source.path], source.frame) for name, source in sources.items()}
    return CaseObservation(
        case=case,
        files=files,
        images={name: volume for name, volume in images.items() if volume is not None},
        label=_single(files.get(case.label)) if case.label else None,
        brain_mask=_single(files.get(case.brain_mask)) if case.brain_mask else None,
        declared=tuple(declared),
        foreground=None if foreground is None else tuple(foreground),
        roles=roles,
    )

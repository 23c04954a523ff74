"""A raw scan: its volumes, and what their headers claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.case import Case, ImageSource
from data.checks.observation import FileObservation
from data.checks.report import Presence
from data.image_file import ImageHeader, read_header
from data.volume import Volume
from preprocessing.subject import Subject, check_image, load_subject


@dataclass(frozen=True)
class GivenImage:
    """One channel in memory: its voxels, what its header claims, and the file that it was read from, if any."""

    volume: Volume
    header: ImageHeader
    source: ImageSource | None = None

    @classmethod
    def read(cls, source: ImageSource) -> GivenImage:
        """Reads a file.

        Raises:
            DataError: it cannot be read.
        """
        return cls(source.read(), read_header(source.path), source)


@dataclass(frozen=True)
class RawScan:
    """A scan before preprocessing.

    Attributes:
        case: names the files; a channel without a file has its name as path.
        subject: the volumes.
        files: path → what the file claims about its image.
    """

    case: Case
    subject: Subject
    files: Mapping[Path, FileObservation]

    @classmethod
    def read(cls, case: Case, channels: Sequence[str]) -> RawScan:
        """Reads the channels of a case.

        Raises:
            DataError: a file cannot be read, or its image cannot be used.
        """
        subject = load_subject(case, channels)
        paths = dict.fromkeys(case.channels[name].path for name in channels)
        files = {path: FileObservation(path, Presence.PRESENT, read_header(path)) for path in paths}
        return cls(case, subject, files)

    @classmethod
    def of_images(cls, name: str, images: Mapping[str, GivenImage]) -> RawScan:
        """Makes a scan of images in memory.

        Args:
            name: of the case.
            images: channel → image; the results lie on the grid of the first channel.

        Raises:
            DataError: an image cannot be used.
        """
        sources = {channel: image.source or ImageSource(Path(channel)) for channel, image in images.items()}
        for channel, image in images.items():
            check_image(name, str(sources[channel].path), image.volume)
        subject = Subject(name, {channel: image.volume for channel, image in images.items()})
        files = {}
        for channel, image in images.items():
            presence = Presence.IN_MEMORY if image.source is None else Presence.PRESENT
            files[sources[channel].path] = FileObservation(sources[channel].path, presence, image.header)
        return cls(Case(name, name, sources), subject, files)

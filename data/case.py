"""A case: the files of one image set of one patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.image_file import image_parts, read_brain_mask, read_label, read_volume
from data.volume import Volume


@dataclass(frozen=True)
class ImageSource:
    """Where one channel lies: a file and, in a 4D file, the frame."""

    path: Path
    frame: int | None = None

    def read(self) -> Volume:
        """Reads the channel as float32.

        Raises:
            DataError: as `data.image_file.read_volume`.
        """
        return read_volume(self.path, self.frame)


@dataclass(frozen=True)
class Case:
    """One image set.

    Attributes:
        name: unique in its dataset.
        patient: whose scan it is; several cases may share one patient.
        channels: channel name → where it lies, in the dataset's channel order.
        label: the label map, if there is one.
        brain_mask: a ready-made brain mask, if there is one.
    """

    name: str
    patient: str
    channels: Mapping[str, ImageSource]
    label: Path | None = None
    brain_mask: Path | None = None

    def read_label(self) -> Volume:
        """Reads the label map as int16.

        Raises:
            DataError: there is no label, or it cannot be read as one.
        """
        if self.label is None:
            raise DataError(
                f"case {self.name!r} has no label",
                expected="a label map",
                fix="add it to the dataset, or leave the case out",
            )
        return read_label(self.label)

    def read_brain_mask(self) -> Volume:
        """Reads the ready-made brain mask as uint8.

        Raises:
            DataError: there is no mask, or it cannot be read as one.
        """
        if self.brain_mask is None:
            raise DataError(f"case {self.name!r} has no brain mask", expected="a mask", fix="add it to the dataset")
        return read_brain_mask(self.brain_mask)

    def files(self) -> list[Path]:
        """All files of the case, each once, in a fixed order; for an image in several files all of them."""
        paths = [source.path for source in self.channels.values()] + [self.label, self.brain_mask]
        return list(dict.fromkeys(part for path in paths if path is not None for part in image_parts(path)))

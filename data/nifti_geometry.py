"""The geometry fields of a NIfTI header: a map is written with those of its scan, so that every viewer overlays both.

Viewers differ in whether they use the sform or the qform, and in how they treat units and missing forms. Only identical
fields are read alike by all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data.nifti_file import open_nifti

_FIELDS = (
    "qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "toffset",
)  # fmt: skip
_SPATIAL = 4
"""Length of `pixdim` up to the third axis; its first number is the handedness of the qform."""


@dataclass(frozen=True)
class NiftiGeometry:
    """What a NIfTI header says of where its voxels lie, field by field, in the file's own unit.

    Attributes:
        shape: voxels along the three spatial axes.
        fields: name → value.
        pixdim: the first four numbers of `pixdim`.
    """

    shape: tuple[int, int, int]
    fields: dict[str, Any]
    pixdim: NDArray[np.float64]

    @classmethod
    def read(cls, path: Path) -> NiftiGeometry:
        """Reads the fields of a NIfTI file.

        Raises:
            DataError: it cannot be read.
        """
        header = open_nifti(path)[0].raw
        fields = {name: np.array(header[name]) for name in _FIELDS}
        vector = np.array([fields[f"quatern_{axis}"] for axis in "bcd"], dtype=np.float64)
        if (length := float(np.linalg.norm(vector))) > 1:
            # Rounding, or not a rotation at all; readers without a tolerance would refuse the map.
            fields |= {f"quatern_{axis}": value / length for axis, value in zip("bcd", vector, strict=True)}
        x, y, z = (int(n) for n in header["dim"][1:_SPATIAL])
        return cls((x, y, z), fields, np.array(header["pixdim"][:_SPATIAL], dtype=np.float64))

    def header(self) -> nib.Nifti1Header:
        """Returns a header with these fields and nothing else set."""
        header = nib.Nifti1Header()
        for name, value in self.fields.items():
            header[name] = value
        header["pixdim"][:_SPATIAL] = self.pixdim
        return header

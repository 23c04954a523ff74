"""Pictures of the report: written into `report/figures/` and inlined into the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from data.errors import WorkspaceError
from pipeline.storage.atomic import temporary_sibling


@dataclass(frozen=True)
class Picture:
    """A picture in the page.

    Attributes:
        uri: the whole picture as a data URI.
        alt: what it shows, in words.
        width: in pixels.
        height: in pixels.
    """

    uri: str
    alt: str
    width: int
    height: int


@dataclass
class PictureFolder:
    """Collects the pictures of one report.

    Attributes:
        folder: where figures are also written.
        dpi: resolution of figures.
        vector: whether they are written as SVG as well.
    """

    folder: Path
    dpi: int
    vector: bool = True

    def add(self, name: str, figure: Figure, alt: str, *, colours: int | None = None) -> Picture:
        """Draws a figure, writes it as `NAME.png`, and `NAME.svg`, and returns the PNG for inlining.

        Args:
            name: base name of the file.
            figure: the figure.
            alt: what it shows.
            colours: size of the palette to reduce it to, for photographs; None keeps all colours.

        Returns:
            The picture.
        """
        FigureCanvasAgg(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=self.dpi, metadata={"Software": None})
        with Image.open(stream) as image:
            flat = image.convert("RGB")
        # Line art on white has few colours: 256 are enough for smooth edges, and shrink the file to a third.
        stream = io.BytesIO()
        flat.quantize(colours or 256, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
        data = stream.getvalue()
        written = {".png": data}
        if self.vector:
            # The layout was found while the PNG was drawn; it is the same for the SVG.
            figure.set_layout_engine("none")
            stream = io.BytesIO()
            figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
            written[".svg"] = stream.getvalue()
        for suffix, content in written.items():
            with temporary_sibling(self.folder / f"{name}{suffix}") as temporary:
                temporary.write_bytes(content)
        return Picture(_uri(data, "image/png"), alt, *flat.size)


def thumbnail(path: Path, width: int, alt: str) -> Picture:
    """Reads a picture file and shrinks it to a width in pixels, as JPEG.

    Raises:
        WorkspaceError: the file is damaged.
    """
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise WorkspaceError(
            f"{path}: cannot be read as a picture ({error})",
            expected="a PNG",
            fix="delete its folder and run preprocess again",
        ) from error
    if small.width > width:
        small = small.resize((width, max(1, round(small.height * width / small.width))), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=82, optimize=True)
    return Picture(_uri(stream.getvalue(), "image/jpeg"), alt, *small.size)


def _uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"

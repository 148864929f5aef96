"""A film of the iterations as GIF, with a bounded number of frames however long the run is."""

import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from adjoint.run.figures import gray_levels, level_image

if TYPE_CHECKING:
    from PIL.Image import Image

# At most 16 frames a second: a film that is watched as motion, of a file of a few megabytes.
MOST_FRAMES = 128
FRAME_SIZE = 600  # pixels, of the longer side
CAPTION_HEIGHT = 26  # pixels
FILM_LENGTH = 8000  # milliseconds, without the last frame, which stays longer
LAST_FRAME_LENGTH = 2500  # milliseconds

Frame = tuple[UInt8[np.ndarray, "rows columns"], str]


class Film:
    """Frames of a density, thinned out evenly: when too many, every second one is dropped.

    So after any number of iterations the frames are equally spaced, at least `MOST_FRAMES` / 2 and
    at most `MOST_FRAMES` of them, and the latest one is always the last.

    Examples
    --------
    >>> film = Film()
    >>> for iteration in range(1000):
    ...     film.add(np.full((2, 6), iteration / 1000), f"iteration {iteration}")
    >>> len(film.captions), film.captions[1], film.captions[-1]
    (126, 'iteration 8', 'iteration 999')
    """

    def __init__(self):
        self._frames: list[Frame] = []
        self._latest: Frame | None = None
        self._stride = 1
        self._count = 0

    def __len__(self) -> int:
        return len(self._all())

    @property
    def captions(self) -> list[str]:
        """The captions of the frames that are kept, in order."""
        return [caption for _, caption in self._all()]

    def add(self, density: Float[np.ndarray, "x y"], caption: str) -> None:
        """Add a frame.

        Parameters
        ----------
        density
            Values from 0 to 1, indexed like coordinates.
        caption
            A line of text below the picture.
        """
        levels = gray_levels(density)
        # Enlarged only in the film, reduced at once.
        frame = (
            levels
            if max(levels.shape) <= FRAME_SIZE
            else np.asarray(level_image(levels, FRAME_SIZE)),
            caption,
        )
        self._latest = None if self._count % self._stride == 0 else frame
        if self._latest is None:
            self._frames.append(frame)
        self._count += 1
        if len(self._frames) == MOST_FRAMES:
            self._latest = self._latest or self._frames[-1]
            self._frames = self._frames[::2]
            self._stride *= 2

    def gif(self) -> bytes:
        """The film as GIF, repeating for ever.

        Raises
        ------
        ValueError
            When there is no frame.
        """
        if not self._count:
            raise ValueError("a film without a frame cannot be written; add at least one")
        frames = [
            _captioned(level_image(levels, FRAME_SIZE), caption) for levels, caption in self._all()
        ]
        # Browsers play anything shorter than 20 ms at 100 ms; 60 ms is still smooth.
        duration = min(max(FILM_LENGTH // len(frames), 60), 400)
        buffer = io.BytesIO()
        frames[0].save(
            buffer,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=[duration] * (len(frames) - 1) + [LAST_FRAME_LENGTH],
            loop=0,
        )
        return buffer.getvalue()

    def arrays(self) -> list[np.ndarray]:
        """All that `restore` needs: texts and counts as the bytes of JSON, then the frames."""
        frames = self._all()
        said = {
            "captions": self.captions,
            "whole": self._latest is None,
            "stride": self._stride,
            "count": self._count,
        }
        return [
            np.frombuffer(json.dumps(said).encode(), np.uint8),
            *(levels for levels, _ in frames),
        ]

    def restore(self, arrays: Sequence[np.ndarray]) -> int:
        """Take the place of the film whose `arrays` these begin with; return their number."""
        said = json.loads(arrays[0].tobytes())
        captions = said["captions"]
        frames = list(zip(arrays[1 : 1 + len(captions)], captions, strict=True))
        self._latest = None if said["whole"] else frames.pop()
        self._frames = frames
        self._stride = said["stride"]
        self._count = said["count"]
        return 1 + len(captions)

    def _all(self) -> list[Frame]:
        return self._frames + ([self._latest] if self._latest is not None else [])


def _captioned(image: "Image", caption: str) -> "Image":
    from PIL import Image, ImageDraw, ImageFont

    # A small domain still gets a strip wide enough for its caption.
    page = Image.new("L", (max(image.width, FRAME_SIZE // 2), image.height + CAPTION_HEIGHT), 255)
    page.paste(image, (0, 0))
    draw = ImageDraw.Draw(page)
    draw.line([(0, image.height), (page.width, image.height)], fill=160)
    draw.text((6, image.height + 5), caption, fill=0, font=ImageFont.load_default(14))
    return page

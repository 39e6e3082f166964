"""Folders of videos as clips: class folders as of pictures, frames spread evenly over each video, by PyAV."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from var_pe.data.folder_source import Folder, FolderSource
from var_pe.data.pictures import CorruptImage, DataError
from var_pe.data.walk import find_pictures

SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"))


class VideoFolder(FolderSource):
    """One split of a folder of videos: every video is a clip of `frames` frames.

    Splits, classes and held-out files are found as those of folders of pictures (docs/data.md).

    Raises:
        ValueError: PyAV is not installed, or there are no videos, or what folders of pictures refuse.
    """

    def __init__(self, folder: Folder, train: bool, frames: int) -> None:
        check_library()
        if not find_pictures(folder.root, suffixes=SUFFIXES).pictures:
            raise ValueError(
                f"{folder.root} holds no videos ({', '.join(sorted(SUFFIXES))}): a folder for each split, "
                f"such as train and test, holds one for each class"
            )
        super().__init__(folder, train)
        self.frames = frames

    @property
    def fingerprint(self) -> str:
        return f"{self.frames}-frames-{super().fingerprint}"

    def array(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Pixels (frames, height, width, 3), and the label."""
        return read_clip(self.file(index), self.frames), int(self.labels_N[index])

    def read(self, index: int) -> tuple[Image.Image, int]:
        """The first frame of the clip, and the label."""
        pixels, label = self.array(index)
        return Image.fromarray(pixels[0]), label


def check_library() -> None:
    """Says what to install where PyAV is missing.

    Raises:
        ValueError: it is.
    """
    if find_spec("av") is None:
        raise ValueError('data.source=videos needs PyAV, which is not installed: pip install -e ".[video]"')


def spread(frames: int, number: int) -> list[int]:
    """Which of `number` frames a clip has: the middle one of each of `frames` equal parts of the video."""
    return [(2 * part + 1) * number // (2 * frames) for part in range(frames)]


def read_clip(file: Path, frames: int) -> NDArray[np.uint8]:
    """Some frames of a video, spread evenly over it and turned upright, RGB (frames, height, width, 3).

    The video is decoded from its beginning to the last of them; others are not kept.

    Raises:
        DataError: it has fewer frames.
        CorruptImage: it cannot be read.
    """
    import av

    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise CorruptImage(f"corrupt video {file}: it has no pictures")
            stream = container.streams.video[0]
            number = sum(packet.size > 0 for packet in container.demux(stream))
        if number < frames:
            raise DataError(f"video {file} has {number} frames, fewer than data.frames={frames}")

        wanted = spread(frames, number)
        clip: list[NDArray[np.uint8]] = []
        with av.open(str(file)) as container:
            for place, frame in enumerate(container.decode(video=0)):
                if place == wanted[len(clip)]:
                    pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                    clip.append(np.rot90(pixels, round(frame.rotation / 90)))
                if len(clip) == frames:
                    return np.stack(clip)
    except av.FFmpegError as error:
        raise CorruptImage(f"corrupt video {file}: {error.strerror}") from error
    raise CorruptImage(f"corrupt video {file}: it ends before frame {wanted[len(clip)]} of {number}")

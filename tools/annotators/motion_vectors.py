"""Motion vectors of video codecs, VideoComposer's condition `motion`; dense flow where a codec has none.

A vector is the forward motion at a pixel of the present frame, (x, y) in pixels of that frame, as the codec has it:
since the frame that the block was predicted from, which is the last one except where codecs refer further back or
ahead. Frames without prediction (key frames, the first one) have no motion.

Where they come from:
    codec   what the file's own encoder wrote, through the side data that FFmpeg's decoders export (MPEG-1, -2 and -4,
            H.264 and relatives; not H.265, VP9, AV1 or pictures in a row).
    mpeg4   the frames encoded anew in memory with FFmpeg's MPEG-4 encoder, one key frame and then only forward
            prediction: the kind of vectors that VideoComposer was trained on, whatever the file.
    flow    OpenCV's dense flow from each frame back to the one before it.
    auto    of a file the codec's, and flow where the codec exports none; of frames mpeg4.
"""
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from torch import Tensor

from tools import media
from tools.annotators.base import Annotator, as_frames, as_pictures, one_of
from tools.annotators.flow import dense_flow
from tools.errors import UserError
from tools.registry import ANNOTATOR

log = logging.getLogger(__name__)

SOURCES = ("auto", "codec", "mpeg4", "flow")
BLOCK = 16  # pixels, side of a macroblock
QUANTIZER = 3  # of the MPEG-4 encoder, 1 (best) to 31
LAMBDA = 118  # FFmpeg's units of quality per step of the quantizer
COLUMNS = ("source", "w", "h", "src_x", "src_y", "dst_x", "dst_y", "motion_x", "motion_y", "motion_scale")
FULL_COLOR = 8.0  # pixels of motion that are drawn in full colour

LONGEST = 600  # frames between two key frames, the most that FFmpeg's encoder allows

Motion = tuple[np.ndarray, np.ndarray]  # a frame, uint8 [H, W, 3], and its motion, float32 [H, W, 2]


@ANNOTATOR.register("motion_vectors", aliases=["motion"])
class MotionVectors(Annotator):
    """Motion in pixels per frame, [F, 2, H, W]: x to the right, y down.

    Args:
        source: 'auto', 'codec', 'mpeg4' or 'flow', see above.
        dense: give every pixel of a block its vector. Otherwise only the pixel at the block's centre has it and all
            others are 0, which is what published weights know.

    Raises:
        UserError: unknown source.
    """

    channels = 2

    def __init__(self, source: str = "auto", dense: bool = False):
        self.source, self.dense = one_of(source, SOURCES, "motion_vectors: source"), dense

    def __call__(self, video: Tensor | str | Path) -> Tensor:
        """Motion of frames, float [F, 3, H, W] in [0, 1], or of a video file at its own size and rate.

        Raises:
            UserError: `source` is 'codec' and there is none; the file is missing, not a video or damaged.
        """
        if isinstance(video, Tensor):
            fields = np.stack([field for _, field in self._of_pictures(lambda: as_pictures(video))])
            return torch.from_numpy(fields).permute(0, 3, 1, 2).to(video.device)
        return torch.cat([maps for _, maps in self.stream(video)])

    def stream(self, path: str | Path) -> Iterator[tuple[Tensor, Tensor]]:
        """Frames [1, 3, H, W] and motion [1, 2, H, W] of a video file, one by one; UserError as in a call."""
        for picture, field in self._of_file(path):
            yield as_frames(picture[None]), torch.from_numpy(np.ascontiguousarray(field)).permute(2, 0, 1)[None]

    def _of_pictures(self, pictures: Callable[[], Iterable[np.ndarray]]) -> Iterator[Motion]:
        """`pictures()` gives them from the first on, twice, so that a long video need not be held in memory."""
        if self.source == "codec":
            raise UserError("motion_vectors: frames have no codec; name a video file, or source mpeg4 or flow")
        if self.source == "flow":
            yield from self._flow(pictures())
        else:
            for picture, vectors in zip(pictures(), encode_anew(pictures()), strict=True):
                yield picture, self._field(picture, vectors)

    def _of_file(self, path) -> Iterator[Motion]:
        def pictures():
            return map(media.frame_array, media.decode(path))

        if self.source == "mpeg4":
            yield from self._of_pictures(pictures)
        elif self.source == "flow" or not self._exports(path):
            yield from self._flow(pictures())
        else:
            for frame in media.decode(path, export_vectors=True):
                field = self._field(frame.to_ndarray(format="rgb24"), vectors_of(frame))
                yield media.frame_array(frame), _upright(field, media.quarter_turns(frame))

    def _exports(self, path) -> bool:
        """Does the file's decoder export vectors? A file of one frame need not.

        Raises:
            UserError: it does not and the user wants the codec's.
        """
        exported = [vectors_of(frame) is not None for frame in media.decode(path, export_vectors=True)]
        if any(exported) or len(exported) == 1:
            return True
        if self.source == "codec":
            raise UserError(f"motion_vectors: the codec of '{path}' exports none; use source mpeg4 or flow")
        log.info("motion_vectors: the codec of '%s' exports none, using dense flow", path)
        return False

    def _field(self, picture: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
        rows = np.zeros((0, len(COLUMNS))) if vectors is None else vectors
        return vector_map(rows, *picture.shape[:2], dense=self.dense)

    def _flow(self, pictures: Iterable[np.ndarray]) -> Iterator[Motion]:
        before = None
        for picture in pictures:
            field = np.zeros((*picture.shape[:2], 2), np.float32)
            if before is not None:
                field = -dense_flow(picture, before)
            yield picture, field if self.dense or before is None else block_centers(field)
            before = picture

    def draw(self, maps: Tensor) -> np.ndarray:
        """Direction as hue, length as colour on black; single vectors as blocks."""
        fields = maps.permute(0, 2, 3, 1).float().cpu().numpy()
        return np.stack([_color_wheel(field if self.dense else _spread(field)) for field in fields])


def vectors_of(frame: av.VideoFrame) -> np.ndarray | None:
    """The vectors that a decoder exported with a frame, float64 [N, 10] with COLUMNS, or None."""
    side_data = frame.side_data.get("MOTION_VECTORS")
    if side_data is None:
        return None
    table = side_data.to_ndarray()
    return np.stack([table[name].astype(np.float64) for name in COLUMNS], axis=1)


def vector_map(vectors: np.ndarray, height: int, width: int, dense: bool = False) -> np.ndarray:
    """Forward motion, float32 [height, width, 2], of vectors [N, 10] with COLUMNS.

    A vector points from its block to where the block was predicted from, in the past (source -1) or future (1), in
    units of 1 / motion_scale pixels; times source it points forward in both cases. Destinations are clipped into the
    frame, and of two at one pixel the last is kept.
    """
    field = np.zeros((height, width, 2), np.float32)
    forward = vectors[:, :1] * vectors[:, 7:9] / vectors[:, 9:]
    if not dense:
        x, y = vectors[:, 5:7].astype(int).T
        field[y.clip(0, height - 1), x.clip(0, width - 1)] = forward
        return field
    sizes, centers = vectors[:, 1:3].astype(int), vectors[:, 5:7].astype(int)
    for motion, (across, down), (x, y) in zip(forward, sizes, centers, strict=True):
        field[max(y - down // 2, 0):max(y + down // 2, 0), max(x - across // 2, 0):max(x + across // 2, 0)] = motion
    return field


def encode_anew(pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray | None]:
    """The vectors that FFmpeg's MPEG-4 encoder finds, for some pictures, uint8 [H, W, 3]; None at key frames."""
    buffer = io.BytesIO()
    options = {"flags": "+qscale", "global_quality": str(QUANTIZER * LAMBDA), "sc_threshold": "1000000000"}
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=25, options=options)
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = "yuv420p", LONGEST, 0
        for number, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            if number == 0:
                stream.height, stream.width = height + height % 2, width + width % 2
            even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))
        container.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer) as container:
        stream = container.streams.video[0]
        media.ask_for_vectors(stream)
        yield from map(vectors_of, container.decode(stream))


def block_centers(field: np.ndarray) -> np.ndarray:
    """A dense field [H, W, 2] as a codec would write it: each macroblock's mean at its centre, 0 elsewhere."""
    sparse = np.zeros_like(field)
    height, width = field.shape[:2]
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            center = min(top + BLOCK // 2, height - 1), min(left + BLOCK // 2, width - 1)
            sparse[center] = field[top:top + BLOCK, left:left + BLOCK].mean((0, 1))
    return sparse


def _upright(field: np.ndarray, turns: int) -> np.ndarray:
    """A field turned counter-clockwise by quarters, its vectors as well."""
    for _ in range(turns % 4):
        field = np.rot90(field)
        field = np.stack([field[..., 1], -field[..., 0]], axis=-1)
    return field


def _spread(field: np.ndarray) -> np.ndarray:
    """Each non-zero vector over the block around it."""
    kernel = np.ones((BLOCK, BLOCK), np.uint8)
    return np.stack([cv2.dilate(np.maximum(part, 0), kernel) - cv2.dilate(np.maximum(-part, 0), kernel)
                     for part in np.moveaxis(field, -1, 0)], axis=-1)


def _color_wheel(field: np.ndarray) -> np.ndarray:
    length, angle = cv2.cartToPolar(np.ascontiguousarray(field[..., 0]), np.ascontiguousarray(field[..., 1]),
                                    angleInDegrees=True)
    value = np.minimum(length / FULL_COLOR, 1) * 255
    hsv = np.stack([angle / 2, np.full_like(angle, 255), value], axis=-1)
    return cv2.cvtColor(hsv.round().clip(0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)

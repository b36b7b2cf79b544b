"""Previews: several captioned clips as one video, or as one picture."""
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MIN_TILE = 160  # pixels: smaller clips are enlarged by whole factors, so that their captions can be read
MAX_LINES = 3
FONT_SIZE = 12
MARGIN = 4
BORDER = 2  # pixels around the clips of a plain grid
GAP = 200  # grey level between tiles: clips have white and black backgrounds


def video_grid(clips: Sequence[np.ndarray], captions: Sequence[str], columns: int | None = None) -> np.ndarray:
    """Clips side by side, each above its caption; shorter clips hold their last frame.

    Args:
        clips: uint8 [F, H, W, 3] each, all of one size H x W.
        captions: one each.
        columns: clips in a row; about as many as rows when omitted.

    Returns:
        uint8 [F, H', W', 3] with the F of the longest clip and even sides.
    """
    columns = columns or math.ceil(math.sqrt(len(clips)))
    clips = [_enlarge(clip) for clip in clips]
    labels = [_label(caption, clip.shape[2]) for clip, caption in zip(clips, captions, strict=True)]
    frames = max(len(clip) for clip in clips)
    return np.stack([_even(_tile([np.concatenate([clip[min(i, len(clip) - 1)], label])
                                  for clip, label in zip(clips, labels, strict=True)], columns))
                     for i in range(frames)])


def plain_grid(clips: Sequence[np.ndarray], columns: int = 6) -> np.ndarray:
    """Clips side by side with two black pixels around each; a single clip is left as it is.

    Args:
        clips: uint8 [F, H, W, 3] each, all of one shape.
        columns: most clips in a row.

    Returns:
        uint8 [F, H', W', 3].
    """
    if len(clips) == 1:
        return np.asarray(clips[0])
    frames, height, width = clips[0].shape[:3]
    across = min(columns, len(clips))
    down = math.ceil(len(clips) / across)
    grid = np.zeros((frames, down * (height + BORDER) + BORDER, across * (width + BORDER) + BORDER, 3), np.uint8)
    for number, clip in enumerate(clips):
        top, left = ((height + BORDER) * (number // across) + BORDER, (width + BORDER) * (number % across) + BORDER)
        grid[:, top:top + height, left:left + width] = clip
    return grid


def contact_sheet(clips: Sequence[np.ndarray], captions: Sequence[str], columns: int = 8) -> np.ndarray:
    """One row per clip: its caption above up to `columns` frames at equal distances, first and last included.

    Args:
        clips: uint8 [F, H, W, 3] each, all of one size H x W.
        captions: one each.
        columns: most frames in a row.

    Returns:
        uint8 [H', W', 3].
    """
    shown = min(columns, max(len(clip) for clip in clips))
    rows = []
    for clip, caption in zip(clips, captions, strict=True):
        picks = np.linspace(0, len(clip) - 1, min(shown, len(clip))).round().astype(int)
        tiles = [_pad(frame) for frame in _enlarge(clip[picks], MIN_TILE // 2)]
        tiles += [np.full_like(tiles[0], GAP)] * (shown - len(tiles))
        strip = np.concatenate(tiles, axis=1)
        rows += [_label(caption, strip.shape[1], lines=1), strip]
    return np.concatenate(rows)


def _enlarge(clip: np.ndarray, least: int = MIN_TILE) -> np.ndarray:
    factor = max(1, math.ceil(least / clip.shape[2]))
    return clip.repeat(factor, axis=1).repeat(factor, axis=2)


def _label(text: str, width: int, lines: int = MAX_LINES) -> np.ndarray:
    """Black text on white, wrapped to `width` pixels and cut to `lines` lines."""
    font = ImageFont.load_default(FONT_SIZE)
    characters = max(1, int((width - 2 * MARGIN) * 10 / font.getlength("abcdenorst")))
    wrapped = textwrap.wrap(text, characters, max_lines=lines, placeholder=" ...") if text else []
    label = Image.new("RGB", (width, lines * (FONT_SIZE + 2) + 2 * MARGIN), "white")
    ImageDraw.Draw(label).multiline_text((MARGIN, MARGIN), "\n".join(wrapped), fill="black", font=font, spacing=1)
    return np.asarray(label)


def _tile(tiles: list[np.ndarray], columns: int) -> np.ndarray:
    tiles = [_pad(tile) for tile in tiles]
    tiles += [np.full_like(tiles[0], GAP)] * (-len(tiles) % columns)
    return np.concatenate([np.concatenate(tiles[i:i + columns], axis=1) for i in range(0, len(tiles), columns)])


def _pad(tile: np.ndarray) -> np.ndarray:
    return np.pad(tile, ((0, MARGIN), (0, MARGIN), (0, 0)), constant_values=GAP)


def _even(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), constant_values=GAP)

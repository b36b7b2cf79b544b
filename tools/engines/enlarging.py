"""Pixels of videos on their way to a larger size: target size, enlarging, padding, and what a smaller file loses."""
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

SAME_SHAPE = 0.05  # relative difference of aspect ratios that stretching hides; 448x256 and 1280x720 differ by 0.016


def refined_size(width: int, height: int, target: Sequence[int], multiple: int) -> tuple[int, int]:
    """Size to which a video is refined.

    Args:
        width, height: of the video.
        target: [width, height] asked for.
        multiple: both sides of the result are multiples of it.

    Returns:
        (width, height): the target where the video has about its shape, else a size of the video's own shape with
        about as many pixels.
    """
    shape, wanted = width / height, target[0] / target[1]
    if abs(math.log(shape / wanted)) <= SAME_SHAPE:
        return target[0], target[1]
    side = math.sqrt(target[0] * target[1])
    sides = (side * math.sqrt(shape), side / math.sqrt(shape))
    across, down = (max(multiple, round(s / multiple) * multiple) for s in sides)
    return across, down


def enlarged(frames: Tensor, width: int, height: int) -> Tensor:
    """Frames [F, C, h, w] at another size, bilinear and not antialiased, as the published network was trained."""
    return interpolate(frames, size=(height, width), mode="bilinear", align_corners=False)


def padded(frames: Tensor, width: int, height: int) -> Tensor:
    """Frames [F, C, h, w] with their last column and row repeated on the right and below up to a size."""
    right, below = width - frames.shape[-1], height - frames.shape[-2]
    return pad(frames, (0, right, 0, below), mode="replicate") if right or below else frames


def degraded(video: Tensor) -> Tensor:
    """What is left of a video [B, F, 3, H, W] after a file of half its size: half the pixels each way, half of those
    for the colours (yuv420p), enlarged again."""
    frames = video.flatten(0, 1)
    luma = frames.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # ITU-R BT.601
    small = avg_pool2d(frames, 2)
    grey = (small * luma).sum(dim=1, keepdim=True)
    colours = enlarged(avg_pool2d(small - grey, 2, ceil_mode=True), small.shape[-1], small.shape[-2])
    return enlarged(grey + colours, frames.shape[-1], frames.shape[-2]).unflatten(0, video.shape[:2])


def pieces(frames: Tensor, most: int) -> tuple[Tensor, ...]:
    """Frames [F, ...] in as few runs of about equal length as hold at most `most` frames each."""
    return torch.tensor_split(frames, math.ceil(len(frames) / most))

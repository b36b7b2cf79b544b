"""Motion and appearance of clips as two figures, measured from data for training or made up for sampling (HiGen).

arXiv 2312.04483, section 3.3, takes differences between neighbouring frames for motion and similarities of frames, seen
by frozen image encoders, for appearance. What it leaves open is decided here; see `tools/engines/higen.py`.
"""
import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from tools.autoencoders.video import frame_chunks
from tools.embedders.features import image_vectors

MOST_MOTION = 1000  # larger than what a clip of real life gives at motion_scale's default


def frame_differences(video: Tensor) -> Tensor:
    """Mean absolute change of the pixels from each frame to the next.

    Args:
        video: [B, F, 3, H, W], pixels in 0..1.

    Returns:
        [B, F - 1] in 0..1.
    """
    return (video[:, 1:] - video[:, :-1]).abs().mean(dim=(2, 3, 4))


def frame_similarities(vectors: Tensor) -> Tensor:
    """Cosine similarity of every frame with every frame: features [B, F, E] -> [B, F, F]."""
    unit = normalize(vectors.float(), dim=-1)
    return unit @ unit.transpose(1, 2)


def frame_vectors(embedder, video: Tensor, mean: list[float], std: list[float], size: tuple[int, int],
                  chunk: int) -> Tensor:
    """Image vectors of all frames.

    Args:
        embedder: image encoder.
        video: [B, F, 3, H, W], pixels in 0..1; the middle square of a frame is looked at.
        mean, std: the encoder's normalisation.
        size: (width, height) of its pictures.
        chunk: frames per call, about.

    Returns:
        [B, F, E].
    """
    side = min(video.shape[-2:])
    top, left = (video.shape[-2] - side) // 2, (video.shape[-1] - side) // 2
    frames = video[..., top:top + side, left:left + side].flatten(0, 1)
    frames = interpolate(frames, size=tuple(reversed(size)), mode="bilinear", antialias=True, align_corners=False)
    mean, std = (frames.new_tensor(v).view(3, 1, 1) for v in (mean, std))
    vectors = [image_vectors(embedder, part) for part in frame_chunks((frames - mean) / std, chunk)]
    return torch.cat(vectors).unflatten(0, video.shape[:2])


def motion_of(differences: Tensor, scale: float) -> Tensor:
    """What the network is told of differences [B, F - 1]: whole numbers 0..1000, int64."""
    return (differences * scale).round().clamp(max=MOST_MOTION).long()


def appearance_of(similarities: Tensor, full_change: float, columns: int) -> Tensor:
    """What the network is told of cosine similarities.

    Args:
        similarities: [B, F, F].
        full_change: fall of the similarity that counts as a complete change, above 0.
        columns: number of frames that every frame is compared with, spread evenly over the clip.

    Returns:
        [B, F, columns] in 0..1; 1: alike, 0: changed completely. Between two frames it is interpolated.
    """
    alike = (1 - (1 - similarities) / full_change).clamp(0, 1)
    return interpolate(alike, size=columns, mode="linear", align_corners=True)


def appearance_table(factor: float, frames: int, columns: int) -> Tensor:
    """An appearance that changes evenly: 1 - factor * (distance in time, 0..1), float32 [frames, columns].

    The original's triangular table, for any number of frames; a single frame is like everything.
    """
    if frames == 1:
        return torch.ones(1, columns)
    rows, across = torch.linspace(0, 1, frames), torch.linspace(0, 1, columns)
    return 1 - factor * (rows[:, None] - across).abs()

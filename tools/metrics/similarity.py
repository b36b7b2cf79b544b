"""DreamVideo's figures (arXiv 2312.04433, section 4.1) from features that networks gave.

A clip is represented by the mean of its frames' normalised features, which is not normalised again.
"""
from torch import Tensor
from torch.nn.functional import normalize


def mean_feature(frames: Tensor) -> Tensor:
    """[E] of features [F, E]."""
    return normalize(frames, dim=-1).mean(0)


def text_similarity(frames: Tensor, text: Tensor) -> float:
    """CLIP-T: product of the prompt's normalised feature [E] with the clip's mean."""
    return float(normalize(text, dim=-1) @ mean_feature(frames))


def image_similarity(frames: Tensor, references: Tensor) -> float:
    """CLIP-I or DINO-I: mean product of references' normalised features [R, E] with the clip's mean, 0 without any."""
    if not len(references):
        return 0.0
    return float((normalize(references, dim=-1) @ mean_feature(frames)).mean())


def temporal_consistency(frames: Tensor) -> float:
    """Mean cosine of consecutive frames' features [F, E].

    Raises:
        ValueError: there is one frame.
    """
    if len(frames) < 2:
        raise ValueError("one frame has no temporal consistency")
    unit = normalize(frames, dim=-1)
    return float((unit[:-1] * unit[1:]).sum(-1).mean())


def dreamvideo_scores(clip_frames: Tensor, text: Tensor, clip_references: Tensor, dino_frames: Tensor,
                      dino_references: Tensor) -> dict[str, float]:
    """All four figures of one clip by name, from features of its F frames, its prompt and its R reference pictures.

    Args:
        clip_frames, text, clip_references: of CLIP, [F, E], [E], [R, E].
        dino_frames, dino_references: of DINO, [F, D], [R, D].
    """
    return {"clip_t": text_similarity(clip_frames, text), "clip_i": image_similarity(clip_frames, clip_references),
            "dino_i": image_similarity(dino_frames, dino_references),
            "temporal_consistency": temporal_consistency(clip_frames)}

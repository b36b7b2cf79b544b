"""Videos through an image autoencoder: frame by frame, in pieces that fit into memory."""
import torch
from torch import Tensor


def encode_video(
    autoencoder, video: Tensor, scale_factor: float, chunk_size: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw scaled latents of videos.

    Args:
        autoencoder: component with `encode_first_stage`.
        video: [B, F, 3, H, W] in [-1, 1].
        scale_factor: the engine's factor on latents.
        chunk_size: images per call of the encoder; see `frame_chunks`.
        generator: CPU generator of the posterior's draws.

    Returns:
        Latents [B, c, F, h, w].
    """
    batch = video.shape[0]
    latents = [autoencoder.encode_first_stage(images, scale_factor, generator)
               for images in frame_chunks(video.flatten(0, 1), chunk_size)]
    return torch.cat(latents).unflatten(0, (batch, -1)).transpose(1, 2)


def decode_video(autoencoder, latents: Tensor, scale_factor: float, decoder_bs: int) -> Tensor:
    """Videos of scaled latents.

    Args:
        autoencoder: component with `decode`.
        latents: [B, c, F, h, w].
        scale_factor: the engine's factor on latents, divided out.
        decoder_bs: images per call of the decoder; see `frame_chunks`.

    Returns:
        Videos [B, 3, F, H, W], about [-1, 1], not clamped.
    """
    batch = latents.shape[0]
    frames = latents.transpose(1, 2).flatten(0, 1) / scale_factor
    images = [autoencoder.decode(z) for z in frame_chunks(frames, decoder_bs)]
    return torch.cat(images).unflatten(0, (batch, -1)).transpose(1, 2)


def frame_chunks(frames: Tensor, size: int) -> tuple[Tensor, ...]:
    """Cut N images [N, ...] into N // min(size, N) pieces of equal length, the last one shorter.

    Pieces exceed `size` where N is no multiple of it; the draws of the posterior follow this very cut in the original.
    """
    if size < 1:
        raise ValueError(f"chunks of {size} images: expected at least one")
    count = frames.shape[0]
    return frames.chunk(count // min(size, count))

"""One way to ask any embedder for text tokens and for image vectors, whatever its class returns."""
import torch


def text_tokens(embedder, texts: list[str]) -> torch.Tensor:
    """Token embeddings [B, L, d] of the captions."""
    out = embedder(text=texts)
    return out[-1] if isinstance(out, tuple) else out


def image_vectors(embedder, images: torch.Tensor) -> torch.Tensor:
    """Image vectors [B, E] of pictures [B, 3, H, W] that are normalised for the encoder."""
    encode = getattr(embedder, "encode_image", None) or embedder.forward_image
    return encode(images)

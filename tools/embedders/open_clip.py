"""Frozen CLIP encoders of text and pictures (arXiv 2103.00020), on OpenCLIP's models.

Text tokens come from the last or, as in Stable Diffusion 2, the penultimate block; the final layer norm is applied in
both cases, and padded positions are kept.
"""
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from tools.checkpoint import describe_mismatch, load_state, strip_prefix
from tools.embedders.tokens import tokenize
from tools.errors import UserError, nearest
from tools.registry import EMBEDDER

log = logging.getLogger(__name__)

BLOCKS_LEFT_OUT = {"last": 0, "penultimate": 1}
# Read by the original nowhere (max_length), only to size a constant picture (vit_resolution), or by the tasks.
IGNORED = ("max_length", "vit_resolution", "negative_prompt", "positive_prompt")


class OpenCLIPEncoder(nn.Module):
    """Base class: one OpenCLIP model under `self.model`.

    Args:
        pretrained: weights of the whole model (.bin, .pt or .safetensors, half or single precision); None or '' leaves
            it at random initialisation.
        arch: a name that OpenCLIP knows, or the path of an OpenCLIP model configuration (JSON).
        device: where the weights are put; the CPU where 'cuda' is asked for and absent.
        freeze: evaluation mode, no gradients for the parameters.
        layer: 'last' or 'penultimate' text block.

    Raises:
        UserError: unknown layer or architecture, or weights that do not fit.
    """

    def __init__(self, pretrained: str | None = None, arch: str = "ViT-H-14", device: str = "cpu",
                 freeze: bool = True, layer: str = "last"):
        super().__init__()
        if layer not in BLOCKS_LEFT_OUT:
            raise UserError(f"embedder: layer '{layer}' must be one of {', '.join(BLOCKS_LEFT_OUT)}")
        self.layer = layer
        self.model = _build(arch) if not pretrained else _load(arch, pretrained)
        if freeze:
            self.eval().requires_grad_(False)
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            log.info("embedder: device '%s' is not there, staying on the CPU", device)
        elif not self.model.logit_scale.is_meta:
            self.to(device)
        self.adapt()

    def adapt(self) -> None:
        """Drop what a class does not use, add what it has beyond the model; called once the weights are in place."""

    def encode_image(self, image: Tensor) -> Tensor:
        """Pictures [B, 3, H, W], normalised with CLIP's mean and std -> vectors [B, E], not L2-normalised.

        Raises:
            UserError: the pictures do not have the encoder's size.
        """
        height, width = self.image_size()
        if tuple(image.shape[-2:]) != (height, width):
            raise UserError(f"embedder: pictures of {image.shape[-1]}x{image.shape[-2]} pixels, but this image encoder "
                            f"takes {width}x{height}; set vit_resolution: [{width}, {height}]")
        return self.model.encode_image(image.to(self.model.logit_scale.device))

    def encode_text(self, text: str | Sequence[str],
                    embedding_manager: Callable | None = None) -> tuple[Tensor, Tensor]:
        """Captions -> (vectors [B, E], token embeddings [B, L, d]) with L the model's context length.

        Args:
            embedding_manager: called with (ids [B, L], embeddings [B, L, d]) before positions are added; returns the
                embeddings and may rewrite the ids in place.
        """
        model = self.model
        ids = tokenize(text, model.context_length).to(model.token_embedding.weight.device)
        words = model.token_embedding(ids)
        if embedding_manager is not None:
            words = embedding_manager(ids, words)
        words = model.ln_final(self._run_blocks(words + model.positional_embedding))
        at_end = words[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)]
        return at_end @ model.text_projection, words

    def _run_blocks(self, x: Tensor) -> Tensor:
        transformer = self.model.transformer
        blocks = transformer.resblocks[:len(transformer.resblocks) - BLOCKS_LEFT_OUT[self.layer]]
        mask = _causal_mask(x.shape[1]).to(x)
        # OpenCLIP's blocks take [L, B, d] up to version 2.24 and [B, L, d] since 2.26.
        batch_first = getattr(transformer, "batch_first", False)
        x = x if batch_first else x.transpose(0, 1)
        for block in blocks:
            x = block(x, attn_mask=mask)
        return x if batch_first else x.transpose(0, 1)

    def image_size(self) -> tuple[int, int]:
        """Height and width of the pictures that the image encoder takes, in pixels."""
        size = self.model.visual.image_size
        return tuple(size) if isinstance(size, (tuple, list)) else (size, size)

    def keep_white_image(self) -> None:
        """Make `white_image` [1, 3, H, W], an all-white picture as the image encoder sees it."""
        height, width = self.image_size()
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN,
                                                               open_clip.OPENAI_DATASET_STD))
        white = ((1 - mean) / std).expand(1, 3, height, width)
        self.register_buffer("white_image", white.to(self.model.logit_scale.device), persistent=False)


@EMBEDDER.register(ignored=IGNORED)
class FrozenOpenCLIPTextVisualEmbedder(OpenCLIPEncoder):
    """Both encoders; arguments as `OpenCLIPEncoder`."""

    def forward(self, image: Tensor | None = None, text: str | Sequence[str] | None = None):
        """-> (image vectors [B, E] or None, text vectors [B, E], token embeddings [B, L, d]); text is required."""
        return (None if image is None else self.encode_image(image), *self.encode_text(_required(text)))


@EMBEDDER.register(ignored=IGNORED)
class FrozenOpenCLIPEmbedder(OpenCLIPEncoder):
    """The text encoder alone; arguments as `OpenCLIPEncoder`."""

    def adapt(self) -> None:
        del self.model.visual

    def forward(self, text: str | Sequence[str]) -> Tensor:
        """Captions -> token embeddings [B, L, d]."""
        return self.encode_text(text)[1]


@EMBEDDER.register(ignored=IGNORED)
class FrozenOpenCLIPVisualEmbedder(OpenCLIPEncoder):
    """The image encoder alone, with `white_image`; arguments as `OpenCLIPEncoder`."""

    def adapt(self) -> None:
        del self.model.transformer
        self.keep_white_image()

    def forward(self, image: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] -> vectors [B, E]."""
        return self.encode_image(image)


@EMBEDDER.register(ignored=IGNORED)
class FrozenOpenCLIPEmbedderZero(OpenCLIPEncoder):
    """Text encoder by call, image encoder by `forward_image`; `zero_feature` [1, E] is the vector of `white_image`."""

    def adapt(self) -> None:
        self.keep_white_image()
        with torch.no_grad():
            self.register_buffer("zero_feature", self.encode_image(self.white_image), persistent=False)

    def forward(self, text: str | Sequence[str]) -> Tensor:
        """Captions -> token embeddings [B, L, d]."""
        return self.encode_text(text)[1]

    def forward_image(self, image: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] -> vectors [B, E]."""
        return self.encode_image(image)


@EMBEDDER.register(ignored=IGNORED)
class FrozenOpenCLIPCustomEmbedder(OpenCLIPEncoder):
    """Both encoders, with a hook for learned words (textual inversion, arXiv 2208.01618); has `white_image`."""

    def adapt(self) -> None:
        self.keep_white_image()

    def forward(self, image: Tensor | None = None, text: str | Sequence[str] | None = None,
                embedding_manager: Callable | None = None):
        """As `FrozenOpenCLIPTextVisualEmbedder`; `embedding_manager` as in `OpenCLIPEncoder.encode_text`."""
        return (None if image is None else self.encode_image(image),
                *self.encode_text(_required(text), embedding_manager))


def _required(text):
    if text is None:
        raise UserError("embedder: this encoder needs 'text'; give a caption or a list of captions")
    return text


def _causal_mask(length: int) -> Tensor:
    return torch.full((length, length), -torch.inf, device="cpu").triu(1)


def _architecture(arch: str) -> dict:
    """OpenCLIP's configuration: embed_dim, vision_cfg, text_cfg."""
    if Path(arch).suffix == ".json":
        if not Path(arch).is_file():
            raise UserError(f"embedder: no model configuration '{arch}'; give the path of an OpenCLIP JSON or a name "
                            "that OpenCLIP knows")
        config = json.loads(Path(arch).read_text())
        return config.get("model_cfg", config)
    if arch not in open_clip.list_models():
        raise UserError(f"embedder: OpenCLIP knows no architecture '{arch}'{nearest(arch, open_clip.list_models())}")
    return open_clip.get_model_config(arch)


def _build(arch: str) -> nn.Module:
    config = _architecture(arch)
    unknown = sorted(set(config) - {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"})
    if unknown or "hf_model_name" in config.get("text_cfg", {}):
        reason = ", ".join(unknown) or "hf_model_name"
        raise UserError(f"embedder: architecture '{arch}' is not a plain CLIP (it sets {reason})")
    return open_clip.CLIP(**config)


def _load(arch: str, pretrained: str) -> nn.Module:
    """The model with the file's weights, without initialising a billion parameters first."""
    state = strip_prefix(load_state(pretrained), "module.")
    with torch.device("meta"):
        model = _build(arch)
    problems = describe_mismatch(model.state_dict(), state)
    if problems:
        raise UserError(f"embedder: '{pretrained}' does not fit '{arch}': {problems}")
    model.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    model.attn_mask = _causal_mask(model.context_length)
    return model

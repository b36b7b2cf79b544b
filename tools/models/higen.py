"""HiGen (arXiv 2312.04483): text to video in two passes of one network, with dials for motion and appearance."""
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tools.models.blocks import (
    BasicTransformerBlock,
    ResBlock,
    TemporalTransformer,
    per_frame,
    silu_mlp,
    sinusoidal_embedding,
    zero_init,
)
from tools.models.unet import COMMON_IGNORED, UNetSD, takes_options_of
from tools.registry import MODEL

RESAMPLER_HEADS = 8


class TextResampler(nn.Module):
    """A few learnt tokens that read the text by cross-attention; they never attend to each other.

    Args:
        y_dim: width of the text tokens.
        depth: number of transformer blocks, both attentions of which look at the text.
        embed_dim: width inside, a multiple of 8.
        context_dim: width of the result.
        num_tokens: how many tokens come out.
    """

    def __init__(self, y_dim: int, depth: int, embed_dim: int, context_dim: int, num_tokens: int):
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, num_tokens, embed_dim) * embed_dim**-0.5)
        self.context_transformer = nn.ModuleList(
            BasicTransformerBlock(embed_dim, RESAMPLER_HEADS, embed_dim // RESAMPLER_HEADS, context_dim=embed_dim,
                                  disable_self_attn=True) for _ in range(depth))
        self.input_mapping = nn.Linear(y_dim, embed_dim)
        self.output_mapping = nn.Linear(embed_dim, context_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Text tokens [b, L, y_dim] -> [b, num_tokens, context_dim]."""
        text = self.input_mapping(x)
        tokens = self.tokens.expand(len(x), -1, -1)
        for block in self.context_transformer:
            tokens = block(tokens, text)
        return self.output_mapping(tokens)


# The original's blocks do not look at `use_image_dataset`: one frame switches their temporal branches off by itself.
@MODEL.register(ignored=(*COMMON_IGNORED, "concat_dim"))
class UNetSD_HiGen(UNetSD):
    """Text-to-video UNet that is told a key frame, how much moves and how much the appearance changes.

    Arguments as `UNetSD`.

    Args:
        y_dim: width of the text tokens.
        num_tokens: context tokens that the text is condensed to.
        context_embedding_depth: depth of the network that condenses it.
        use_fps_condition: build an embedding of the frame rate.
        appearance_frames: frames that every frame's similarity is told to; 32 in the published network.
    """

    @takes_options_of(UNetSD)
    def __init__(self, y_dim: int = 512, num_tokens: int = 4, context_embedding_depth: int = 1,
                 use_fps_condition: bool = False, appearance_frames: int = 32, **options):
        super().__init__(**options)
        self.appearance_frames = appearance_frames
        self.fps_embedding = self._silent_mlp(self.dim) if use_fps_condition else None
        self.context_embedding = TextResampler(y_dim, context_embedding_depth, self.embed_dim, self.context_dim,
                                               num_tokens)
        self.asim_embedding = self._silent_mlp(appearance_frames)
        self.msim_embedding = self._silent_mlp(self.dim)
        self.img_embedding = zero_init(nn.Conv2d(self.in_dim, self.dim, 3, padding=1))
        self.build_blocks(self.in_dim)

    def _silent_mlp(self, dim_in: int) -> nn.Sequential:
        network = silu_mlp(dim_in, self.embed_dim, self.embed_dim)
        zero_init(network[-1])
        return network

    def res_block(self, dim_in: int, dim_out: int, use_image_dataset: bool) -> nn.Module:
        return ResBlock(dim_in, self.embed_dim, self.dropout, dim_out, still_identity=True)

    def temporal_transformer(self, channels: int, heads: int) -> nn.Module:
        return TemporalTransformer(channels, heads, self.head_dim, still_identity=True)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, fps: Tensor | None = None,
                spat_prior: Tensor | None = None, motion_cond: Tensor | None = None,
                appearance_cond: Tensor | None = None) -> Tensor:
        """Predict noise or velocity; all conditions but fps are required.

        Args:
            x: [b, in_dim, f, h, w] noisy latents. t: [b] timesteps.
            y: [b, L, y_dim] text tokens.
            fps: [b] frame rates; without effect unless the network has `use_fps_condition`.
            spat_prior: [b, in_dim, h, w] latents of the key frame; zeros in the first pass.
            motion_cond: how much moves, 0 to about 1000: [b, f - 1] between the frames or [b, f] per frame; [b] where
                f is 1.
            appearance_cond: [b, f, appearance_frames] similarity of every frame to frames that are spread evenly over
                the clip, 0 to 1; ones where f is 1.

        Returns:
            [b, out_dim, f, h, w].

        Raises:
            UserError: a required condition is None.
        """
        self.require(y=y, spat_prior=spat_prior, motion_cond=motion_cond, appearance_cond=appearance_cond)
        batch, _, frames, height, width = x.shape
        self.check_size(height, width)
        emb = self.embed_time(t)
        if self.fps_embedding is not None and fps is not None:
            emb = emb + self.embed_scalar(self.fps_embedding, fps)
        content = self.remember(("content", frames), (motion_cond, appearance_cond),
                                lambda: self._content(motion_cond, appearance_cond, frames))
        context = self.remember("context", (y,), lambda: self.context_embedding(y))
        shift = self.remember("prior", (spat_prior,), lambda: self.img_embedding(spat_prior))
        return self.backbone(x, per_frame(emb, batch * frames) + content, context, stem_shift=shift)

    def example_conditions(self, latents: Tensor, pixels: tuple[int, int]) -> dict[str, Tensor]:
        """Every condition but the text, empty, for latents [b, c, f, h, w]; pixels: (height, width) of the video."""
        batch, _, frames = latents.shape[:3]
        return {"spat_prior": torch.empty_like(latents[:, :, 0]), "motion_cond": latents.new_zeros(batch, frames),
                "appearance_cond": latents.new_empty(batch, frames, self.appearance_frames)}

    def _content(self, motion: Tensor, appearance: Tensor, frames: int) -> Tensor:
        """Embedding of motion and appearance, [(b f), E].

        Motion between frames becomes motion of frames by linear interpolation of its sinusoids.
        """
        batch, dtype = len(motion), self.asim_embedding[0].weight.dtype
        features = sinusoidal_embedding(motion.flatten(), self.dim).unflatten(0, (batch, -1))
        if features.shape[1] != frames:
            features = interpolate(features.transpose(1, 2), size=frames, mode="linear").transpose(1, 2)
        embedded = self.msim_embedding(features.to(dtype)) + self.asim_embedding(appearance.to(dtype))
        return embedded.flatten(0, 1)

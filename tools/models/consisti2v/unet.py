"""The denoiser of ConsistI2V (arXiv 2402.04324), in the layout of its published weights."""
import re

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from tools.errors import UserError
from tools.models.blocks import per_frame, sinusoidal_embedding, to_channels_last, to_frames, to_video, zero_init
from tools.models.conditions import Remembers
from tools.models.consisti2v.blocks import DownLevel, MiddleLevel, Signals, UpLevel
from tools.models.consisti2v.options import DOWN_BLOCKS, UP_BLOCKS, UNetOptions
from tools.models.unet import takes_options_of
from tools.registry import MODEL

# Names of parameters without function, which never get a gradient.
IDLE = re.compile(r"rotary_bias\.|pos_enc\.|conv3ds\.\d+\.time_emb_proj\.")

TEXT_TOKENS = 77


@MODEL.register()
class VideoLDMUNet3DConditionModel(Remembers):
    """Stable Diffusion's UNet with a temporal layer behind every spatial one, conditioned on a clean first frame.

    The clean latent of the first frame stands before the noisy frames; it is a further source of keys and values for
    spatial self-attention, and its surroundings one for temporal self-attention. Noise is predicted for the frames
    behind it. Without its temporal parameters the state dict is that of Stable Diffusion 2.1 and the stride embedding.

    Args:
        use_checkpoint: recompute layers in the backward pass instead of keeping their activations (training mode).
        options: see `UNetOptions`.

    Attributes:
        options: the `UNetOptions`.

    Raises:
        UserError: an option that the network cannot have.
    """

    @takes_options_of(UNetOptions)
    def __init__(self, use_checkpoint: bool = False, **options):
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.options = options = UNetOptions(**options)
        widths = list(options.block_out_channels)
        self.conv_in = nn.Conv2d(options.in_channels, widths[0], 3, padding=1)
        self.time_embedding = _scalar_embedding(options)
        if options.use_frame_stride_condition:
            self.frame_stride_embedding = _scalar_embedding(options)
            zero_init(self.frame_stride_embedding.linear_2)
        self.down_blocks, skips = _encoder(options, widths)
        self.up_blocks = _decoder(options, widths, skips)
        self.mid_block = MiddleLevel(options, widths[-1], options.heads[-1])
        self.conv_norm_out = nn.GroupNorm(options.norm_num_groups, widths[0], eps=options.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], options.out_channels, 3, padding=1)
        to_channels_last(self)

    @property
    def idle_parameters(self) -> frozenset[str]:
        """Names of the parameters without function: distributed training must not wait for their gradients."""
        return frozenset(name for name, _ in self.named_parameters() if IDLE.search(name))

    def example_conditions(self, latents: Tensor, pixels: tuple[int, int]) -> dict[str, Tensor]:
        """Every condition, empty, for latents [b, 4, f, h, w] of `pixels` = (height, width)."""
        batch, options = len(latents), self.options
        told = {"encoder_hidden_states": latents.new_empty(batch, TEXT_TOKENS, options.cross_attention_dim)}
        if options.use_frame_stride_condition:
            told["frame_stride"] = latents.new_ones(batch)
        return told | ({"first_frame_latents": latents[:, :, :1]} if options.takes_first_frame else {})

    def forward(self, sample: Tensor, timestep: Tensor | float, encoder_hidden_states: Tensor,
                first_frame_latents: Tensor | None = None, frame_stride: Tensor | float | None = None) -> Tensor:
        """Predict the noise (or velocity) of the noisy frames.

        Args:
            sample: [b, 4, f - 1, h, w] noisy latents of the frames after the first; of all f frames in mode `none`.
            timestep: one for all, [b] or [(b f)].
            encoder_hidden_states: [b, L, cross_attention_dim] text tokens.
            first_frame_latents: [b, 4, 1, h, w], the clean first frame; not in mode `none`.
            frame_stride: one for all, [b] or [(b f)]; distance of the frames in the source video. Read where the
                options say so.

        Returns:
            Of the shape of `sample`.

        Raises:
            UserError: an input is missing or one too many.
        """
        x = self._with_first_frame(sample, first_frame_latents)
        batch, frames = x.shape[0], x.shape[2]
        recompute = self.use_checkpoint and self.training and torch.is_grad_enabled()
        signals = Signals(frames, self._embedding(timestep, frame_stride, batch * frames, x.device),
                          encoder_hidden_states, first_frame_latents, recompute)
        x = self.conv_in(to_frames(x).contiguous(memory_format=torch.channels_last))
        out = to_video(self._levels(x, signals), batch).contiguous()
        return out[:, :, 1:] if self.options.takes_first_frame else out

    def _levels(self, x: Tensor, signals: Signals) -> Tensor:
        skips = [x]
        for level in self.down_blocks:
            x = skips[-1] = level.enter(x, signals)
            x, made = level(x, signals)
            skips += made
        x = skips[-1] = self.mid_block.enter(x, signals)
        x = self.mid_block(x, signals)
        for level in self.up_blocks:
            x = level(level.enter(x, signals), skips, signals)
        return self.conv_out(silu(self.conv_norm_out(x)))

    def _with_first_frame(self, sample: Tensor, first_frame: Tensor | None) -> Tensor:
        mode = self.options.first_frame_condition_mode
        if self.options.takes_first_frame != (first_frame is not None):
            raise UserError(f"VideoLDMUNet3DConditionModel: first_frame_condition_mode '{mode}' "
                            + ("needs the input 'first_frame_latents', which this call did not give"
                               if first_frame is None else "takes no 'first_frame_latents'"))
        return sample if first_frame is None else torch.cat([first_frame.to(sample.dtype), sample], dim=2)

    def _embedding(self, timestep, frame_stride, rows: int, device: torch.device) -> Tensor:
        """Embedding [rows, E] of the time and, where it is a condition, of the stride."""
        emb = self._embed(self.time_embedding, "timestep", timestep, rows, device)
        if not self.options.use_frame_stride_condition:
            return emb
        if frame_stride is None:
            raise UserError("VideoLDMUNet3DConditionModel needs the input 'frame_stride', which this call did not give")
        return emb + self._embed(self.frame_stride_embedding, "frame_stride", frame_stride, rows, device)

    def _embed(self, network: nn.Module, name: str, values, rows: int, device: torch.device) -> Tensor:
        values = torch.as_tensor(values, device=device).reshape(-1)
        if rows % len(values):
            raise ValueError(f"{name} has {len(values)} values for {rows} frames")
        sinusoids = sinusoidal_embedding(per_frame(values, rows), self.options.block_out_channels[0])
        return network(sinusoids.to(network.linear_1.weight.dtype))


def _scalar_embedding(options: UNetOptions) -> nn.Module:
    # Imported where it is needed: diffusers takes seconds, which runs without this network need not spend.
    from diffusers.models.embeddings import TimestepEmbedding
    return TimestepEmbedding(options.block_out_channels[0], options.emb_width)


def _encoder(options: UNetOptions, widths: list[int]) -> tuple[nn.ModuleList, list[int]]:
    """Levels of the encoder and the widths of all skip connections."""
    levels, skips = nn.ModuleList(), [widths[0]]
    for index, (width, heads, kind) in enumerate(zip(widths, options.heads, options.down_block_types, strict=True)):
        last = index == len(widths) - 1
        levels.append(DownLevel(options, skips[-1], width, heads if DOWN_BLOCKS[kind] else None, last))
        skips += [width] * (options.layers_per_block + (not last))
    return levels, skips


def _decoder(options: UNetOptions, widths: list[int], skips: list[int]) -> nn.ModuleList:
    levels, current, remaining = nn.ModuleList(), widths[-1], list(skips)
    mirrored = zip(reversed(widths), reversed(options.heads), options.up_block_types, strict=True)
    for index, (width, heads, kind) in enumerate(mirrored):
        taken = [remaining.pop() for _ in range(options.layers_per_block + 1)]
        levels.append(UpLevel(options, current, taken, width, heads if UP_BLOCKS[kind] else None,
                              last=index == len(widths) - 1))
        current = width
    return levels

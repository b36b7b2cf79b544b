"""I2VGen-XL (arXiv 2311.04145): a picture and a caption to video."""
import torch
from torch import Tensor, nn

from tools.errors import UserError
from tools.models.blocks import silu_mlp, to_frames, to_video, zero_init
from tools.models.sequence import SequenceEncoder
from tools.models.unet import COMMON_IGNORED, UNetSD, takes_options_of
from tools.registry import MODEL

IMAGE_CHANNELS = 4
POOLED_SIZE = 32


@MODEL.register(ignored=(*COMMON_IGNORED, "concat_dim", "use_fps_condition"))
class UNetSD_I2VGen(UNetSD):
    """Image-to-video UNet; arguments as `UNetSD`.

    The picture enters three times: its latent as in_dim more input channels, the same latent as 64 context tokens, and
    its CLIP vector as `num_tokens` context tokens.

    Args:
        y_dim: width of the CLIP image vector.
        num_tokens: context tokens made from that vector.
        adapter_transformer_layers: depth of the encoder that mixes the concatenated features along the frames.
    """

    @takes_options_of(UNetSD)
    def __init__(self, in_dim: int = 7, y_dim: int = 512, num_tokens: int = 4, adapter_transformer_layers: int = 1,
                 **options):
        super().__init__(in_dim=in_dim, **options)
        self.num_tokens = num_tokens
        self.context_embedding = silu_mlp(y_dim, self.embed_dim, self.context_dim * num_tokens)
        self.fps_embedding = silu_mlp(self.dim, self.embed_dim, self.embed_dim)
        zero_init(self.fps_embedding[-1])
        self.local_image_concat = nn.Sequential(
            nn.Conv2d(IMAGE_CHANNELS, 4 * in_dim, 3, padding=1), nn.SiLU(),
            nn.Conv2d(4 * in_dim, 4 * in_dim, 3, padding=1), nn.SiLU(),
            nn.Conv2d(4 * in_dim, in_dim, 3, padding=1))
        self.local_temporal_encoder = SequenceEncoder(in_dim, heads=2, dim_head=in_dim,
                                                      depth=adapter_transformer_layers)
        self.local_image_embedding = nn.Sequential(
            nn.Conv2d(IMAGE_CHANNELS, 8 * in_dim, 3, padding=1), nn.SiLU(), nn.AdaptiveAvgPool2d(POOLED_SIZE),
            nn.Conv2d(8 * in_dim, 16 * in_dim, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(16 * in_dim, self.context_dim, 3, stride=2, padding=1))
        self.build_blocks(2 * in_dim)

    @torch.no_grad()
    def start_picture_as_identity(self) -> None:
        """Let `local_image_concat` hand its input through, where in_dim is the latents' number of channels.

        PyTorch's initialisation would shrink the picture to a few hundredths on its three layers, and a network that
        starts from text-to-video spends most of a short run on finding it. Uses SiLU(x) - SiLU(-x) = x.

        Raises:
            UserError: in_dim is another number.
        """
        if self.in_dim != IMAGE_CHANNELS:
            raise UserError(f"identity_picture: the picture's {IMAGE_CHANNELS} channels cannot pass as they are where "
                            f"in_dim is {self.in_dim}")
        eye = torch.eye(IMAGE_CHANNELS)
        difference = torch.cat([eye, -eye], dim=1)
        first, second, third = self.local_image_concat[0], self.local_image_concat[2], self.local_image_concat[4]
        pair = 2 * IMAGE_CHANNELS
        for layer, rows, mix in ((first, pair, torch.cat([eye, -eye])),
                                 (second, pair, torch.cat([difference, -difference])),
                                 (third, IMAGE_CHANNELS, difference)):
            layer.weight[:rows] = 0
            layer.bias[:rows] = 0
            layer.weight[:rows, :mix.shape[1], 1, 1] = mix

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, image: Tensor | None = None,
                local_image: Tensor | None = None, masked: Tensor | None = None, fps: Tensor | None = None,
                t_w: Tensor | None = None) -> Tensor:
        """Predict noise or velocity.

        Args:
            x: [b, in_dim, f, h, w] noisy latents. t: [b] timesteps. fps: [b] frame rates, required.
            y: [b, L, context_dim] text tokens, None for the first token of `zero_y`.
            image: [b, 1, y_dim] CLIP image vector, not normalised; None adds no tokens, which differs from zeros.
            local_image: [b, 4, h, w] or [b, 4, F, h, w] scaled latent of the picture (frame 0 is used), required.
            masked: without effect, as in the original.
            t_w: [b, GUIDANCE_WIDTH], see `embed_time`.

        Returns:
            [b, out_dim, f, h, w].

        Raises:
            UserError: local_image or fps is None, or the latent size does not fit.
        """
        self.require(local_image=local_image, fps=fps)
        batch, _, frames, height, width = x.shape
        self.check_size(height, width)
        features = self.remember(("concat", frames), (local_image,), lambda: self._concat_features(local_image, frames))
        context = self.remember("context", (y, image, local_image), lambda: self._context(y, image, local_image, batch))
        rate = self.remember("fps", (fps,), lambda: self.embed_scalar(self.fps_embedding, fps))
        emb = self.embed_time(t, t_w) + rate
        return self.backbone(torch.cat([x, features.to(x.dtype)], dim=1), emb, context)

    def _concat_features(self, local_image: Tensor, frames: int) -> Tensor:
        """Features of the frame planes, [b, in_dim, f, h, w]: the picture, then constant planes k / (f - 1).

        The features count twice, as they do in the training of the published weights.
        """
        first = _first_frame(local_image)
        planes = torch.arange(frames, device=first.device, dtype=torch.float32) / max(frames - 1, 1)
        planes = planes.to(first.dtype)[None, None, :, None, None].expand(*first.shape[:2], -1, *first.shape[2:])
        video = torch.cat([first[:, :, None], planes[:, :, 1:]], dim=2)
        maps = to_video(self.local_image_concat(to_frames(video)), first.shape[0])
        tokens = maps.permute(0, 3, 4, 2, 1)
        mixed = self.local_temporal_encoder(tokens.flatten(0, 2)).view(tokens.shape)
        return 2 * mixed.permute(0, 4, 3, 1, 2)

    def _context(self, y: Tensor | None, image: Tensor | None, local_image: Tensor, batch: int) -> Tensor:
        """Tokens of the text, 64 of the picture's latent, `num_tokens` of its CLIP vector: [b, L, context_dim]."""
        local = self.local_image_embedding(_first_frame(local_image)).flatten(2).transpose(1, 2)
        tokens = [self.text_or_null(y, batch).to(local.dtype), local]
        if image is not None:
            tokens.append(self.context_embedding(image).view(batch, self.num_tokens, self.context_dim))
        return torch.cat(tokens, dim=1)


def _first_frame(local_image: Tensor) -> Tensor:
    return local_image if local_image.ndim == 4 else local_image[:, :, 0]

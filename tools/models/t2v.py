"""ModelScopeT2V (arXiv 2308.06571): text to video."""
from torch import Tensor

from tools.models.blocks import silu_mlp, zero_init
from tools.models.unet import COMMON_IGNORED, UNetSD, takes_options_of
from tools.registry import MODEL


@MODEL.register(ignored=(*COMMON_IGNORED, "y_dim", "concat_dim", "num_tokens"))
class UNetSD_T2VBase(UNetSD):
    """Text-to-video UNet; arguments as `UNetSD`.

    Args:
        use_fps_condition: build an embedding of the frame rate.
    """

    @takes_options_of(UNetSD)
    def __init__(self, use_fps_condition: bool = False, **options):
        super().__init__(**options)
        self.fps_embedding = None
        if use_fps_condition:
            self.fps_embedding = silu_mlp(self.dim, self.embed_dim, self.embed_dim)
            zero_init(self.fps_embedding[-1])
        self.build_blocks(self.in_dim)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, fps: Tensor | None = None,
                t_w: Tensor | None = None) -> Tensor:
        """Predict noise or velocity.

        Args:
            x: [b, in_dim, f, h, w] noisy latents. t: [b] timesteps, integer or fractional.
            y: [b, L, context_dim] text tokens, None for the first token of `zero_y`.
            fps: [b] frame rates; without effect unless the network has `use_fps_condition`.
            t_w: [b, GUIDANCE_WIDTH], see `embed_time`.

        Returns:
            [b, out_dim, f, h, w].
        """
        self.check_size(*x.shape[-2:])
        return self.backbone(x, self.embed(t, fps, t_w), self.text_or_null(y, x.shape[0]))

    def embed(self, t: Tensor, fps: Tensor | None = None, t_w: Tensor | None = None) -> Tensor:
        """Embedding [b, E] of time and of what else is a number; arguments as in `forward`."""
        emb = self.embed_time(t, t_w)
        if self.fps_embedding is not None and fps is not None:
            emb = emb + self.embed_scalar(self.fps_embedding, fps)
        return emb

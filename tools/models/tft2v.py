"""TF-T2V (arXiv 2312.15770) and the compositional model of VideoComposer (arXiv 2306.02018) on the same network."""
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tools.errors import UserError
from tools.models.blocks import silu_mlp, zero_init
from tools.models.composer import (
    DRAWN,
    ENTRIES,
    MAPS,
    ConditionDropout,
    add_encoder,
    check_entries,
    draw_extremes,
    encode_map,
    zero_samples,
)
from tools.models.unet import COMMON_IGNORED, UNetSD, takes_options_of
from tools.registry import MODEL

VIP_TEXT_DROPOUT = 0.2

Drop = Callable[[str, Tensor], Tensor]


@MODEL.register(ignored=(*COMMON_IGNORED, "y_dim", "black_image_feature"))
class UNetSD_TFT2V(UNetSD):
    """Text-to-video UNet that can be steered; arguments as `UNetSD`.

    Maps (depth, sketch, motion, ...) are encoded to `concat_dim` channels each, summed and concatenated to the
    latents; the CLIP image vector becomes `num_tokens` context tokens, a palette one token per frame. Without maps
    the concatenated channels are zero.

    Args:
        config: what the original read from the global configuration; of its keys count `video_compositions` (which
            conditions the network has modules for), `use_text_clip_vip_model` (a small network on the last text
            token), and, in training mode, `drop_clip_text`, `no_video_text`, `p_zero_depth_alone`,
            `p_zero_motion_alone` and `p_zero_motion`. Sampling and training tasks hand it over.
        concat_dim: channels that the maps are summed in.
        hist_dim: colours of the palette.
        num_tokens: context tokens made from the image vector.
        adapter_transformer_layers: depth of the maps' encoders along the frames.
        misc_dropout: probability with which training drops a condition of a sample: its text, or what its other
            conditions were encoded to, becomes zero.
        p_all_zero, p_all_keep: probabilities with which it drops all conditions of a sample, or none.
        use_fps_condition: build an embedding of the frame rate.

    Raises:
        UserError: no or unknown `video_compositions`.
    """

    config_keys = ("video_compositions", "use_text_clip_vip_model", "drop_clip_text", "no_video_text",
                   "p_zero_depth_alone", "p_zero_motion_alone", "p_zero_motion")
    null_text_tokens = None
    drops_conditions = True  # in training mode
    drops_text = True  # among them the text

    @takes_options_of(UNetSD)
    def __init__(self, config: Mapping | None = None, concat_dim: int = 8, hist_dim: int = 156, num_tokens: int = 4,
                 adapter_transformer_layers: int = 1, misc_dropout: float = 0.5, p_all_zero: float = 0.1,
                 p_all_keep: float = 0.1, use_fps_condition: bool = False, **options):
        super().__init__(**{"context_dim": 1024} | options)
        if not isinstance(config, Mapping):
            raise UserError(f"{type(self).__name__}: 'config' must hold video_compositions, not {config!r}")
        self.flags = dict(config)
        self.entries = check_entries(config.get("video_compositions"))
        self.concat_dim, self.num_tokens, self.hist_dim = concat_dim, num_tokens, hist_dim
        self.p_all_zero, self.p_all_keep = p_all_zero, p_all_keep
        self.misc_dropout = ConditionDropout(misc_dropout)
        width = self.context_dim
        self.pre_y_condition_vip = None
        if self.flags.get("use_text_clip_vip_model"):
            self.pre_y_condition_vip = silu_mlp(width, width, width)
        if "image" in self.entries:
            self.pre_image_condition = silu_mlp(width, width, width * num_tokens)
        for kind in MAPS.values():
            if kind.entry in self.entries:
                add_encoder(self, kind, concat_dim, adapter_transformer_layers)
        if "histogram" in self.entries:
            self.hist_context_embedding = silu_mlp(hist_dim, self.embed_dim, width)
        self.fps_embedding = None
        if use_fps_condition:
            self.fps_embedding = silu_mlp(self.dim, self.embed_dim, self.embed_dim)
            zero_init(self.fps_embedding[-1])
        self.build_blocks(self.in_dim + concat_dim)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, image: Tensor | None = None,
                depth: Tensor | None = None, local_image: Tensor | None = None, motion: Tensor | None = None,
                canny: Tensor | None = None, sketch: Tensor | None = None, single_sketch: Tensor | None = None,
                masked: Tensor | None = None, histogram: Tensor | None = None, fps: Tensor | None = None,
                t_w: Tensor | None = None) -> Tensor:
        """Predict noise or velocity. Maps may have any height and width; None leaves a condition out.

        Args:
            x: [b, in_dim, f, h, w] noisy latents. t: [b] timesteps, integer or fractional.
            y: [b, L, context_dim] text tokens, None for `zero_y`.
            image: [b, 1, context_dim] CLIP image vector; None adds no tokens, which differs from zeros.
            depth: [b, 1, f, H, W], inverse depth of MiDaS / 20, clamped to 0..10.
            local_image: [b, 3, f, H, W] in 0..1, the first frame in every frame.
            motion: [b, 2, f, H, W] motion vectors (x, y) in pixels.
            canny: [b, 1, f, H, W], 0 or 1.
            sketch, single_sketch: [b, 1, f, H, W] in 0..1, strokes bright; the latter is the first frame's in all.
            masked: [b, 4, f, H, W]: colours in -1..1 times (1 - m), then 1 - m, with m = 1 where there is nothing.
            histogram: [b, f, hist_dim] shares of the palette's colours.
            fps: [b] frame rates; without effect unless the network has `use_fps_condition`.
            t_w: [b, GUIDANCE_WIDTH], see `embed_time`.

        Returns:
            [b, out_dim, f, h, w].

        Raises:
            UserError: a condition that the network has no module for, or a map of another number of frames.
        """
        self.check_size(*x.shape[-2:])
        text, batch, frames = self._text(y, x), x.shape[0], x.shape[2]
        maps = {"depth": depth, "local_image": local_image, "motion": motion, "canny": canny, "sketch": sketch,
                "single_sketch": single_sketch, "masked": masked}
        maps = {key: maps[key] for key in DRAWN if maps[key] is not None}
        self._check_given(maps, image, histogram, frames)
        drop = self._dropout(batch)
        features = self.remember((*maps, *x.shape), tuple(maps.values()), lambda: self._features(maps, x, drop))
        context = self.remember(("context", frames), (text, image, histogram),
                                lambda: self._context(text, image, histogram, frames, drop))
        if self.training and torch.is_grad_enabled():
            others = {"image": image, "histogram": histogram, "fps": fps}
            features = features + self._idle({*maps, *(key for key, value in others.items() if value is not None)})
        emb = self.embed_time(t, t_w)
        if self.fps_embedding is not None and fps is not None:
            emb = emb + self.embed_scalar(self.fps_embedding, fps)
        return self.backbone(torch.cat([x, features.to(x.dtype)], dim=1), emb, context)

    def example_conditions(self, latents: Tensor, pixels: tuple[int, int]) -> dict[str, Tensor]:
        """Every condition but the text, empty, for latents [b, c, f, h, w] of `pixels` = (height, width)."""
        batch, _, frames = latents.shape[:3]
        shapes = {key: (batch, kind.channels, frames, *pixels) for key, kind in MAPS.items()}
        shapes |= {"image": (batch, 1, self.context_dim), "histogram": (batch, frames, self.hist_dim)}
        return {key: latents.new_empty(shape) for key, shape in shapes.items() if ENTRIES[key] in self.entries}

    def _check_given(self, maps: dict[str, Tensor], image: Tensor | None, histogram: Tensor | None,
                     frames: int) -> None:
        lengths = {key: value.shape[2] for key, value in maps.items()}
        lengths |= {} if image is None else {"image": frames}
        lengths |= {} if histogram is None else {"histogram": histogram.shape[1]}
        for key, length in lengths.items():
            if ENTRIES[key] not in self.entries:
                raise UserError(f"{type(self).__name__} got the condition '{key}', for which it has no module; add "
                                f"'{ENTRIES[key]}' to video_compositions (now: {', '.join(self.entries)})")
            if length != frames:
                raise UserError(f"{type(self).__name__}: condition '{key}' has {length} frames, the video {frames}")

    def _idle(self, told: set[str]) -> Tensor | int:
        """Zero that depends on the parameters of all conditions but those told: distributed training waits for the
        gradient of every parameter, also of those that a call leaves out."""
        names = {"image": ["pre_image_condition"], "histogram": ["hist_context_embedding"], "fps": ["fps_embedding"]}
        names |= {key: [kind.stem, kind.mixer] for key, kind in MAPS.items()}
        modules = [getattr(self, name, None) for key, parts in names.items() if key not in told for name in parts]
        return 0 * sum(p.sum() for module in modules if module is not None for p in module.parameters())

    def _text(self, y: Tensor | None, x: Tensor) -> Tensor:
        """Text tokens [b, L, d], after what training does to them whatever the dropout."""
        batch, frames = x.shape[0], x.shape[2]
        if self.training and self.flags.get("no_video_text") and frames > 1:
            y = None
        text = self.text_or_null(y, batch)
        if self.training and self.pre_y_condition_vip is not None and self.flags.get("drop_clip_text"):
            dropped = (torch.rand(batch) < VIP_TEXT_DROPOUT).to(text.device)
            null = torch.cat([self.text_or_null(None, batch).to(text)[:, :-1], text[:, -1:]], dim=1)
            text = torch.where(dropped.view(-1, 1, 1), null, text)
        return text

    def _dropout(self, batch: int) -> Drop:
        """What training does to the encoded conditions of this forward, by keyword."""
        if not (self.training and self.drops_conditions):
            return lambda key, value: value
        zero, keep = draw_extremes(batch, self.p_all_zero, self.p_all_keep)

        def drop(key: str, value: Tensor) -> Tensor:
            alone = self._alone(key)
            if alone:
                return zero_samples(value, torch.rand(batch) < alone)
            return value if key == "y" and not self.drops_text else self.misc_dropout(value, zero, keep)

        return drop

    def _alone(self, key: str) -> float | None:
        """Probability of a condition that is dropped by its own rule, independent of the others."""
        if key == "depth":
            return self.flags.get("p_zero_depth_alone")
        if key == "motion":
            alone = self.flags.get("p_zero_motion_alone")
            return alone and (self.flags.get("p_zero_motion") or alone)  # the original tests one and reads the other
        return None

    def _features(self, maps: dict[str, Tensor], x: Tensor, drop: Drop) -> Tensor:
        """Sum of the encoded maps [b, concat_dim, f, h, w]; zeros where there are none."""
        size = x.shape[-2:]
        if not maps:
            return x.new_zeros(x.shape[0], self.concat_dim, x.shape[2], *size)
        return sum(drop(key, encode_map(self, MAPS[key], value, size)) for key, value in maps.items())

    def _context(self, text: Tensor, image: Tensor | None, histogram: Tensor | None, frames: int,
                 drop: Drop) -> Tensor:
        """Tokens of text, picture and palette: [b, L, context_dim], or [(b f), L, context_dim] with a palette."""
        text = drop("y", text)
        if self.pre_y_condition_vip is not None:
            text = torch.cat([text[:, :-1], self.pre_y_condition_vip(text[:, -1:]).to(text)], dim=1)
        tokens = [text]
        if image is not None:
            picture = self.pre_image_condition(image).view(len(text), self.num_tokens, self.context_dim)
            tokens.append(drop("image", picture).to(text))
        context = torch.cat(tokens, dim=1)
        if histogram is None:
            return context
        colors = drop("histogram", self.hist_context_embedding(histogram))[:, :, None].to(text)
        return torch.cat([context[:, None].expand(-1, frames, -1, -1), colors], dim=2).flatten(0, 1)

"""DreamVideo (arXiv 2312.04433): adapters for a subject and a motion in a frozen text-to-video network.

Identity adapters sit in the spatial transformers, motion adapters in the temporal ones; the latter may be told what
the video looks like, a CLIP image vector ("appearance guidance"), so that they need not learn it.
"""
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import gelu

from tools.checkpoint import describe_mismatch
from tools.errors import UserError, nearest
from tools.models.blocks import (
    BasicTransformerBlock,
    SpatialTransformer,
    TemporalTransformer,
    to_frames,
    to_video,
    zero_init,
)
from tools.models.conditions import Remembers
from tools.models.t2v import UNetSD_T2VBase
from tools.models.unet import COMMON_IGNORED, Signals, takes_options_of
from tools.registry import MODEL

# Sub-layer of a transformer block -> name of its adapter. In temporal blocks the "cross" attention is a second
# self-attention; the names are those of published files.
ADAPTERS = {"self_attention": "attn_adapter", "cross_attention": "cross_attn_adapter", "feedforward": "ff_adapter"}
POSITIONS = ("parallel", "serial")
SKIPPED = "skip"


@dataclass(frozen=True)
class Appearance:
    """What motion adapters are told: image vectors [b, 1 or f, E], scaled by `strength`."""

    image: Tensor
    strength: float | Tensor = 1.0


class Adapter(Remembers):
    """x + up(gelu(down(x + strength * condition(image)))), the identity at the start of training.

    Args:
        dim: width of the tokens. hidden_dim: of the bottleneck (None: dim // 2).
        condition_dim: width of the image vector; None for an adapter that takes none.

    Attributes:
        scale: factor on what the adapter adds; 1 as it was trained.
    """

    def __init__(self, dim: int, hidden_dim: int | None = None, condition_dim: int | None = None):
        super().__init__()
        hidden_dim = hidden_dim or dim // 2
        self.down_linear = nn.Linear(dim, hidden_dim)
        self.up_linear = zero_init(nn.Linear(hidden_dim, dim))
        self.condition_linear = nn.Linear(condition_dim, dim) if condition_dim else None
        self.scale = 1.0

    def forward(self, x: Tensor, guide: Appearance | None = None) -> Tensor:
        """x [(b ...), tokens, dim]; of a guide's frames there are one or as many as tokens."""
        if not self.scale:
            return x
        seen = x if guide is None or self.condition_linear is None else self._guided(x, guide)
        return x + self.scale * self.up_linear(gelu(self.down_linear(seen)))

    def _guided(self, x: Tensor, guide: Appearance) -> Tensor:
        """Every position of a sample gets that sample's image; the strength scales the bias as well."""
        shift = guide.strength * self.remember("shift", (guide.image,), lambda: self.condition_linear(guide.image))
        return (x.unflatten(0, (shift.shape[0], -1)) + shift[:, None]).flatten(0, 1)


@dataclass(frozen=True)
class AdapterPlan:
    """Which sub-layers of a kind of transformer block have adapters, and how they are joined.

    Attributes:
        positions: sub-layer (a key of `ADAPTERS`) -> `parallel`, `serial` or `skip`.
        hidden_dim, condition_dim: as in `Adapter`.
    """

    positions: dict[str, str]
    hidden_dim: int | None = None
    condition_dim: int | None = None

    @classmethod
    def parse(cls, kind: str, listed: Sequence[str], positions: Sequence[str], unplaced: str,
              hidden_dim: int | None, condition_dim: int | None = None) -> "AdapterPlan":
        """From the options of a YAML file; `positions` has one entry per sub-layer, in the order of `ADAPTERS`.

        Raises:
            UserError: an unknown sub-layer or position, or a listed sub-layer without a position.
        """
        for name in listed:
            if name not in ADAPTERS:
                raise UserError(f"{kind}_adapter_list: no sub-layer '{name}'{nearest(name, ADAPTERS)}; "
                                f"there are: {', '.join(ADAPTERS)}")
        if len(positions) != len(ADAPTERS):
            raise UserError(f"{kind}_adapter_position_list must have {len(ADAPTERS)} entries, for "
                            f"{', '.join(ADAPTERS)} in this order, not {list(positions)}")
        chosen = {name: place for name, place in zip(ADAPTERS, positions, strict=True) if name in listed}
        for name, place in chosen.items():
            if place not in POSITIONS and unplaced != SKIPPED:
                raise UserError(f"{kind}_adapter_list asks for an adapter of {name}, but {kind}_adapter_position_list "
                                f"says '{place}' for it; choose {' or '.join(POSITIONS)}")
        placed = {name: place if place in POSITIONS else SKIPPED for name, place in chosen.items()}
        return cls(placed, hidden_dim, condition_dim)


class AdaptedTransformerBlock(BasicTransformerBlock):
    """Transformer block whose sub-layers S(x) = layer(norm(x)) may have an adapter A.

    parallel: S(x) + A(x), where A holds the residual and sees x without the norm. serial: A(S(x) + x).
    """

    def __init__(self, dim: int, n_heads: int, d_head: int, context_dim: int | None = None,
                 disable_self_attn: bool = False, *, plan: AdapterPlan):
        super().__init__(dim, n_heads, d_head, context_dim=context_dim, disable_self_attn=disable_self_attn)
        self.positions = plan.positions
        for name in plan.positions:
            setattr(self, ADAPTERS[name], Adapter(dim, plan.hidden_dim, plan.condition_dim))

    def forward(self, x: Tensor, context: Tensor | None = None, guide: Appearance | None = None) -> Tensor:
        """x [n, tokens, dim]; context as in `BasicTransformerBlock`; guide for adapters that take one."""
        first = context if self.disable_self_attn else None
        x = self._adapted("self_attention", lambda h: self.attn1(self.norm1(h), first), x, guide)
        x = self._adapted("cross_attention", lambda h: self.attn2(self.norm2(h), context), x, guide)
        return self._adapted("feedforward", lambda h: self.ff(self.norm3(h)), x, guide)

    def _adapted(self, name: str, layer, x: Tensor, guide: Appearance | None) -> Tensor:
        position = self.positions.get(name)
        if position is None:
            return layer(x) + x
        if position == SKIPPED:
            return x
        adapter = getattr(self, ADAPTERS[name])
        return layer(x) + adapter(x, guide) if position == "parallel" else adapter(layer(x) + x, guide)


class AdaptedTemporalTransformer(TemporalTransformer):
    """Temporal transformer whose blocks look at a guide."""

    def run_blocks(self, tokens: Tensor, guide: Appearance | None = None) -> Tensor:
        for block in self.transformer_blocks:
            tokens = block(tokens, guide=guide)
        return tokens


@MODEL.register(ignored=(*COMMON_IGNORED, "y_dim", "concat_dim", "num_tokens"))
class UNetSD_DreamVideo(UNetSD_T2VBase):
    """Text-to-video UNet with adapters; arguments as `UNetSD_T2VBase`.

    Args:
        spatial_adapter_list: sub-layers of the spatial transformers with an identity adapter: `self_attention`,
            `cross_attention`, `feedforward`. temporal_adapter_list: of the temporal ones, with a motion adapter.
        spatial_adapter_position_list, temporal_adapter_position_list: `parallel` or `serial` for each of the three
            sub-layers in that order; '' for one that is not listed.
        spatial_adapter_hidden_dim, temporal_adapter_hidden_dim: width of the bottlenecks; None: half the block's.
        temporal_adapter_condition_dim: width of the image vector that motion adapters are told; None: they are not.
        unplaced_adapter: `refuse` a listed sub-layer whose position is neither, or `skip` that sub-layer altogether,
            which is what the original did.
    """

    @takes_options_of(UNetSD_T2VBase)
    def __init__(self, spatial_adapter_list: Sequence[str] = (),
                 spatial_adapter_position_list: Sequence[str] = ("", "parallel", ""),
                 spatial_adapter_hidden_dim: int | None = None, temporal_adapter_list: Sequence[str] = (),
                 temporal_adapter_position_list: Sequence[str] = ("parallel", "parallel", "parallel"),
                 temporal_adapter_condition_dim: int | None = None, temporal_adapter_hidden_dim: int | None = None,
                 unplaced_adapter: str = "refuse", **options):
        if unplaced_adapter not in ("refuse", SKIPPED):
            raise UserError(f"unplaced_adapter '{unplaced_adapter}': choose refuse or {SKIPPED}")
        # Before the base class builds the blocks, which have their adapters by these plans.
        self.identity_plan = AdapterPlan.parse("spatial", spatial_adapter_list, spatial_adapter_position_list,
                                               unplaced_adapter, spatial_adapter_hidden_dim)
        self.motion_plan = AdapterPlan.parse("temporal", temporal_adapter_list, temporal_adapter_position_list,
                                             unplaced_adapter, temporal_adapter_hidden_dim,
                                             temporal_adapter_condition_dim)
        super().__init__(**options)
        self.scale_adapters()

    def spatial_transformer(self, channels: int) -> nn.Module:
        return SpatialTransformer(channels, channels // self.head_dim, self.head_dim, context_dim=self.context_dim,
                                  block=_block(self.identity_plan))

    def temporal_transformer(self, channels: int, heads: int) -> nn.Module:
        return AdaptedTemporalTransformer(channels, heads, self.head_dim, use_image_dataset=self.use_image_dataset,
                                          block=_block(self.motion_plan))

    def scale_adapters(self, identity: float = 1.0, motion: float = 1.0, motion_from: float = 0.0) -> None:
        """Weaken (below 1) or exaggerate what the adapters of either kind add.

        motion_from: timestep below which the motion adapters rest. Where a thing goes is settled at much noise; what it
        looks like, of which motion adapters know little, at the end.
        """
        self.motion_scale, self.motion_from = motion, motion_from
        self._scale(SpatialTransformer, identity)
        self._scale(TemporalTransformer, motion)

    def _scale(self, kind: type[nn.Module], factor: float) -> None:
        for module in self.modules():
            if isinstance(module, kind):
                for adapter in (part for part in module.modules() if isinstance(part, Adapter)):
                    adapter.scale = factor

    def run_layer(self, layer: nn.Module, x: Tensor, signals: Signals, size: tuple[int, int] | None = None) -> Tensor:
        if isinstance(layer, AdaptedTemporalTransformer):
            return to_frames(layer(to_video(x, signals.batch), signals.guide))
        return super().run_layer(layer, x, signals, size)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, y_image: Tensor | None = None,
                ag_strength: float | Tensor = 1.0, fps: Tensor | None = None) -> Tensor:
        """Predict noise or velocity.

        Args:
            x: [b, in_dim, f, h, w] noisy latents. t: [b] timesteps, integer or fractional.
            y: [b, L, context_dim] text tokens, None for the first token of `zero_y`.
            y_image: CLIP image vectors [b, 1, E], or [b, f, E] for one per frame. None tells the motion adapters
                nothing, which is strength 0; zeros still pass on the bias.
            ag_strength: factor on what the vectors contribute.
            fps: [b] frame rates; without effect unless the network has `use_fps_condition`.

        Returns:
            [b, out_dim, f, h, w].

        Raises:
            UserError: the number of image vectors is neither 1 nor f.
        """
        self.check_size(*x.shape[-2:])
        if y_image is not None and y_image.shape[1] not in (1, x.shape[2]):
            raise UserError(f"UNetSD_DreamVideo: y_image has {y_image.shape[1]} vectors for {x.shape[2]} frames; "
                            "give one, or one per frame")
        if self.motion_from:
            self._scale(TemporalTransformer, self.motion_scale if (t >= self.motion_from).all() else 0.0)
        guide = None if y_image is None else Appearance(y_image, ag_strength)
        return self.backbone(x, self.embed(t, fps), self.text_or_null(y, x.shape[0]), guide=guide)


def _block(plan: AdapterPlan):
    """Factory of transformer blocks with the plan's adapters."""
    def make(*args, **kwargs) -> AdaptedTransformerBlock:
        return AdaptedTransformerBlock(*args, **kwargs, plan=plan)

    return make


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return "adapter" in name


def merge_adapters(model: nn.Module, base_name: str, base: dict[str, Tensor],
                   adapters: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """The base's weights with those of adapters put over them, all that `model` needs.

    Args:
        base_name: what messages call the base.
        adapters: what messages call an adapter -> its entries; later ones win.

    Raises:
        UserError: names base and adapter and the first keys where they do not fit each other or the model.
    """
    own, kind = model.state_dict(), type(model).__name__
    problems = describe_mismatch({k: v for k, v in own.items() if k in base or not is_adapter(k)}, base)
    if problems:
        raise UserError(f"{base_name} does not fit {kind}: {problems}")
    merged = dict(base)
    for name, state in adapters.items():
        problems = describe_mismatch({key: value for key, value in own.items() if key in state}, state)
        if problems:
            raise UserError(f"{name} does not fit {kind} on {base_name}: it was trained on another base or with other "
                            f"adapter lists: {problems}")
        merged |= state
    missing = [key for key in own if key not in merged]
    if missing:
        raise UserError(f"{kind} on {base_name} has {len(missing)} adapter entries that no adapter file holds (first: "
                        f"{missing[0]}; files: {', '.join(adapters) or 'none'}); name the file, or leave that kind of "
                        "adapter out of the UNet's section")
    return merged

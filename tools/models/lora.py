"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) of attention, for every network here.

`attach` puts a pair down [r, in], up [out, r] beside each of an attention's four projections; the projection's output
becomes W x + b + scale * up(down(x)). The base weights keep their names, the pairs get those of the published
InstructVideo checkpoint (`...attn1.to_q_lora.down_linear.weight`). `lora_files` reads, writes and merges pairs.
"""
from collections.abc import Iterator

from torch import Tensor, nn

from tools.errors import UserError
from tools.models.t2v import UNetSD_T2VBase
from tools.models.unet import COMMON_IGNORED, takes_options_of
from tools.registry import MODEL

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out")
SUFFIX = "_lora"


class LoRAPair(nn.Module):
    """scale * up(down(x)), no biases; starts silent.

    Args:
        dim_in, dim_out: of the projection beside it.
        rank: of the change.
        scale: factor of the change.
    """

    def __init__(self, dim_in: int, dim_out: int, rank: int, scale: float = 1.0):
        super().__init__()
        self.down_linear = nn.Linear(dim_in, rank, bias=False)
        self.up_linear = nn.Linear(rank, dim_out, bias=False)
        self.scale = scale
        nn.init.normal_(self.down_linear.weight, std=1 / rank)
        nn.init.zeros_(self.up_linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.up_linear(self.down_linear(x))

    def add_to(self, _projection: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        """Forward hook of the projection: its output plus the change."""
        return output + self(inputs[0])


def lora_scale(rank: int, alpha: float | None) -> float:
    """alpha / rank (arXiv 2106.09685, section 4.1), 1 where no alpha is given."""
    return 1.0 if alpha is None else alpha / rank


def attentions(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module with the four projections, and its name; whatever class it is of."""
    for name, module in network.named_modules():
        if all(isinstance(getattr(module, projection, None), nn.Module) for projection in PROJECTIONS):
            yield name, module


def projection_of(attention: nn.Module, name: str) -> nn.Linear:
    """The linear layer of a projection; `to_out` wraps its own together with a dropout."""
    layer = getattr(attention, name)
    return layer if isinstance(layer, nn.Linear) else layer[0]


def attach(network: nn.Module, rank: int, alpha: float | None = None) -> None:
    """Put a pair beside every projection of every attention.

    Args:
        network: any network with attentions.
        rank: of the pairs, at least 1.
        alpha: the scale's numerator, see `lora_scale`.

    Raises:
        UserError: a rank below 1, a network without attentions or with pairs already.
    """
    if not isinstance(rank, int) or rank < 1:
        raise UserError(f"lora_rank must be an integer of at least 1, not {rank}")
    found = list(attentions(network))
    if not found:
        raise UserError(f"{type(network).__name__} has no attention that a LoRA could change")
    for name, attention in found:
        if hasattr(attention, PROJECTIONS[0] + SUFFIX):
            raise UserError(f"{type(network).__name__} has LoRA pairs already (at {name})")
        for projection in PROJECTIONS:
            layer = projection_of(attention, projection)
            pair = LoRAPair(layer.in_features, layer.out_features, rank, lora_scale(rank, alpha)).to(layer.weight)
            attention.add_module(projection + SUFFIX, pair)
            layer.register_forward_hook(pair.add_to)


def pairs(network: nn.Module) -> dict[str, LoRAPair]:
    """The attached pairs by the name of the weight that each changes (`...attn1.to_out.0.weight`)."""
    return {weight_name(name): module for name, module in network.named_modules() if isinstance(module, LoRAPair)}


def weight_name(pair: str) -> str:
    """Name of the weight that the pair called `pair` (`...attn1.to_out_lora`) changes."""
    projection = pair.removesuffix(SUFFIX)
    return f"{projection}.0.weight" if projection.rpartition(".")[2] == "to_out" else f"{projection}.weight"


def is_lora_key(key: str) -> bool:
    """Whether a parameter belongs to a LoRA; the original's rule."""
    return "lora" in key


def train_pairs_only(network: nn.Module) -> None:
    """Fix every parameter but those of pairs."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(is_lora_key(name))


@MODEL.register(ignored=(*COMMON_IGNORED, "y_dim", "concat_dim", "num_tokens"))
class UNetSD_LoRA(UNetSD_T2VBase):
    """InstructVideo's text-to-video UNet (arXiv 2312.12490); arguments as `UNetSD_T2VBase`.

    Args:
        use_lora: attach pairs to every attention, spatial and temporal.
        lora_rank, lora_alpha: see `attach`.
    """

    @takes_options_of(UNetSD_T2VBase)
    def __init__(self, in_dim: int = 7, use_lora: bool = False, lora_rank: int | None = None,
                 lora_alpha: float | None = None, **options):
        super().__init__(in_dim=in_dim, **options)
        if use_lora:
            attach(self, lora_rank, lora_alpha)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, fps: Tensor | None = None) -> Tensor:
        """As `UNetSD_T2VBase.forward`, with the text required and the frame rate never looked at."""
        self.require(y=y)
        return super().forward(x, t, y)


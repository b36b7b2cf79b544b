"""PiDiNet (arXiv 2108.07009): edges by convolutions of pixel differences.

A pixel-difference convolution is a plain one with another kernel, `plain_kernel`. The published file holds the original
kernels; converted ones (`convert=True`) give the same edges faster.
"""
import re

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, max_pool2d, relu

from tools.checkpoint import load_state, strip_prefix
from tools.frozen import check_fit, load_frozen, on_meta

LAYERS = 16
BLOCKS = (3, 4, 4, 4)  # per stage; the first convolution of the network takes the place of one in the first
WIDTHS = (1, 2, 4, 4)  # of the stages, times `inplane`
DILATIONS = (5, 7, 9, 11)
ATTENTION_WIDTH = 4
LETTERS = {"c": "cd", "a": "ad", "r": "rd", "v": "cv"}
# Taps of a 3x3 kernel are numbered row by row.
NEIGHBOUR = [3, 0, 1, 6, 4, 2, 7, 8, 5]  # each tap's neighbour around the centre
OUTER = [0, 2, 4, 10, 14, 20, 22, 24]  # where the taps 1 to 8 stand in a 5x5 kernel: outside,
INNER = [6, 7, 8, 11, 13, 16, 17, 18]  # and inside, where they are subtracted


def layer_kinds(config: str) -> list[str]:
    """Kinds of the 16 convolutions, of 'cv' (plain), 'cd' (central), 'ad' (angular), 'rd' (radial).

    Args:
        config: four letters of c, a, r, v (plain) and '4' for four rounds of them (`carv4`); 'baseline', all plain;
            `c-v15`, one and then 15 plain; `c16`, all of one kind.

    Raises:
        ValueError: none of these.
    """
    if config == "baseline":
        return ["cv"] * LAYERS
    if re.fullmatch("[carv]{4}4", config):
        return [LETTERS[letter] for letter in config[:4]] * 4
    if re.fullmatch("[car]-v15", config):
        return [LETTERS[config[0]]] + ["cv"] * (LAYERS - 1)
    if re.fullmatch("[car]16", config):
        return [LETTERS[config[0]]] * LAYERS
    raise ValueError(f"no PiDiNet is called '{config}'")


def plain_kernel(kernel: Tensor, kind: str) -> Tensor:
    """Kernel [o, i, 3, 3] of a pixel-difference convolution as that of a plain one, [o, i, 5, 5] for 'rd'."""
    taps = kernel.flatten(2)
    if kind == "cd":
        taps = torch.cat([taps[..., :4], taps[..., 4:5] - taps.sum(-1, keepdim=True), taps[..., 5:]], dim=-1)
    elif kind == "ad":
        taps = taps - taps[..., NEIGHBOUR]
    elif kind == "rd":
        wide = taps.new_zeros(*taps.shape[:2], 25)
        wide[..., OUTER] = taps[..., 1:]
        wide[..., INNER] = -taps[..., 1:]
        return wide.unflatten(-1, (5, 5))
    return taps.unflatten(-1, (3, 3))


class DifferenceConv(nn.Module):
    """A convolution of one kind that keeps the size; `convert` for one whose kernel is a plain one already."""

    def __init__(self, kind: str, in_channels: int, out_channels: int, groups: int = 1, convert: bool = False):
        super().__init__()
        self.kind, self.groups, self.convert = kind, groups, convert
        side = 5 if kind == "rd" and convert else 3
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, side, side))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight if self.convert else plain_kernel(self.weight, self.kind)
        return conv2d(x, kernel, padding=kernel.shape[-1] // 2, groups=self.groups)


class Block(nn.Module):
    """Depthwise difference convolution and 1x1 convolution beside a shortcut; `halve` pools first."""

    def __init__(self, kind: str, in_channels: int, out_channels: int, halve: bool, convert: bool):
        super().__init__()
        self.halve = halve
        if halve:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1)
        self.conv1 = DifferenceConv(kind, in_channels, in_channels, in_channels, convert)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool2d(x, 2) if self.halve else x
        return self.conv2(relu(self.conv1(x))) + (self.shortcut(x) if self.halve else x)


class Dilation(nn.Module):
    """Sum of four dilated convolutions (the paper's CDCM)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1)
        for i, dilation in enumerate(DILATIONS, start=1):
            setattr(self, f"conv2_{i}", nn.Conv2d(out_channels, out_channels, 3, dilation=dilation, padding=dilation,
                                                  bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(relu(x))
        return sum(getattr(self, f"conv2_{i}")(x) for i in range(1, len(DILATIONS) + 1))


class Attention(nn.Module):
    """Weighs places between 0 and 1 (the paper's CSAM)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, ATTENTION_WIDTH, 1)
        self.conv2 = nn.Conv2d(ATTENTION_WIDTH, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv2(self.conv1(relu(x))).sigmoid()


class Reduction(nn.Module):
    """To the one channel of a side output."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class PiDiNet(nn.Module):
    """Edge probabilities.

    Args:
        inplane: channels of the first stage.
        config: see `layer_kinds`.
        dil: channels of the side outputs' dilated convolutions; None or 0 for none.
        sa: weigh the side outputs by place.
        convert: hold plain kernels.
    """

    def __init__(self, inplane: int = 60, config: str = "carv4", dil: int | None = 24, sa: bool = True,
                 convert: bool = False):
        super().__init__()
        kinds = iter(layer_kinds(config))
        self.init_block = DifferenceConv(next(kinds), 3, inplane, convert=convert)
        widths, last = [inplane * times for times in WIDTHS], inplane
        for stage, (count, width) in enumerate(zip(BLOCKS, widths, strict=True), start=1):
            for number in range(1, count + 1):
                block = Block(next(kinds), last, width, stage > 1 and number == 1, convert)
                self.add_module(f"block{stage}_{number}", block)
                last = width
        sides = [dil] * len(widths) if dil else widths
        self.conv_reduces = nn.ModuleList(Reduction(width) for width in sides)
        if sa:
            self.attentions = nn.ModuleList(Attention(width) for width in sides)
        if dil:
            self.dilations = nn.ModuleList(Dilation(width, dil) for width in widths)
        self.classifier = nn.Conv2d(len(widths), 1, 1)
        self.sa, self.dil = sa, dil

    def forward(self, pictures: Tensor) -> Tensor:
        """[n, 3, H, W], normalised, to [n, 1, H, W] in 0..1, edges bright."""
        x, maps = self.init_block(pictures), []
        for stage, count in enumerate(BLOCKS, start=1):
            for number in range(1, count + 1):
                x = getattr(self, f"block{stage}_{number}")(x)
            maps.append(interpolate(self._side(stage - 1, x), pictures.shape[-2:], mode="bilinear"))
        return self.classifier(torch.cat(maps, dim=1)).sigmoid()

    def _side(self, number: int, x: Tensor) -> Tensor:
        x = self.dilations[number](x) if self.dil else x
        x = self.attentions[number](x) if self.sa else x
        return self.conv_reduces[number](x)


def convert_state(state: dict[str, Tensor], config: str = "carv4") -> dict[str, Tensor]:
    """Weights with the original kernels as those of a network built with `convert=True`; `state` stays as it is."""
    names = ["init_block"] + [f"block{stage}_{number}.conv1" for stage, count in enumerate(BLOCKS, start=1)
                              for number in range(1, count + 1)]
    kinds = {f"{name}.weight": kind for name, kind in zip(names, layer_kinds(config), strict=True)}
    return {key: plain_kernel(value, kinds[key]) if key in kinds else value for key, value in state.items()}


def load_pidinet(path: str, config: str = "carv4") -> PiDiNet:
    """The network, of any width, with the weights of a file in its published or its converted form, frozen.

    Raises:
        UserError: the file is missing or holds another network.
    """
    state, what = strip_prefix(load_state(path), "module."), f"sketch: '{path}'"
    first, dilated = state.get("init_block.weight"), state.get("dilations.0.conv1.weight")
    options = {"inplane": 60 if first is None else len(first), "dil": None if dilated is None else len(dilated),
               "sa": any(key.startswith("attentions.") for key in state), "config": config}
    if any(value.shape[-1] == 5 for value in state.values() if value.ndim == 4):
        return load_frozen(on_meta(PiDiNet, **options, convert=True), state, what)
    check_fit(on_meta(PiDiNet, **options).state_dict(), state, what)
    return load_frozen(on_meta(PiDiNet, **options, convert=True), convert_state(state, config), what)

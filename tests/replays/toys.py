"""Formula components of the whole-task golden cases, registered under the names that their YAML files use.

They follow this project's conventions (dataset items are dictionaries, random draws go through `tools.noise`), so that
only the engine around them is measured.
"""
import itertools
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from tests.goldens.reader import uniform
from tools import noise
from tools.registry import AUTO_ENCODER, DATASETS, EMBEDDER, EMBEDMANAGER, MODEL, PRETRAIN, VISUAL

CONDITION_WEIGHTS = {
    "y": 1.0, "fps": 0.01, "image": 0.5, "local_image": 0.25, "y_image": 0.5, "ag_strength": 0.3, "spat_prior": 0.3,
    "motion_cond": 0.001, "appearance_cond": 0.2, "depth": 0.4, "sketch": 0.35, "masked": 0.15, "single_sketch": 0.45,
    "motion": 0.05, "t_w": 0.0,
}


def rule(name: str, shape) -> Tensor:
    """The rule's tensor of that name."""
    return torch.from_numpy(uniform(name, shape))


@MODEL.register()
class ToyUNet(nn.Module):
    """Denoiser [B, C, F, h, w] -> same, in closed form: x scaled, its mean over the frames, and the conditions.

    `calls` holds (x, t, conditions) of every call of any instance since it was last cleared.
    """

    calls: ClassVar[list[tuple[Tensor, Tensor, dict]]] = []

    def __init__(self, use_lora: bool = False, adapter: bool = False, **ignored):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(1.0))
        self.phi = nn.Parameter(torch.tensor(0.1))
        self.gains = ["theta"]
        if use_lora:
            self.theta_lora = nn.Parameter(torch.tensor(0.05))
            self.gains.append("theta_lora")
        if adapter:
            self.adapter = nn.Parameter(torch.tensor(0.02))
            self.gains.append("adapter")

    def forward(self, x: Tensor, t: Tensor, **conditions) -> Tensor:
        self.calls.append((x.detach().clone(), t.detach().clone(), dict(conditions)))
        time = t.float().reshape(-1, 1, 1, 1, 1)
        gain = sum(getattr(self, name) for name in self.gains)
        told = torch.zeros(x.shape[0])
        for name, value in sorted(conditions.items()):
            if value is not None:
                told = told + CONDITION_WEIGHTS[name] * _mean(value)
        shift = self.phi * torch.sin(time / 100) * (1 + told.reshape(-1, 1, 1, 1, 1))
        return gain * 0.4 * torch.cos(time / 200) * x + shift + 0.1 * x.mean(dim=2, keepdim=True)


def _mean(value) -> Tensor:
    """Mean of a condition over all but its batch axis; a plain number counts as itself."""
    if not isinstance(value, Tensor):
        return torch.tensor(float(value))
    value = value.float()
    return value.reshape(value.shape[0], -1).mean(dim=1) if value.dim() else value


class _Toy(nn.Module):
    """Words and picture features of the toy embedders."""

    def __init__(self):
        super().__init__()

    def words(self, text) -> Tensor:
        """[B, 2, 4], one rule tensor per string."""
        strings = [text] if isinstance(text, str) else list(text)
        return torch.stack([rule(f"text/{string}", [2, 4]) for string in strings])

    @property
    def white_image(self) -> Tensor:
        return torch.ones(1, 3, 4, 4)

    def encode_image(self, image: Tensor) -> Tensor:
        """[B, 4]: the means of red, green, blue and of the three."""
        colours = image.float().mean(dim=(2, 3))
        return torch.cat([colours, colours.mean(dim=1, keepdim=True)], dim=1)


@EMBEDDER.register()
class ToyEmbedder(_Toy):
    """(image vector, text vector, words) as of the text and image embedders."""

    def forward(self, image=None, text=None, embedding_manager=None):
        words = self.words(text)
        if embedding_manager is not None:
            words = embedding_manager(text, words)
        return None if image is None else self.encode_image(image), words.mean(dim=1), words


@EMBEDDER.register()
class ToyEmbedderZero(_Toy):
    """Words alone, as of the embedder with the feature of a white picture."""

    @property
    def zero_feature(self) -> Tensor:
        return self.encode_image(self.white_image)

    def forward_image(self, image: Tensor) -> Tensor:
        return self.encode_image(image)

    def forward(self, text) -> Tensor:
        return self.words(text)


@EMBEDMANAGER.register()
class ToyManager(nn.Module):
    """One vector [1, 4] that is added to the first word of every text."""

    def __init__(self, placeholder_strings: list[str], embedder=None):
        super().__init__()
        self.placeholders = placeholder_strings
        self.manager = nn.Parameter(rule("manager", [1, 4]))

    def forward(self, text, words: Tensor) -> Tensor:
        """words [B, L, 4] -> same."""
        return torch.cat([words[:, :1] + self.manager, words[:, 1:]], dim=1)

    def content(self) -> dict:
        """The published layout of text embedding files."""
        return {"string_to_token": {text: torch.tensor(0) for text in self.placeholders},
                "string_to_param": nn.ParameterDict(dict.fromkeys(self.placeholders, self.manager))}


@AUTO_ENCODER.register()
class ToyAutoencoder(nn.Module):
    """8x8 average pooling one way, doubling of the size the other way."""

    def __init__(self, posterior_std: float = 0.0):
        super().__init__()
        self.posterior_std = posterior_std

    def encode_first_stage(self, x: Tensor, scale_factor: float = 1.0, generator=None) -> Tensor:
        """[N, 3, H, W] -> [N, 4, H/8, W/8]."""
        colours = F.avg_pool2d(x, 8)
        latents = torch.cat([colours, colours.mean(dim=1, keepdim=True)], dim=1)
        if self.posterior_std:
            latents = latents + self.posterior_std * noise.cpu_randn(latents.shape, generator=generator)
        return scale_factor * latents

    encode_firsr_stage = encode_first_stage

    def decode(self, z: Tensor) -> Tensor:
        """[N, 4, h, w] -> [N, 3, 2h, 2w]."""
        return F.interpolate(torch.tanh(z[:, :3]), scale_factor=2, mode="nearest")


@DATASETS.register()
class ToyDataset(Dataset):
    """`length` clips by rule; `max_frames`, which the engine gives, wins over `frames`."""

    def __init__(self, length: int, size: list[int], frames: int = 1, max_frames: int | None = None,
                 mask: bool = False, **ignored):
        self.length, self.size, self.mask = length, size, mask
        self.frames = max_frames or frames

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(index)
        width, height = self.size
        item = {
            "ref_frame": rule(f"data/{index}/ref", [3, height, width]),
            "vit_frame": rule(f"data/{index}/vit", [3, 8, 8]),
            "video": rule(f"data/{index}/video", [self.frames, 3, height, width]),
            "caption": f"caption {index}",
            "key": f"video{index}.mp4",
        }
        if self.mask:
            shape = [self.frames, 3, height // 8, width // 8]
            item["mask"] = (rule(f"data/{index}/mask", shape) > 0).float()
        return item


@VISUAL.register()
class ToyVisual:
    """Draws nothing."""

    def __init__(self, **ignored):
        pass

    def run(self, *ignored, **also_ignored) -> None:
        """Nothing to see."""


@PRETRAIN.register()
def toy_pretrain(model, **ignored):
    """The model as it is, as if it had been trained for one step."""
    return model, 1


def device_draws(name: str | None):
    """Replacement of `noise.device_randn`: the k-th draw of a run is the rule's tensor `{name}/k`; with its counter."""
    count = itertools.count()
    drawn: list[tuple] = []

    def device_randn(shape, *, device, dtype=torch.float32, generator=None) -> Tensor:
        drawn.append(tuple(shape))
        return rule(f"{name}/{next(count)}", list(shape)).to(device=device, dtype=dtype)

    return device_randn, drawn


def device_integers(values: list):
    """Replacement of `noise.device_randint`: the given values in order."""
    remaining = iter(values)

    def device_randint(low, high, shape, *, device, generator=None) -> Tensor:
        return torch.tensor(next(remaining), device=device).reshape(tuple(shape))

    return device_randint

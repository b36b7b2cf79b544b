"""The formula parts of ConsistI2V's pipeline cases, and the engine put together from them."""
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from tests.goldens.reader import fill_module, uniform, weight_rule
from tests.replays.consisti2v_parts import scheduler
from tools.autoencoders.diffusers_kl import DiffusersAutoencoderKL
from tools.config import Config
from tools.defaults import default_values
from tools.diffusions import frameinit  # noqa: F401 - registers FrameInit
from tools.embedders.clip_text import CLIPTextEmbedder
from tools.engines.consisti2v import ConsistI2V
from tools.models.consisti2v.unet import VideoLDMUNet3DConditionModel

TOY = "toy"


class ToyUNet(nn.Module):
    """0.1 sin(t / 100) x + 0.05 first frame + 0.2 mean(text) + 0.01 stride."""

    options = SimpleNamespace(takes_first_frame=True, use_frame_stride_condition=True)

    def forward(self, sample, timestep, encoder_hidden_states, first_frame_latents, frame_stride):
        rows = (-1, 1, 1, 1, 1)
        time = torch.sin(timestep.float().view(rows) / 100)
        text = encoder_hidden_states.flatten(1).mean(1).view(rows)
        return 0.1 * time * sample + 0.05 * first_frame_latents + 0.2 * text + 0.01 * frame_stride.view(rows)


class ToyAutoencoder(nn.Module):
    """Latent channel c is 5 (1 + 0.1 c) times the 8 x 8 means of colour c mod 3; nothing is drawn."""

    def encode_first_stage(self, x: Tensor, scale_factor: float = 1.0, generator=None) -> Tensor:
        means = avg_pool2d(x, 8)
        return scale_factor * torch.stack([5 * (1 + 0.1 * c) * means[:, c % 3] for c in range(4)], dim=1)

    def decode(self, z: Tensor) -> Tensor:
        return interpolate(z[:, :3] / 5, scale_factor=8, mode="nearest")


class TableEmbedder(nn.Module):
    """Tokens of a table of captions, through a table of embeddings or a text encoder.

    Args:
        tokenizer: {"table": caption -> ids}.
        embed: ids [B, L] -> tokens [B, L, d].
    """

    def __init__(self, tokenizer: dict, embed):
        super().__init__()
        self.table, self.embed = tokenizer["table"], embed

    def forward(self, text: list[str]) -> Tensor:
        return self.embed(torch.tensor([self.table[caption] for caption in text]))


def toy_embedder(text_encoder: dict, tokenizer: dict) -> TableEmbedder:
    table = torch.from_numpy(uniform("toy_text_embedding", (text_encoder["vocab"], text_encoder["dim"])))
    return TableEmbedder(tokenizer, lambda ids: table[ids])


def network(part: dict) -> nn.Module:
    """The toy, or the real denoiser filled by the rule."""
    if part["component"] == TOY:
        return ToyUNet()
    return fill_module(VideoLDMUNet3DConditionModel(**part["config"])).eval()


def autoencoder(part: dict) -> nn.Module:
    if part["component"] == TOY:
        return ToyAutoencoder()
    built = DiffusersAutoencoderKL(config=part["config"]).eval()
    fill_module(built.model)
    return built


def embedder(parts: dict) -> nn.Module:
    part = parts["text_encoder"]
    if part.get("component", TOY) == TOY:
        return toy_embedder(part, parts["tokenizer"])
    built = CLIPTextEmbedder(config=part["config"])
    state = {key: torch.zeros_like(value) for key, value in built.published_state().items()}
    built.load_published(fill_state(state), "the rule")
    return TableEmbedder(parts["tokenizer"], built.embed)


def fill_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict filled by the rule under its own names."""
    return {key: torch.from_numpy(uniform(key, value.shape, *weight_rule(key, value.shape)))
            for key, value in state.items()}


def engine_of(settings: dict, schedule: dict, model: nn.Module, mode: str, **parts) -> ConsistI2V:
    """An engine with given parts and settings that differ from the defaults.

    Args:
        settings: top-level keys.
        schedule: options of the scheduler.
        parts: `autoencoder`, `embedder`.
    """
    cfg = Config(default_values() | {"TASK_TYPE": "consisti2v", "device": "cpu", "batched_guidance": True} | settings)
    engine = ConsistI2V(cfg, mode)
    engine.diffusion = scheduler(schedule)
    engine.model = engine.network = model
    for name, part in parts.items():
        setattr(engine, name, part)
    return engine

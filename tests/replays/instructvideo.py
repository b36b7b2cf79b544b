"""InstructVideo's parts: LoRA, the preference model, the reward with its gradient, the partial chain, the tracker.

Topics vgen-engine (kinds `lora`, `reward`, `tracker`, `hps`) and vgen-unets-methods (`lora`, `instruct_reward`,
`instruct_partial`).
"""
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.goldens.reader import fill_module, tensor, uniform
from tests.replays.methods import run_call
from tests.replays.modules import component
from tests.replays.toys import device_integers, rule
from tools.models.blocks import Attention
from tools.models.lora import attach
from tools.models.lora_files import merged_state
from tools.registry import DIFFUSION, REWARD, load_components
from tools.rewards.hps import HPSv2, clip_normal
from tools.rewards.losses import data_alignment, reward_loss
from tools.rewards.segments import Segments
from tools.rewards.tracker import PerPromptStatTracker
from tools.rewards.video import VideoReward


class ToyAttentions(nn.Module):
    """Two attentions with cross-attention's sizes."""

    def __init__(self):
        super().__init__()
        self.attn1, self.attn2 = (Attention(4, context_dim=6, heads=1, dim_head=5) for _ in range(2))


def replay_merge(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Pairs of a toy module merged into the weights beside them."""
    module, config = ToyAttentions(), case["config"]
    attach(module, config["lora_rank"], config["lora_alpha"])
    merged = merged_state(fill_module(module).state_dict(), config["lora_alpha"])
    for name in merged.keys() | expected.keys():
        yield name, merged.get(name, np.nan), expected.get(name, np.nan)


def replay_lora(case: dict, expected: dict, path) -> Iterator[tuple]:
    """The network with its pairs, and a network without pairs that has them merged."""
    config = case["config"]
    network = component("MODEL", case["component"], config)
    if "state_dict" in case:
        yield "state_dict", [[key, list(value.shape)] for key, value in network.state_dict().items()], \
            [[key, shape] for key, shape in case["state_dict"].items()]
    state = fill_module(network).state_dict()
    merged_network = component("MODEL", case["component"], config | {"use_lora": False})
    merged = merged_state(state, config["lora_alpha"])
    merged_network.load_state_dict(merged)
    inputs = {name: tensor(spec) for name, spec in case["inputs"].items()}
    for call in case["calls"]:
        outputs = run_call(network, call, inputs)
        outputs["merged_out"] = run_call(merged_network, call, inputs)["out"]
        for part, out in outputs.items():
            yield f"{call['name']}/{part}", out, expected.get(f"{call['name']}/{part}")
    for name in case["merged_weights"]:
        yield f"merged/{name}", merged[name], expected[f"merged/{name}"]
    changed = sum(not torch.equal(value, state[key]) for key, value in merged.items())
    yield "num_merged", np.array(changed), expected["num_merged"]


def cosines(pictures: Tensor, texts: Tensor) -> Tensor:
    """[B, S] from features of B * S pictures and of B texts."""
    texts = F.normalize(texts, dim=1)
    return (F.normalize(pictures, dim=1).unflatten(0, (len(texts), -1)) * texts[:, None]).sum(dim=2)


@REWARD.register()
class ToyPreference(nn.Module):
    """Picture features are channel means and the deviation of all; text features a rule tensor of the last word.

    Args:
        resize: shorter side in pixels to which frames are brought first.
    """

    def __init__(self, resize: int):
        super().__init__()
        self.resize = resize

    def forward(self, frames: Tensor, captions: list[str]) -> Tensor:
        height, width = frames.shape[-2:]
        size = [side * self.resize // min(height, width) for side in (height, width)]
        pictures = clip_normal(F.interpolate(frames.flatten(0, 1), size=size, mode="bilinear", align_corners=False))
        features = torch.cat([pictures.mean(dim=(2, 3)), pictures.std(dim=(1, 2, 3))[:, None]], dim=1)
        return cosines(features, torch.stack([rule(f"caption/{caption.split()[-1]}", [4]) for caption in captions]))


class ToyDecoder(nn.Module):
    """Nearest upsampling of bounded latents."""

    def decode(self, z: Tensor) -> Tensor:
        return F.interpolate(torch.tanh(z[:, :3]), scale_factor=2, mode="nearest")


def replay_reward(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Loss and its gradient in the latents for every entry's settings."""
    for entry in case["entries"]:
        config, name = case["config"] | entry.get("config", {}), entry["name"]
        latents = torch.from_numpy(uniform(f"{name}/latents", entry["shape"], 0.4)).requires_grad_()
        video_reward = VideoReward(
            ToyPreference(case["resize"]), ToyDecoder(), config["scale_factor"], config["decoder_bs"],
            Segments(config["segments"], config["selection_method"],
                     config["lambda_TAR"] if config["exponential_TSN"] else None), recompute=False)
        with mock.patch("tools.noise.device_randint", device_integers([entry["local_index"]])):
            scores = video_reward(latents, entry["captions"])
        aligned = None
        if config["data_align_method"] == "ddpm":
            aligned = data_alignment(torch.tensor(entry["loss_recon"]), config["data_align_coef"])
        loss = reward_loss(scores, weight=config["reward_weights"]["reward"],
                           spatial_weight=config["ST_reward_weights"]["spatial"], alignment=aligned)
        yield f"{name}.loss", loss.detach(), expected[f"{name}.loss"]
        yield f"{name}.grad", torch.autograd.grad(loss, latents)[0], expected[f"{name}.grad"]


class ToyLengths(nn.Module):
    """Picture features are means of all channels, the first and the last; text features follow from the length."""

    def forward(self, frames: Tensor, captions: list[str]) -> Tensor:
        means = clip_normal(frames.flatten(0, 1)).mean(dim=(2, 3))
        features = torch.stack([means.mean(dim=1), means[:, 0], means[:, 2]], dim=1)
        lengths = torch.tensor([float(len(caption)) for caption in captions])
        return cosines(features, torch.stack([lengths.sin(), lengths.cos(), torch.ones_like(lengths)], dim=1))


class ToyUpsampler(nn.Module):
    """Latents times 0.18215, three channels, nearest upsampling to a square of `side` pixels."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def decode(self, z: Tensor) -> Tensor:
        return F.interpolate(0.18215 * z[:, :3], size=(self.side, self.side), mode="nearest")


def replay_video_reward(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Frames drawn from the real generator, their factors, and the loss."""
    config = case["config"]
    segments = Segments(config["segments"], config["selection_method"],
                        config["lambda_TAR"] if config["exponential_TSN"] else None)
    video_reward = VideoReward(ToyLengths(), ToyUpsampler(config["frame_size"]), 0.18215, config["decoder_bs"],
                               segments)
    for call in case["calls"]:
        latents, name = tensor(case["inputs"][call["latents"]]), call["name"]
        torch.manual_seed(call["seed"])
        index = segments.choose(len(latents), latents.shape[2], latents.device)
        yield f"{name}/frame_index", index, expected[f"{name}/frame_index"]
        yield f"{name}/attenuation", segments.weights(index, latents.shape[2]), expected[f"{name}/attenuation"]
        torch.manual_seed(call["seed"])
        yield f"{name}/loss", reward_loss(video_reward(latents, call["captions"])), expected[f"{name}/loss"]


def replay_tracker(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Advantages of every update."""
    tracker = PerPromptStatTracker(**case["config"])
    for index, update in enumerate(case["updates"]):
        name = f"advantages.{index}"
        yield name, tracker.update(update["prompts"], update["rewards"]), expected[name]


def replay_hps(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Features of the preference model built from the case's architecture."""
    with tempfile.TemporaryDirectory() as folder:
        arch = Path(folder) / "clip.json"
        arch.write_text(json.dumps(case["config"]))
        model = HPSv2(pretrained="", arch=str(arch)).model
    yield "state_dict", {key: list(value.shape) for key, value in model.state_dict().items()}, case["state_dict"]
    fill_module(model)
    inputs = {name: tensor(spec if "values" not in spec else spec | {"dtype": "int64"})
              for name, spec in case["inputs"].items()}
    with torch.no_grad():
        yield "image_features", model.encode_image(inputs["image"], normalize=True), expected["image_features"]
        yield "text_features", model.encode_text(inputs["text"], normalize=True), expected["text_features"]
        yield "logit_scale", model.logit_scale.exp(), expected["logit_scale"]


def replay_partial(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Where the partial chain starts, its noised start, its times and its result."""
    load_components()
    config = case["config"]
    process = DIFFUSION.build({"type": "DiffusionDDIMReward", **config["diffusion"]})
    times, constants = [], case["denoiser"]

    def denoiser(x: Tensor, t: Tensor, k: float) -> Tensor:
        times.append((k, int(t[0])))
        wave = torch.sin(t.float() / constants["per"]).view(-1, 1, 1, 1, 1)
        return k * (constants["a"] * x * wave + constants["b"] + 0.02)

    x0, noise = (tensor(case["inputs"][name]) for name in ("x0", "noise"))
    start = process.partial_times(config["ddim_timesteps"], config["starting_partial"])[0][0]
    x_t = process.q_sample(x0, torch.full((len(x0),), start), noise)
    out = process.ddim_sample_loop_partial(
        x_t, denoiser, config["starting_partial"], trunc_backprop_timestep=config["trunc_backprop_timestep"],
        model_kwargs=[{"k": 1.0}, {"k": 0.5}], guide_scale=config["guide_scale"],
        ddim_timesteps=config["ddim_timesteps"])
    yield "t_start", np.array(start), expected["t_start"]
    yield "x_t", x_t, expected["x_t"]
    yield "out", out, expected["out"]
    yield "model_timesteps", np.array([t for k, t in times if k == 1.0]), expected["model_timesteps"]


HANDLERS = {
    ("vgen-engine", "lora"): replay_merge,
    ("vgen-engine", "reward"): replay_reward,
    ("vgen-engine", "tracker"): replay_tracker,
    ("vgen-engine", "hps"): replay_hps,
    ("vgen-unets-methods", "lora"): replay_lora,
    ("vgen-unets-methods", "instruct_partial"): replay_partial,
    ("vgen-unets-methods", "instruct_reward"): replay_video_reward,
}

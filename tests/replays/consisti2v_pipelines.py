"""ConsistI2V from picture and text to frames: guidance, FrameInit, camera motion, long videos, inversion."""
import contextlib
from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from tests.goldens.reader import tensor
from tests.replays import consisti2v_toys as toys
from tests.replays.consisti2v_parts import inputs_of, picture
from tests.replays.stages import record_inputs
from tools.engines.consisti2v import ConsistI2V

TOPIC = "consisti2v"
DRAWN = "noise_sampling_method", "noise_alpha"


def pipeline_engine(case: dict) -> ConsistI2V:
    """The case's parts and settings as an engine that samples."""
    config, parts = case["config"], case["parts"]
    frameinit = {"type": "FrameInit", "noise_level": config["frameinit_noise_level"],
                 "filter_params": case.get("filter_params")}
    settings = {
        "resolution": [config["width"], config["height"]], "max_frames": config["video_length"],
        "ddim_timesteps": config["num_inference_steps"], "eta": config["eta"], "picture_fit": "pad",
        "guide_scale": config["guidance_scale_txt"], "guide_scale_img": config["guidance_scale_img"],
        "guide_rescale": config["guidance_rescale"], "frame_stride": config["frame_stride"],
        "camera_motion": config.get("camera_motion"), "autoregress_steps": config.get("autoregress_steps", 1),
        "noise_init": frameinit if config["use_frameinit"] else None,
        "scale_factor": parts["vae"].get("config", {}).get("scaling_factor", 0.18215)}
    schedule = case["noise_scheduler_kwargs"] | {key: config[key] for key in DRAWN}
    return toys.engine_of(settings, schedule, toys.network(parts["unet"]), "sample",
                          autoencoder=toys.autoencoder(parts["vae"]), embedder=toys.embedder(parts))


@torch.no_grad()
def replay_pipeline(case: dict, expected: dict, path) -> Iterator[tuple]:
    """The prepared noise, what the network is fed first, the latents after every step, the video."""
    engine, config = pipeline_engine(case), case["config"]
    torch.manual_seed(case.get("seed", 0))
    generator = torch.Generator().manual_seed(case["generator_seed"]) if "generator_seed" in case else None
    prepared: list[Tensor] = []
    with given_noise(case, prepared), record_inputs(engine.model) as calls:
        batch = request(engine, case)
        latents = engine.sample_latents(batch, [generator] * len(batch["caption"]))
    for number, start in enumerate(prepared):
        name = f"prepared_latents_{number}" if number else "prepared_latents"
        yield name, start, expected[name]
    branches = 1 if engine.guidance() is None else engine.guidance().branches
    fed = [kwargs | {"sample": args[0]} for args, kwargs in calls]
    # The original puts the unconditional branches first.
    yield "first_unet_input", reversed_branches(fed[0]["sample"], branches), expected["first_unet_input"]
    first = reversed_branches(fed[0]["first_frame_latents"], branches)
    yield "first_unet_first_frame", first, expected["first_unet_first_frame"]
    yield from trajectory(engine, [call["sample"][:len(batch["caption"])] for call in fed], latents, expected)
    yield "final_latents", latents, expected["final_latents"]
    video = (engine.decode(latents) / 2 + 0.5).clamp(0, 1)
    yield "video_shape", np.array(video.shape), expected["video_shape"]
    yield "video", video.flatten()[::case.get("video_every", 1)], expected["video"]
    assert config["num_videos_per_prompt"] == len(batch["caption"]) // len(prompts_of(config))


def trajectory(engine, samples: list[Tensor], latents: Tensor, expected: dict) -> Iterator[tuple]:
    """Latents after every step: what the next step was fed, or the end of a clip."""
    steps, frames = engine.cfg.ddim_timesteps, engine.cfg.max_frames
    for number in range(len(samples)):
        clip, step = divmod(number, steps)
        last = clip * (frames - 1) + 1
        after = latents[:, :, last:last + frames - 1] if step == steps - 1 else samples[number + 1]
        yield f"latents_{number:02d}", after, expected[f"latents_{number:02d}"]


def prompts_of(config: dict) -> list[str]:
    return [config["prompt"]] if isinstance(config["prompt"], str) else config["prompt"]


def request(engine: ConsistI2V, case: dict) -> dict:
    """What `ConsistI2V.request` gives, each prompt and picture as often as videos are asked of it."""
    config, videos = case["config"], case["config"]["num_videos_per_prompt"]
    prompts = [prompt for prompt in prompts_of(config) for _ in range(videos)]
    if "first_frame_image" in case:
        pixels = engine.pixels(picture(case["first_frame_image"]))[None]
    else:
        pixels = tensor(case["inputs"]["first_frames"])[:, None]
    clips = engine.encode(pixels).repeat_interleave(videos, dim=0)
    batch = {"caption": prompts, "negative": [config["negative_prompt"] or ""] * len(prompts),
             "first_frame": clips[:, :, :1]}
    return batch | ({"moving": clips} if clips.shape[2] > 1 else {})


@contextlib.contextmanager
def given_noise(case: dict, prepared: list[Tensor]) -> Iterator[None]:
    """Note the noise that denoising starts from before FrameInit; the case's own where it has one."""
    draw = ConsistI2V.initial_noise

    def noted(self, generators):
        given = case["inputs"].get("latents")
        prepared.append(draw(self, generators) if given is None else tensor(given))
        return prepared[-1]

    with mock.patch.object(ConsistI2V, "initial_noise", noted):
        yield


def reversed_branches(batch: Tensor, branches: int) -> Tensor:
    return torch.cat(batch.chunk(branches)[::-1])


@torch.no_grad()
def replay_inversion(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Latents of the frames after the first, from clean to noisy."""
    config, inputs = case["config"], inputs_of(case)
    engine = toys.engine_of({"frame_stride": config["frame_stride"]}, case["noise_scheduler_kwargs"], toys.ToyUNet(),
                            "sample", embedder=toys.embedder(case["parts"]))
    told, _ = engine.conditions({"caption": [config["prompt"]], "first_frame": inputs["first_frame_latents"]}, False)
    levels = engine.diffusion.invert(inputs["video_latent"], engine.model, told,
                                     ddim_timesteps=config["num_inv_steps"])
    for number, level in enumerate(levels):
        yield f"latent_{number:02d}", level, expected[f"latent_{number:02d}"]


HANDLERS = {(TOPIC, "ConditionalAnimationPipeline"): replay_pipeline,
            (TOPIC, "AutoregressiveAnimationPipeline"): replay_pipeline, (TOPIC, "ddim_inversion"): replay_inversion}

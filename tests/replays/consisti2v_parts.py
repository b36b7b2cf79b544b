"""ConsistI2V without a network: noise, FrameInit, scheduler, guidance, crops, averages, figures, grids."""
from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch
from PIL import Image

from tests.goldens.reader import tensor, uniform
from tools import noise
from tools.datasets.camera_motion import moving_crops
from tools.datasets.tensor_transforms import first_frame
from tools.defaults import KEYS
from tools.diffusions.ddim_scheduler import DDIMScheduler
from tools.diffusions.frameinit import FrameInit, low_pass, mix_frequencies
from tools.diffusions.guidance import Guidance
from tools.diffusions.noise_strategies import noise_strategy
from tools.diffusions.samplers import Denoiser, ddim_step
from tools.engines.ema import EMA
from tools.grids import plain_grid
from tools.media import to_uint8
from tools.metrics.distributions import fid_from_features, inception_score

TOPIC = "consisti2v"


def picture(spec: dict) -> Image.Image:
    """The image that a case describes: floor(256 u), u the rule's numbers in [0, 1)."""
    values = uniform(spec["key"], (spec["height"], spec["width"], 3), 0.5, 0.5) * 256
    return Image.fromarray(np.floor(values).clip(0, 255).astype(np.uint8))


def scheduler(kwargs: dict, **more):
    """The process that a case's scheduler section describes."""
    return DDIMScheduler(**kwargs, **more)


def inputs_of(case: dict) -> dict[str, torch.Tensor]:
    return {name: tensor(spec) for name, spec in case["inputs"].items()}


def replay_scheduler(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Tables, times, noising, velocity, and single steps at the case's times and etas."""
    process, inputs = scheduler(case["config"]), inputs_of(case)
    yield "betas", process.tables.betas, expected["betas"]
    yield "alphas_cumprod", process.tables.alphas_cumprod, expected["alphas_cumprod"]
    for steps in case["num_inference_steps"]:
        name = f"timesteps_{steps}"
        yield name, np.array([t for t, _ in process.ddim_times(steps)]), expected[name]
    sample, fresh, t = inputs["sample"], inputs["noise"], inputs["add_noise_timesteps"]
    yield "noisy", process.q_sample(sample, t, fresh), expected["noisy"]
    alpha, sigma = process.alpha_sigma(t, sample)
    yield "velocity", alpha * fresh - sigma * sample, expected["velocity"]
    previous = dict(process.ddim_times(case["step"]["num_inference_steps"]))
    denoiser = Denoiser(process, lambda xt, t: inputs["model_output"])
    for time in case["step"]["timesteps"]:
        for eta in case["step"]["etas"]:
            x0, eps = denoiser.x0_eps(sample, torch.full((len(sample),), time))
            with mock.patch.object(noise, "device_randn", return_value=inputs["variance_noise"]):
                out = ddim_step(denoiser, x0, eps, time, previous[time], eta)
            yield f"x0_t{time}_eta{eta}", x0, expected[f"x0_t{time}_eta{eta}"]
            yield f"prev_t{time}_eta{eta}", out, expected[f"prev_t{time}_eta{eta}"]


def replay_filters(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Masks over time, height and width."""
    for entry in case["config"]["filters"]:
        params = {key: value for key, value in entry.items() if key != "name"}
        yield entry["name"], low_pass(case["config"]["shape"][-3:], **params), expected[entry["name"]]


def replay_mix(case: dict, expected: dict, path) -> Iterator[tuple]:
    inputs = inputs_of(case)
    mask = low_pass(inputs["x"].shape[-3:], **case["config"]["filter_params"])
    yield "output", mix_frequencies(inputs["x"], inputs["noise"], mask), expected["output"]


def replay_frameinit(case: dict, expected: dict, path) -> Iterator[tuple]:
    config, inputs = case["config"], inputs_of(case)
    process = scheduler(config["noise_scheduler_kwargs"])
    level, static, fresh = config["noise_level"], inputs["static_latents"], inputs["noise"]
    yield "z_tau", process.q_sample(static, torch.full((len(static),), level), fresh), expected["z_tau"]
    start = FrameInit(level, config["filter_params"])(fresh, static, process)
    yield "output", start, expected["output"]


def replay_noise(case: dict, expected: dict, path) -> Iterator[tuple]:
    """One generator for the whole batch, and a list of one for each clip."""
    config = case["config"]
    size = (4, config["video_length"], config["height"] // 8, config["width"] // 8)
    seeds = {"": (config["batch_size"], [config["seed"]]), "_list": (len(config["list_seeds"]), config["list_seeds"])}
    for method in config["methods"]:
        for alpha in config["alphas"]:
            for suffix, (batch, numbers) in seeds.items():
                generators = [torch.Generator().manual_seed(number) for number in numbers]
                name = f"{method}_alpha{alpha}{suffix}"
                drawn = noise_strategy(method, alpha)(
                    lambda shape, g=generators: noise.cpu_randn(shape, generator=g[0] if len(g) == 1 else g),
                    (batch, *size))
                yield name, drawn, expected[name]


def replay_rescale(case: dict, expected: dict, path) -> Iterator[tuple]:
    inputs = inputs_of(case)
    for phi in case["config"]["guidance_rescale"]:
        out = Guidance(scale=1.0, rescale=phi).rescaled(inputs["noise_cfg"], inputs["noise_pred_text"])
        yield f"phi_{phi}", out, expected[f"phi_{phi}"]


def replay_camera(case: dict, expected: dict, path) -> Iterator[tuple]:
    config, image = case["config"], tensor(case["inputs"]["image"])
    width = config["crop_width"]
    for motion in config["motions"]:
        height = image.shape[1] if motion.startswith("pan") else width
        yield motion, moving_crops(image, motion, config["num_frames"], height, width), expected[motion]


def replay_first_frame(case: dict, expected: dict, path) -> Iterator[tuple]:
    config = case["config"]
    yield "output", first_frame(picture(case["image"]), config["height"], config["width"], "pad"), expected["output"]


def replay_ema(case: dict, expected: dict, path) -> Iterator[tuple]:
    """The schedule of the decay, and the average after all updates.

    Every `shadow_k` of the reference shows the last state: its arrays are views of one tensor that moves on.
    """
    config, start = case["config"], tensor(case["inputs"]["p0"])
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight = torch.nn.Parameter(start.clone())
    average = EMA(model, config["decay"], warmup="diffusers")
    decays = []
    for n in range(config["steps"]):
        model.weight.data.copy_(start * (n + 2))
        average.update()
        decays.append(average.decay_at(n + 1))
    for n in range(config["steps"]):
        yield f"shadow_{n}", average.average["weight"], expected[f"shadow_{n}"]
    yield "decays", np.array(decays), expected["decays"]
    yield "decay_at", np.array([average.decay_at(n) for n in config["decay_at"]]), expected["decay_at"]


def replay_fid(case: dict, expected: dict, path) -> Iterator[tuple]:
    inputs = inputs_of(case)
    yield "fid", np.float64(fid_from_features(inputs["real"].numpy(), inputs["fake"].numpy())), expected["fid"]


def replay_inception_score(case: dict, expected: dict, path) -> Iterator[tuple]:
    probabilities = inputs_of(case)["logits"].double().softmax(dim=1).numpy()
    mean, std = inception_score(probabilities, case["config"]["num_splits"])
    yield "mean", np.float64(mean), expected["mean"]
    yield "std", np.float64(std), expected["std"]


def replay_grid(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Frames as handed to the writer; `rescale` stands for videos in [-1, 1] instead of [0, 1]."""
    videos = tensor(case["inputs"]["videos"])
    mean, std = ([0.5] * 3, [0.5] * 3) if case["config"]["rescale"] else ([0.0] * 3, [1.0] * 3)
    clips = to_uint8(videos, mean, std)
    yield "frames", plain_grid(clips, case["config"]["n_rows"]), expected["frames"]
    yield "fps", np.int64(KEYS["output_fps"].default), expected["fps"]


HANDLERS = {(TOPIC, component): handler for component, handler in {
    "DDIMScheduler": replay_scheduler, "frameinit_filters": replay_filters, "freq_mix_3d": replay_mix,
    "frameinit": replay_frameinit, "noise_sampling": replay_noise, "rescale_noise_cfg": replay_rescale,
    "camera_motion": replay_camera, "first_frame_transform": replay_first_frame, "ema": replay_ema, "fid": replay_fid,
    "inception_score": replay_inception_score, "save_videos_grid": replay_grid,
}.items()}

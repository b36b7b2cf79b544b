"""From noise to frames with real networks: topic vgen-unets-core, kind `pipeline`."""
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tests.goldens.reader import fill_module, probe, tensor
from tests.replays import not_built
from tests.replays.modules import component
from tests.replays.pictures import network_picture
from tools import noise
from tools.autoencoders.video import decode_video, frame_chunks
from tools.datasets.transforms import train_transforms
from tools.diffusions.samplers import ddim_timesteps
from tools.engines.content import appearance_table
from tools.registry import DIFFUSION

APPEARANCE_FRAMES = 32
PIXEL_MEAN = PIXEL_STD = [0.5, 0.5, 0.5]


def replay_pipeline(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Noise, guided DDIM and chunked decoding, with the draws in the original's order."""
    recipe = case.get("recipe")
    if recipe not in CONDITIONS:
        raise not_built(recipe)
    unet = fill_module(component("MODEL", case["unet"]["component"], case["unet"]["config"])).eval()
    autoencoder = fill_module(
        component("AUTO_ENCODER", case["autoencoder"]["component"], case["autoencoder"]["config"])).eval()
    diffusion = DIFFUSION.build({"type": "DiffusionDDIM", **case["diffusion"]})
    settings = case["sampling"]
    torch.manual_seed(settings["seed"])

    def denoised(start: Tensor, conditions: list[dict]) -> Tensor:
        return diffusion.ddim_sample_loop(start, unet, conditions, guide_scale=settings["guide_scale"],
                                          ddim_timesteps=settings["ddim_timesteps"], eta=0.0)

    with torch.no_grad(), unet.condition_cache():
        start, conditions, shown = CONDITIONS[recipe](case, autoencoder, denoised)
        latents = denoised(start, conditions)
        video = decode_video(autoencoder, latents, settings["scale_factor"], settings["decoder_bs"])
    frames = video.transpose(1, 2).flatten(0, 1)
    chunks = [len(chunk) for chunk in frame_chunks(frames, settings["decoder_bs"])]
    outputs = shown | {"noise": start, "latents": latents, "frames_first": frames[:1], "frames_probe": probe(frames),
                       "chunk_sizes": np.array(chunks)}
    for name, out in outputs.items():
        yield name, out, expected.get(name)


def initial_noise(settings: dict, frames: int) -> Tensor:
    """[1, 4, frames, h, w] from the global generator."""
    size = [side // settings["scale"] for side in reversed(settings["resolution"])]
    return noise.cpu_randn([1, 4, frames, *size])


def text_conditions(case: dict) -> list[dict]:
    """Conditional and unconditional arguments of text to video."""
    inputs = {name: tensor(spec) for name, spec in case["inputs"].items()}
    fps = torch.tensor([case["sampling"]["target_fps"]])
    return [{"y": inputs["y"], "fps": fps}, {"y": inputs["y_negative"], "fps": fps}]


def text_start(case: dict, autoencoder, denoised) -> tuple[Tensor, list[dict], dict[str, Tensor]]:
    """Noise and conditions of text to video, and nothing to compare."""
    return initial_noise(case["sampling"], case["sampling"]["max_frames"]), text_conditions(case), {}


def image_start(case: dict, autoencoder, denoised) -> tuple[Tensor, list[dict], dict[str, Tensor]]:
    """Those of image to video, and the picture's latents; the autoencoder's draw is the first of the run."""
    settings = case["sampling"]
    height, width = case["picture"]["shape"][:2]
    picture = network_picture(case["picture"]["key"], height, width)
    pixels = train_transforms(settings["resolution"], PIXEL_MEAN, PIXEL_STD)(picture)
    latent = autoencoder.encode_first_stage(pixels[None], settings["scale_factor"])
    local_image = latent[:, :, None].expand(-1, -1, settings["max_frames"], -1, -1)
    told, not_told = text_conditions(case)
    image = tensor(case["inputs"]["image"])
    conditions = [told | {"image": image, "local_image": local_image},
                  not_told | {"image": torch.zeros_like(image), "local_image": local_image}]
    return initial_noise(settings, settings["max_frames"]), conditions, {"local_image": latent}


def two_pass_start(case: dict, autoencoder, denoised) -> tuple[Tensor, list[dict], dict[str, Tensor]]:
    """Those of HiGen's second pass, and what the first one gave.

    The original draws noise in every step that a deterministic sampler has no use for; so that the second pass's noise
    is the recorded one, it is drawn here as well.
    """
    settings = case["sampling"]
    told, not_told = ({"y": part["y"]} for part in text_conditions(case))
    frames, columns = settings["max_frames"], APPEARANCE_FRAMES
    spatial_noise = initial_noise(settings, 1)
    still = {"spat_prior": torch.zeros_like(spatial_noise[:, :, 0]), "motion_cond": torch.zeros(1, dtype=torch.long),
             "appearance_cond": torch.ones(1, 1, columns)}
    key = denoised(spatial_noise, [told | still, not_told | still])[:, :, 0]
    for _ in ddim_timesteps(case["diffusion"]["schedule_param"]["num_timesteps"], settings["ddim_timesteps"]):
        noise.cpu_randn(spatial_noise.shape)
    start = initial_noise(settings, frames)
    start = start + settings["noise_strength"] * noise.cpu_randn([1, 4, frames, 1, 1])
    appearance = appearance_table(settings["appearance_factor"], frames, columns)
    content = {"spat_prior": key, "motion_cond": torch.full((1, frames - 1), settings["motion_factor"]),
               "appearance_cond": appearance[None]}
    return start, [told | content, not_told | content], {
        "spatial_noise": spatial_noise, "spatial_stage_latent": key, "appearance_cond": appearance}


CONDITIONS = {"t2v": text_start, "i2vgen": image_start, "higen": two_pass_start}
HANDLERS = {("vgen-unets-core", "pipeline"): replay_pipeline}

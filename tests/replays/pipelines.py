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
from tools.registry import DIFFUSION

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
    with torch.no_grad(), unet.condition_cache():
        conditions, shown = CONDITIONS[recipe](case, autoencoder)
        latent_size = [side // settings["scale"] for side in reversed(settings["resolution"])]
        start = noise.cpu_randn([1, 4, settings["max_frames"], *latent_size])
        latents = diffusion.ddim_sample_loop(start, unet, conditions, guide_scale=settings["guide_scale"],
                                             ddim_timesteps=settings["ddim_timesteps"], eta=0.0)
        video = decode_video(autoencoder, latents, settings["scale_factor"], settings["decoder_bs"])
    frames = video.transpose(1, 2).flatten(0, 1)
    chunks = [len(chunk) for chunk in frame_chunks(frames, settings["decoder_bs"])]
    outputs = shown | {"noise": start, "latents": latents, "frames_first": frames[:1], "frames_probe": probe(frames),
                       "chunk_sizes": np.array(chunks)}
    for name, out in outputs.items():
        yield name, out, expected.get(name)


def text_conditions(case: dict, autoencoder) -> tuple[list[dict], dict[str, Tensor]]:
    """Conditional and unconditional arguments of text to video, and nothing to compare."""
    inputs = {name: tensor(spec) for name, spec in case["inputs"].items()}
    fps = torch.tensor([case["sampling"]["target_fps"]])
    return [{"y": inputs["y"], "fps": fps}, {"y": inputs["y_negative"], "fps": fps}], {}


def image_conditions(case: dict, autoencoder) -> tuple[list[dict], dict[str, Tensor]]:
    """Those of image to video, and the picture's latents; the autoencoder's draw is the first of the run."""
    settings = case["sampling"]
    height, width = case["picture"]["shape"][:2]
    picture = network_picture(case["picture"]["key"], height, width)
    pixels = train_transforms(settings["resolution"], PIXEL_MEAN, PIXEL_STD)(picture)
    latent = autoencoder.encode_first_stage(pixels[None], settings["scale_factor"])
    local_image = latent[:, :, None].expand(-1, -1, settings["max_frames"], -1, -1)
    (told, not_told), _ = text_conditions(case, autoencoder)
    image = tensor(case["inputs"]["image"])
    return [told | {"image": image, "local_image": local_image},
            not_told | {"image": torch.zeros_like(image), "local_image": local_image}], {"local_image": latent}


CONDITIONS = {"t2v": text_conditions, "i2vgen": image_conditions}
HANDLERS = {("vgen-unets-core", "pipeline"): replay_pipeline}

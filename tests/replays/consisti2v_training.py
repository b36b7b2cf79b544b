"""One training step of ConsistI2V: drops, noise, targets, loss, gradients, clipping, one update."""
import random
from collections.abc import Iterator
from unittest import mock

import torch
from torch.nn.utils import clip_grad_norm_

from tests.replays import consisti2v_toys as toys
from tests.replays.consisti2v_parts import inputs_of
from tests.replays.stages import record_inputs
from tools.diffusions.ddim_scheduler import DDIMScheduler
from tools.engines.group_norm_guard import guard_group_norms
from tools.models.trainable import choose_trainable

DRAWN = "noise_sampling_method", "noise_alpha"
KEPT = 256  # elements of a parameter that a case records


def replay_step(case: dict, expected: dict, path) -> Iterator[tuple]:
    config, inputs = case["config"], inputs_of(case)
    model = toys.network(config["unet"]).train()
    engine = training_engine(config, model)
    guard_group_norms(model)
    drawn = []
    draw = DDIMScheduler.sample_noise
    random.seed(config["python_seed"])
    torch.manual_seed(config["torch_seed"])
    batch = {"latents": inputs["latents"], "caption": config["texts"], "stride": inputs["stride"]}
    with record_inputs(model) as calls, mock.patch.object(
            DDIMScheduler, "sample_noise", lambda *a: drawn.append(draw(*a)) or drawn[-1]):
        predictions = []
        handle = model.register_forward_hook(lambda module, args, out: predictions.append(out))
        loss, _ = engine.batch_loss(batch)
        loss.backward()
        handle.remove()
    (args, told), = calls
    frames = inputs["latents"].shape[2]
    yield "noise", drawn[0], expected["noise"]
    yield "unet_input", args[0], expected["unet_input"]
    yield "unet_timesteps", args[1].repeat_interleave(frames), expected["unet_timesteps"]
    yield "model_pred", predictions[0], expected["model_pred"]
    yield "loss", loss, expected["loss"]
    shown = inputs["latents"]
    if told.get("first_frame_latents") is not None:
        # The original overwrites a dropped first frame before it makes the target, whose frame 0 no loss looks at.
        shown = torch.cat([told["first_frame_latents"], shown[:, :, 1:]], dim=2)
    yield "target", target(engine.diffusion, shown, args[1], drawn[0]), expected["target"]
    if "first_frame_latents" in expected:
        yield "first_frame_latents", told["first_frame_latents"], expected["first_frame_latents"]
    if "frame_stride" in expected:
        yield "frame_stride", told["frame_stride"].repeat_interleave(frames), expected["frame_stride"]
    yield from update(config, model, expected)


def training_engine(config: dict, model):
    """An engine that trains the case's network on latents."""
    schedule = config["noise_scheduler_kwargs"] | {key: config["unet_additional_kwargs"][key] for key in DRAWN}
    engine = toys.engine_of({"p_zero": config["cfg_random_null_text_ratio"],
                             "p_local_image_zero": config["cfg_random_null_img_ratio"]}, schedule, model, "train",
                            embedder=toys.toy_embedder(config["text_encoder"], config["tokenizer"]))
    choose_trainable(model, config["trainable_modules"])
    return engine


def target(process, latents, t, fresh):
    """What the network is to say about every frame."""
    alpha, sigma = process.alpha_sigma(t, latents)
    return fresh if process.mean_type == "eps" else alpha * fresh - sigma * latents


def update(config: dict, model, expected: dict) -> Iterator[tuple]:
    """Gradient norm, clipped gradients, and parameters after one step of AdamW."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    yield "grad_norm", clip_grad_norm_(model.parameters(), config["max_grad_norm"]), expected["grad_norm"]
    parameters = dict(model.named_parameters())
    for name in config["record_grads"]:
        yield f"grad.{name}", opening(parameters[name].grad), expected[f"grad.{name}"]
    torch.optim.AdamW(trained, lr=config["learning_rate"], weight_decay=1e-2).step()
    for name in config["record_grads"]:
        yield f"updated.{name}", opening(parameters[name].detach()), expected[f"updated.{name}"]


def opening(values: torch.Tensor) -> torch.Tensor:
    """The first `KEPT` elements."""
    return values.flatten()[:KEPT]


HANDLERS = {("consisti2v", "consisti2v_train_step"): replay_step}

"""Consistency models: topics vgen-engine (kinds `lcm_parts`, `lcm_scheduler`) and vgen-unets-methods (`lcm_distill`,
`lcm_sampler`).
"""
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor, nn

from tests.goldens.reader import tensor
from tests.replays import LeftOut
from tests.replays.diffusion import FormulaDenoiser
from tests.replays.toys import device_draws, rule
from tools import noise
from tools.diffusions.ddim import DiffusionDDIM
from tools.diffusions.lcm import (
    SolverGrid,
    boundary_scalings,
    consistency,
    few_step_times,
    guidance_embedding,
    guided_prediction,
    multistep,
    pseudo_huber,
)
from tools.engines.ema import move_towards

MEAN_TYPES = {"v_prediction": "v", "epsilon": "eps", "sample": "x0"}
BETA_SCHEDULES = {"scaled_linear": "linear_sd", "linear": "linear", "squaredcos_cap_v2": "cosine"}
SD_BETAS = {"num_timesteps": 1000, "init_beta": 0.00085, "last_beta": 0.012}


def process(prediction_type: str, zero_terminal_snr: bool = False, schedule: str = "linear_sd",
            **parameters) -> DiffusionDDIM:
    """The process of a case; Stable Diffusion's betas unless it says otherwise."""
    return DiffusionDDIM(schedule, SD_BETAS | parameters | {"zero_terminal_snr": zero_terminal_snr},
                         MEAN_TYPES[prediction_type], "fixed_small")


# ---- lcm_parts

def replay_parts(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Every formula of the distillation by itself."""
    for entry in case["entries"]:
        name = entry["name"]
        wanted = {key: value for key, value in expected.items() if key == name or key.startswith(f"{name}.")}
        found = PARTS[entry["function"]](entry, wanted)
        yield from ((key, found.get(key), value) for key, value in wanted.items())


def _guidance_embedding(entry: dict, wanted: dict) -> dict:
    return {entry["name"]: guidance_embedding(torch.tensor(entry["w"]), entry["dim"])}


def _scalings(entry: dict, wanted: dict) -> dict:
    c_skip, c_out = boundary_scalings(torch.tensor(entry["t"]))
    return {f"{entry['name']}.c_skip": c_skip, f"{entry['name']}.c_out": c_out}


def _solver(entry: dict, wanted: dict) -> dict:
    name = entry["name"]
    grid = SolverGrid.of(process("v_prediction", **entry["schedule"]).tables.alphas_cumprod, entry["ddim_timesteps"])
    shape = wanted[f"{name}.step"].shape
    step = grid.step(rule(f"{name}/x0", shape), rule(f"{name}/n", shape), torch.tensor(entry["index"]))
    return {f"{name}.timesteps": grid.times, f"{name}.alpha": grid.alpha_bar, f"{name}.alpha_prev": grid.alpha_bar_prev,
            f"{name}.step": step}


def _predicted_origin(entry: dict, wanted: dict) -> dict:
    name, t = entry["name"], torch.tensor(entry["t"])
    return {key: process(key.removeprefix(f"{name}."), **entry["schedule"]).predict_x0(
        rule(f"{name}/o", value.shape), rule(f"{name}/x", value.shape), t) for key, value in wanted.items()}


def _update_ema(entry: dict, wanted: dict) -> dict:
    target, source = (nn.ParameterList([rule(f"ema/{letter}", wanted[entry["name"]].shape)]) for letter in "ts")
    move_towards(target, source, entry["rate"])
    return {entry["name"]: target[0]}


PARTS = {"guidance_scale_embedding": _guidance_embedding, "scalings": _scalings, "solver": _solver,
         "predicted_origin": _predicted_origin, "update_ema": _update_ema}


# ---- samplers

class Recording:
    """A network whose inputs, times and outputs are kept."""

    def __init__(self, network):
        self.network, self.calls = network, []

    def __call__(self, x: Tensor, t: Tensor, **conditions) -> Tensor:
        out = self.network(x, t, **conditions)
        self.calls.append((x, t, out))
        return out


def from_scheduler(config: dict) -> DiffusionDDIM:
    """The process that a library's scheduler configuration describes."""
    ends = {ours: config[theirs] for ours, theirs in (("init_beta", "beta_start"), ("last_beta", "beta_end"),
                                                      ("num_timesteps", "num_train_timesteps")) if theirs in config}
    if config.get("clip_sample"):
        raise LeftOut("consistency samples are not clipped here")
    return process(config["prediction_type"], config.get("rescale_betas_zero_snr", False),
                   BETA_SCHEDULES[config.get("beta_schedule", "scaled_linear")], **ends)


def sampled(config: dict, network, x: Tensor, steps: int, **conditions) -> dict[str, Tensor]:
    """Times, values after every step, and the clean sample of every step."""
    diffusion, recording = from_scheduler(config), Recording(network)
    solver_steps = config.get("original_inference_steps", 50)
    with torch.no_grad():
        last = multistep(diffusion.denoiser(recording, conditions, x), x, steps, solver_steps)
        clean = [consistency(diffusion, out, x, t) for x, t, out in recording.calls]
    return {"timesteps": torch.tensor(few_step_times(diffusion.num_timesteps, solver_steps, steps)),
            "latents": torch.stack([x for x, _, _ in recording.calls[1:]] + [last]), "denoised": torch.stack(clean)}


def replay_scheduler(case: dict, expected: dict, path) -> Iterator[tuple]:
    """The few-step loop with noise by rule."""
    for entry in case["entries"]:
        name, shape = entry["name"], entry["shape"]
        network = FormulaDenoiser(case["denoiser"])
        draw, _ = device_draws(f"{name}/noise")
        with mock.patch.object(noise, "device_randn", draw):
            found = sampled(entry["config"], network, rule(f"{name}/x", shape), entry["steps"],
                            y=rule(f"{name}/y", [shape[0], 1, 1, 1, 1]))
        if "table" in entry:
            found["alphas_cumprod"] = from_scheduler(entry["config"]).tables.alphas_cumprod[entry["table"]]
        yield from ((key, found.get(key.removeprefix(f"{name}.")), value) for key, value in expected.items()
                    if key.startswith(f"{name}."))


class SineDenoiser:
    """v(x, t) = a x sin(t / per) + b, in float64."""

    def __init__(self, spec: dict):
        self.a, self.b, self.per = spec["a"], spec["b"], spec["per"]

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        wave = torch.sin(t.double() / self.per).view(-1, *[1] * (x.ndim - 1))
        return (self.a * x.double() * wave + self.b).to(x.dtype)


def replay_sampler(case: dict, expected: dict, path) -> Iterator[tuple]:
    """The few-step loop with noise from torch's own generator."""
    start = tensor(case["inputs"]["noise"])
    drawn: list[Tensor] = []
    draw = noise.device_randn

    def keeping(*args, **kwargs):
        drawn.append(draw(*args, **kwargs))
        return drawn[-1]

    for call in case["calls"]:
        drawn.clear()
        torch.manual_seed(call["seed"])
        with mock.patch.object(noise, "device_randn", keeping):
            found = sampled(case["config"], SineDenoiser(case["denoiser"]), start, call["num_inference_steps"])
        found |= {"x_prev": found["latents"], "injected_noise": torch.stack(drawn) if drawn else None}
        yield from ((key, found[key.partition("/")[2]], value) for key, value in expected.items()
                    if key.startswith(f"{call['name']}/"))
    if "alphas_cumprod" in expected:
        yield "alphas_cumprod", from_scheduler(case["config"]).tables.alphas_cumprod[case_times(case, expected)], \
            expected["alphas_cumprod"]


def case_times(case: dict, expected: dict) -> list[int]:
    """Times of the tabulated alpha bars: the case's own list, or the nearest entries of the table."""
    if "table" in case:
        return case["table"]
    table = from_scheduler(case["config"]).tables.alphas_cumprod
    return [int((table - value).abs().argmin()) for value in torch.from_numpy(expected["alphas_cumprod"]).double()]


# ---- one distillation step

def replay_distillation(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Student, guided teacher step, target and loss with closed-form networks."""
    config = case["config"]
    diffusion = process(config["prediction_type"], config["zero_terminal_snr"])
    grid = SolverGrid.of(diffusion.tables.alphas_cumprod, config["ddim_timesteps"])
    networks = {role: SineDenoiser(spec) for role, spec in case["denoisers"].items()}
    x0, drawn = (tensor(case["inputs"][name]) for name in ("x0", "noise"))
    index = torch.tensor(case["index"])
    w = torch.full((len(index),), float(config["w"]))
    t, earlier = grid.pair(index)
    noisy = diffusion.q_sample(x0, t, drawn)
    predicted, eps = guided_prediction(diffusion, networks["teacher_cond"](noisy, t),
                                       networks["teacher_uncond"](noisy, t), w, noisy, t)
    previous = grid.step(predicted, eps, index)
    student = consistency(diffusion, networks["student"](noisy, t), noisy, t)
    target = consistency(diffusion, networks["target"](previous, earlier), previous, earlier)
    found = {
        "solver/ddim_timesteps": grid.times, "solver/ddim_alpha_cumprods": grid.alpha_bar,
        "solver/ddim_alpha_cumprods_prev": grid.alpha_bar_prev, "start_timesteps": t, "timesteps": earlier,
        "w_embedding": guidance_embedding(w, config["w_embedding_dim"]), "noisy": noisy, "model_pred": student,
        "pred_x0": predicted, "pred_noise": eps, "x_prev": previous, "target": target,
        "loss": pseudo_huber(student, target, config["huber_c"]),
    }
    found |= dict(zip(("c_skip_start", "c_out_start"), boundary_scalings(t), strict=True))
    found |= dict(zip(("c_skip", "c_out"), boundary_scalings(earlier), strict=True))
    yield from ((key, found.get(key), value) for key, value in expected.items())


HANDLERS = {
    ("vgen-engine", "lcm_parts"): replay_parts,
    ("vgen-engine", "lcm_scheduler"): replay_scheduler,
    ("vgen-unets-methods", "lcm_distill"): replay_distillation,
    ("vgen-unets-methods", "lcm_sampler"): replay_sampler,
}

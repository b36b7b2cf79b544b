"""Diffusion processes, samplers and losses: topic vgen-engine, kind `diffusion`."""
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from unittest.mock import patch

import torch
from torch import Tensor

from tests.goldens.reader import tensor, uniform
from tests.replays import LeftOut, not_built
from tests.replays.toys import device_draws
from tools.diffusions.gaussian import GaussianDiffusion
from tools.diffusions.losses import prior_bits
from tools.diffusions.schedules import sigma_schedule
from tools.registry import DIFFUSION, load_components

RENAMED = {"_t_to_sigma": "t_to_k_sigma", "_sigma_to_t": "k_sigma_to_t",
           ("DiffusionDDIMReward", "loss"): "loss_with_log_prob"}
RENAMED_ARGUMENTS = {"_sigma_to_t": {"sigma": "k_sigma"}}
MENDED = {("variational_lower_bound_loop", "mse"): "the original derives the noise from the true x0, so that its error "
                                                   "is rounding; ours uses the predicted x0"}


class FormulaDenoiser:
    """The closed-form network of these cases; remembers the inputs of its calls.

    Args:
        spec: constants a, b, c, and theta (a factor of a, default 1) and d (a second half of the channels, if given).
    """

    def __init__(self, spec: dict):
        self.a, self.b, self.c, self.d = (spec.get(name) for name in "abcd")
        self.theta = torch.tensor(float(spec.get("theta", 1.0)), requires_grad=True)
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.calls.append((x.detach().clone(), t.detach().clone()))
        time = t.float().view(-1, 1, 1, 1, 1)
        out = self.theta * self.a * torch.cos(time / 200) * x + self.c * x.mean(dim=2, keepdim=True)
        if y is not None:
            out = out + self.b * torch.sin(time / 100) * y
        return out if self.d is None else torch.cat([out, self.d * torch.tanh(x)], dim=1)


def replay_diffusion(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Build the process, make every call, compare what it returns, the network's inputs and the gradients."""
    process = build(case["component"], case["config"])
    inputs = {name: case_input(spec) for name, spec in case["inputs"].items()}
    for call in case["calls"]:
        keys = [key for key in expected if key == call["name"] or key.startswith(f"{call['name']}.")]
        target = getattr(process, call["on"]) if "on" in call else process
        name = RENAMED.get((case["component"], call["method"]), RENAMED.get(call["method"], call["method"]))
        if not hasattr(target, name):
            yield from ((key, not_built(call["method"]), None) for key in keys)
            continue
        if call["method"] == "sample" and "brownian_rule" not in call and find_spec("torchsde") is None:
            yield from ((key, LeftOut("needs torchsde"), None) for key in keys)
            continue
        outputs = run_call(getattr(target, name), call, case["denoiser"], inputs)
        if call["method"] == "variational_lower_bound_loop":
            outputs |= bound_with_prior_at_zero(process, outputs, call, inputs)
        for key in keys:
            reason = MENDED.get((call["method"], key.rpartition(".")[2]))
            yield key, LeftOut(reason) if reason else outputs[key], expected[key]


def bound_with_prior_at_zero(process, outputs: dict, call: dict, inputs: dict) -> dict:
    """The bound's prior and total as recorded: the original takes the prior at the last step visited, 0."""
    x0 = inputs[call["kwargs"]["x0"]["input"]]
    prior = prior_bits(process, x0, torch.zeros(len(x0), dtype=torch.long))
    name = call["name"]
    return {f"{name}.prior_bits_per_dim": prior, f"{name}.total_bits_per_dim": outputs[f"{name}.vlb"].sum(1) + prior}


def build(component: str, config: dict):
    """The process that a case names.

    Raises:
        LeftOut: nothing here bears that name.
    """
    if component == "GaussianDiffusion":
        return GaussianDiffusion(sigma_schedule(**config["sigma_schedule"]), config["prediction_type"])
    load_components()
    if component not in DIFFUSION.names():
        raise not_built(component)
    return DIFFUSION.build({"type": component, **config})


def case_input(spec: dict) -> Tensor:
    """An input; `kind: binary` marks a mask that is 1 where the rule is positive."""
    return (tensor(spec) > 0).float() if spec.get("kind") == "binary" else tensor(spec)


def run_call(method, call: dict, denoiser: dict, inputs: dict) -> dict:
    """Outputs of one call by the names of their arrays."""
    network = FormulaDenoiser(denoiser)
    renamed = RENAMED_ARGUMENTS.get(call["method"], {})
    kwargs = {renamed.get(key, key): resolve(value, network, inputs) for key, value in call["kwargs"].items()}
    leaves = {"theta": network.theta}
    for name in set(call.get("grad_wrt", ())) & kwargs.keys():
        kwargs[name] = leaves[name] = kwargs[name].detach().clone().requires_grad_()
    if "brownian_rule" in call:
        draw, _ = device_draws(call["brownian_rule"])
        kwargs["brownian"] = lambda start, end: draw(kwargs["noise"].shape, device="cpu")
    if "seed" in call:
        torch.manual_seed(call["seed"])
    draws = patch("tools.noise.device_randn", device_draws(call["noise_rule"])[0]) if "noise_rule" in call \
        else nullcontext()
    with draws:
        result = method(**kwargs)
    outputs = dict(flatten(call["name"], result))
    if "grad_wrt" in call:
        weight = torch.from_numpy(uniform(call["grad_weight_key"], list(result.shape)))
        grads = torch.autograd.grad((result * weight).sum(), [leaves[name] for name in call["grad_wrt"]])
        outputs |= {f"{call['name']}.grad.{name}": grad for name, grad in zip(call["grad_wrt"], grads, strict=True)}
    recorded = network.calls[::call.get("record_every", 1)]
    if recorded:
        outputs[f"{call['name']}.x_in"], outputs[f"{call['name']}.t_in"] = map(torch.stack, zip(*recorded, strict=True))
    return outputs


def resolve(value, network: FormulaDenoiser, inputs: dict):
    """A call's argument: references to inputs, the network and a condition function become these."""
    if isinstance(value, list):
        return [resolve(v, network, inputs) for v in value]
    if not isinstance(value, dict):
        return value
    if "input" in value:
        return inputs[value["input"]]
    if "denoiser" in value:
        return network
    if "condition_fn" in value and "gain" in value["condition_fn"]:
        gain = value["condition_fn"]["gain"]
        return lambda xt, t, **conditions: gain * torch.sin(xt)
    return {key: resolve(v, network, inputs) for key, v in value.items()}


def flatten(name: str, value) -> Iterator[tuple[str, Tensor]]:
    """Elements of nested results as `name.key` and `name.index`."""
    if isinstance(value, Tensor):
        yield name, value
    else:
        for key, element in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flatten(f"{name}.{key}", element)


HANDLERS = {("vgen-engine", "diffusion"): replay_diffusion}

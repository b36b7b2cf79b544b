"""Tables and rates: topic vgen-engine, kinds `schedules`, `buffers` and `lr`."""
from collections.abc import Iterator

import torch

from tests.goldens.reader import tensor
from tests.replays import not_built
from tools.diffusions import schedules
from tools.engines.annealing import AnnealingLR
from tools.registry import DIFFUSION, load_components

FUNCTIONS = {name: getattr(schedules, name) for name in (
    "beta_schedule", "sigma_schedule", "karras_schedule", "logsnrs_to_sigmas", "sigmas_to_betas", "betas_to_sigmas",
    "rescale_zero_terminal_snr")}
# The original's two conversions disagree in sign: this one gives ln(sigma^2 / alpha^2).
FUNCTIONS["sigmas_to_logsnrs"] = lambda sigmas: -schedules.sigmas_to_logsnrs(sigmas)


def replay_schedules(case: dict, expected: dict, path) -> Iterator[tuple]:
    """One table per entry: a function of `tools.diffusions.schedules` and its arguments."""
    for entry in case["entries"]:
        if entry["function"] not in FUNCTIONS:
            yield entry["name"], not_built(entry["function"]), None
            continue
        arguments = {key: tensor(value) if isinstance(value, dict) else value for key, value in entry["kwargs"].items()}
        yield entry["name"], FUNCTIONS[entry["function"]](**arguments), expected[entry["name"]]


def replay_buffers(case: dict, expected: dict, path) -> Iterator[tuple]:
    """The tables of a registered process at the listed steps."""
    load_components()
    if case["component"] not in DIFFUSION.names():
        raise not_built(case["component"])
    process = DIFFUSION.build({"type": case["component"], **case["config"]})
    for name in case["buffers"]:
        table = getattr(process.tables, name, None)
        out = not_built(name) if table is None else table[case["indices"]]
        yield name, out, expected[name]


def replay_lr(case: dict, expected: dict, path) -> Iterator[tuple]:
    """The rate right after construction and after each step, or some of these."""
    for entry in case["entries"]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = AnnealingLR(optimizer, **entry["kwargs"])
        rates = [optimizer.param_groups[0]["lr"]]
        for _ in range(entry["steps"]):
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
        rates = torch.tensor(rates, dtype=torch.float64)
        yield entry["name"], rates[entry["take"]] if "take" in entry else rates, expected[entry["name"]]


HANDLERS = {
    ("vgen-engine", "schedules"): replay_schedules,
    ("vgen-engine", "buffers"): replay_buffers,
    ("vgen-engine", "lr"): replay_lr,
}

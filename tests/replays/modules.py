"""Networks and their functions: topic vgen-unets-core, kinds `module` and `function`."""
import inspect
from collections.abc import Iterator
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from tests.goldens.reader import fill_module, probe, tensor
from tests.replays import LeftOut, not_built
from tests.replays.blocks import BLOCKS, FUNCTIONS
from tests.replays.stages import as_layout, first_tensor, record_inputs, record_stages
from tools.models.blocks import SpatialTransformer
from tools.registry import REGISTRIES, load_components

CONTEXT_STRIDE = 16


def replay_module(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Build the network, fill it by the rule, run every call; compare keys, outputs, stages and gradients."""
    module = build(case)
    keys = case.get("state_dict")
    if keys is not None:
        yield "state_dict", [[key, list(value.shape)] for key, value in module.state_dict().items()], \
            [[key, shape] for key, shape in keys.items()]
    fill_module(module, case.get("filled_buffers", ()))
    module.train(case.get("mode") == "train").to(getattr(torch, case.get("dtype", "float32")))
    inputs = {name: tensor(spec) for name, spec in case["inputs"].items()}
    for name, call in case["calls"].items():
        outputs = run_call(module, call, inputs, wanted_stages(case, expected, name), keys)
        outputs |= {part: LeftOut("the residual is added outside of this module here")
                    for part in outputs if part.startswith("stage/") and cut_differently(case, part[6:])}
        for part, out in outputs.items():
            yield f"{name}/{part}", out, expected.get(f"{name}/{part}")


def build(case: dict) -> nn.Module:
    """The component that a case names: a registered one, or one of our blocks under its own constructor.

    Raises:
        LeftOut: nothing here bears that name.
    """
    config = dict(case["config"])
    config |= {key: tensor(spec) for key, spec in case.get("constructor_tensors", {}).items()}
    if "registry" in case:
        return component(case["registry"], case["component"], config)
    if case["component"] not in BLOCKS:
        raise not_built(case["component"])
    return BLOCKS[case["component"]](config)


def component(registry: str, name: str, config: dict) -> nn.Module:
    """A registered component.

    Raises:
        LeftOut: it is not registered.
    """
    load_components()
    if name not in REGISTRIES[registry].names():
        raise not_built(name)
    return REGISTRIES[registry].build({"type": name, **config})


def cut_differently(case: dict, stage: str) -> bool:
    """Whether a stage of a single block was recorded with its residual, which stands elsewhere here."""
    block = None if "registry" in case else BLOCKS[case["component"]]
    return block is not None and fnmatch(stage, block.residual_outside)


def wanted_stages(case: dict, expected: dict, call: str) -> dict[str, list[int]]:
    """Module paths whose probes the case holds for `call`, with the shape of the activation behind each."""
    prefix = f"{call}/stage/"
    shapes = case.get("output_shapes", {})
    return {key.removeprefix(prefix): shapes.get(key, []) for key in expected if key.startswith(prefix)}


def run_call(module: nn.Module, call: dict, inputs: dict, stages: dict, keys=None) -> dict:
    """Outputs of one call by the names that follow `<call>/` in the NPZ.

    Args:
        module: what is called.
        call: the case's entry: `args` (input names or plain values), `method`, `positional`, `seed`, `grad`, `then`,
            `then_first`, `probe_outputs`, `capture_context`.
        inputs: tensors by name.
        stages: module paths to probe, with the recorded shape of each.
        keys: names of the parameters in the order in which gradients are listed.
    """
    values = {name: inputs.get(value, value) if isinstance(value, str) else value
              for name, value in call["args"].items()}
    positional = [values.pop(name) for name in call.get("positional", ())]
    target = getattr(module, call["method"]) if "method" in call else module
    if "seed" in call:
        torch.manual_seed(call["seed"])
    if unknown := sorted(set(values) - known_arguments(target)):
        return {"out": LeftOut(f"{type(module).__name__} takes no {unknown[0]} here")}
    with torch.set_grad_enabled("grad" in call), record_stages(module, stages) as seen:
        if call.get("capture_context"):
            outputs, result = captured_context(module, lambda: target(*positional, **values))
        else:
            outputs, result = {}, target(*positional, **values)
    outputs |= {f"stage/{path}": probe(as_layout(seen[path], shape)) if path in seen
                else LeftOut(f"no module {path} here") for path, shape in stages.items()}
    if "grad" in call:
        return outputs | gradient(module, result, inputs[call["grad"]], keys)
    return outputs | named_results(result, call)


def known_arguments(target) -> set[str]:
    """Argument names of a module's forward or of a method."""
    return set(inspect.signature(target.forward if isinstance(target, nn.Module) else target).parameters)


def named_results(result, call: dict) -> dict:
    """A call's result under the names of its outputs."""
    if "then" in call:
        return posterior_figures(result, call["then"])
    if call.get("probe_outputs"):
        return {f"probe{i}": probe(value) for i, value in enumerate(result)}
    if isinstance(result, Tensor):
        return {"out": result}
    if call.get("then_first"):
        return {"out": first_tensor(result)}
    return {f"out{i}": value for i, value in enumerate(result) if isinstance(value, Tensor)}


def posterior_figures(posterior, names: list[str]) -> dict:
    """Attributes and results of the methods called `names`; `nll` is that of the sample drawn before."""
    figures: dict[str, Tensor] = {}
    for name in names:
        attribute = getattr(posterior, name)
        figures[name] = (attribute(figures["sample"]) if name == "nll" else attribute()) if callable(attribute) \
            else attribute
    return figures


def gradient(module: nn.Module, out: Tensor, weight: Tensor, keys=None) -> dict:
    """Loss mean(out * weight) and the norm of its gradient in every parameter, 0 where none arrives."""
    loss = (out * weight).mean()
    module.zero_grad(set_to_none=True)
    loss.backward()
    parameters = dict(module.named_parameters())
    names = [key for key in keys if key in parameters] if keys is not None else list(parameters)
    norms = [0.0 if parameters[name].grad is None else parameters[name].grad.norm().item() for name in names]
    return {"loss": loss.detach().reshape(1), "grad_norms": torch.tensor(norms)}


def captured_context(unet: nn.Module, call) -> tuple[dict, Tensor]:
    """Run `call` and catch what the first convolution and the first cross-attention of `unet` are given."""
    text_layer = next(module for module in unet.modules() if isinstance(module, SpatialTransformer))
    with record_inputs(unet.input_blocks[0][0]) as latents, \
            record_inputs(text_layer.transformer_blocks[0].attn2) as contexts:
        result = call()
    args, kwargs = contexts[0]
    context = kwargs["context"] if "context" in kwargs else args[1]
    return {"conv_in_input": latents[0][0][0], "context": context[:1, :, ::CONTEXT_STRIDE]}, result


def replay_function(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Call a plain function with each of the case's argument lists."""
    if case["component"] not in FUNCTIONS:
        raise not_built(case["component"])
    function = FUNCTIONS[case["component"]]
    inputs = {name: tensor(spec) for name, spec in case["inputs"].items()}
    for name, call in case["calls"].items():
        values = {key: inputs.get(value, value) if isinstance(value, str) else value
                  for key, value in call["args"].items()}
        positional = [values.pop(key) for key in call.get("positional", ())]
        yield f"{name}/out", function(*positional, **values), expected.get(f"{name}/out")


HANDLERS = {
    ("vgen-unets-core", "module"): replay_module,
    ("vgen-unets-core", "function"): replay_function,
}

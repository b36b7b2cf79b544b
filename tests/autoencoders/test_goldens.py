"""The autoencoders against figures measured from the original (tests/goldens/vgen-unets-core)."""
import pytest
import torch

from tests.goldens import reader
from tests.replays.stages import record_stages
from tools.autoencoders import kl  # noqa: F401  registers
from tools.registry import AUTO_ENCODER

TOLERANCE = 1e-4
CASES = ("autoencoder_kl", "autoencoder_kl_plain", "autoencoder_video")


def outputs(call: dict, result) -> dict:
    """What the case recorded of a call's result, by the name it has in the NPZ."""
    if "then" in call:
        sample = result.sample()
        values = {"sample": sample, "nll": result.nll(sample), "kl": result.kl(), "mode": result.mode(),
                  "mean": result.mean, "logvar": result.logvar, "std": result.std}
        return {name: values[name] for name in call["then"]}
    if call.get("probe_outputs"):
        return {f"probe{i}": reader.probe(value) for i, value in enumerate(result)}
    return {"out": result[0] if call.get("then_first") else result}


@torch.no_grad()
def run_call(model, call: dict, inputs: dict) -> dict:
    """Everything one call gives, stages included, by its name in the NPZ."""
    if "seed" in call:
        torch.manual_seed(call["seed"])
    arguments = [inputs[a] if isinstance(a, str) else a for a in call["args"].values()]
    with record_stages(model, call.get("stages", [])) as stages:
        result = getattr(model, call.get("method", "forward"))(*arguments)
        probes = {f"stage/{path}": reader.probe(activation) for path, activation in stages.items()}
    return outputs(call, result) | probes


@pytest.mark.parametrize("name", CASES)
def test_every_output_and_stage_is_the_originals(name):
    case, expected = reader.load_case("vgen-unets-core", name)
    model = reader.fill_module(AUTO_ENCODER.build({"type": case["component"], **case["config"]})).eval()
    inputs = {key: reader.tensor(spec) for key, spec in case["inputs"].items()}

    got = {f"{title}/{key}": value for title, call in case["calls"].items()
           for key, value in run_call(model, call, inputs).items()}

    assert got.keys() == expected.keys()
    errors = {key: reader.relative_error(got[key], expected[key]) for key in expected}
    assert max(errors.values()) < TOLERANCE, max(errors, key=errors.get)


def test_published_size_has_the_published_parameters():
    manifest = reader.load_manifest("AutoencoderKL")
    with torch.device("meta"):
        model = AUTO_ENCODER.build({"type": "AutoencoderKL", **manifest["config"], "pretrained": None})

    assert {key: list(value.shape) for key, value in model.state_dict().items()} == manifest["state_dict"]
    assert sum(p.numel() for p in model.parameters()) == manifest["num_parameters"]

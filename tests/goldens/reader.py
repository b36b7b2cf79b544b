"""Reader of golden cases: figures measured from original implementations on weights and inputs that a rule fixes.

A case is `<topic>/<case>.json` (what is built, fed and called) beside `<topic>/<case>.npz` (what came out). Nothing
large is stored, because every tensor is a function of its name: element i, counted in row-major order, of the tensor
NAME is `(2 u_i - 1) * scale + offset` with `u_i = splitmix64(crc32(NAME) * 2**32 + i) / 2**64`.
"""
import gzip
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

GOLDENS = Path(__file__).parent
UNIT_VARIANCE = math.sqrt(3.0)
PROBE_ELEMENTS = 64


def load_case(topic_or_path, name: str | None = None) -> tuple[dict, dict[str, np.ndarray]]:
    """One case and its expected arrays.

    Args:
        topic_or_path: a topic kept in this folder (`vgen-unets-core`) together with `name`, or the path of a JSON.

    Raises:
        FileNotFoundError: the JSON or the NPZ beside it is missing; a case of sample files alone has no NPZ.
    """
    path = GOLDENS / topic_or_path / f"{name}.json" if name else Path(topic_or_path)
    case = json.loads(path.read_text())
    if case.keys() == {"files"}:
        return case, {}
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        return case, dict(arrays)


def load_manifest(name: str) -> dict[str, list[int]]:
    """Parameter names and shapes of a published model, in the order of its state_dict."""
    with gzip.open(GOLDENS / "manifests" / f"{name}.json.gz", "rt") as file:
        return json.load(file)


def _splitmix64(state: np.ndarray) -> np.ndarray:
    """The splitmix64 generator's output for every uint64 `state` (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        z = state + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(name: str, shape, scale: float = UNIT_VARIANCE, offset: float = 0.0) -> np.ndarray:
    """float32 array of `shape`, uniform in `offset` -+ `scale`, fixed by `name` alone."""
    first = np.uint64(zlib.crc32(name.encode()) << 32)
    bits = _splitmix64(first + np.arange(math.prod(shape), dtype=np.uint64))
    unit = bits.astype(np.float64) / 2.0**64
    return ((2.0 * unit - 1.0) * scale + offset).astype(np.float32).reshape(tuple(shape))


def weight_rule(key: str, shape) -> tuple[float, float]:
    """(scale, offset) with which a module's parameter is filled: norm scales near 1, biases near 0, fan-in else."""
    if len(shape) <= 1:
        return 0.1, 1.0 if key.endswith("weight") else 0.0
    return math.sqrt(3.0 / max(math.prod(shape[1:]), 1)), 0.0


@torch.no_grad()
def fill_module(module: nn.Module, also_buffers=()) -> nn.Module:
    """Overwrite the module's floating-point parameters (and the buffers named) by the rule; returns the module."""
    filled = {name for name, _ in module.named_parameters()} | set(also_buffers)
    for key, value in module.state_dict().items():
        if key in filled and value.is_floating_point():
            scale, offset = weight_rule(key, value.shape)
            value.copy_(torch.from_numpy(uniform(key, value.shape, scale, offset)))
    return module


def tensor(spec: dict) -> torch.Tensor:
    """The input tensor that a case describes.

    Args:
        spec: `{"shape", "key"}` (by rule, with optional "scale" and "offset"), `{"shape", "fill"}`, or `{"values"}`
            with optional "dtype" and "shape".
    """
    dtype = getattr(torch, spec.get("dtype", "float32"))
    if "values" in spec:
        value = torch.tensor(spec["values"], dtype=dtype)
        return value.reshape(spec["shape"]) if "shape" in spec else value
    if "fill" in spec:
        return torch.full(tuple(spec["shape"]), spec["fill"], dtype=dtype)
    return torch.from_numpy(uniform(spec["key"], spec["shape"], spec.get("scale", UNIT_VARIANCE),
                                    spec.get("offset", 0.0))).to(dtype)


def as_array(value) -> np.ndarray:
    """A detached NumPy view of a tensor, number or sequence of numbers."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def relative_error(out, expected) -> float:
    """max |out - expected| / max |expected|, in float64; plain difference where everything expected is zero.

    Infinite when the shapes differ or when NaN and infinities do not stand in the same places.
    """
    out, expected = (as_array(value).astype(np.float64) for value in (out, expected))
    if out.shape != expected.shape:
        return math.inf
    finite = np.isfinite(expected)
    if not np.array_equal(out[~finite], expected[~finite], equal_nan=True) or not np.isfinite(out[finite]).all():
        return math.inf
    if not finite.any():
        return 0.0
    out, expected = out[finite], expected[finite]
    return float(np.abs(out - expected).max() / (np.abs(expected).max() or 1.0))


def probe(activation) -> np.ndarray:
    """66 numbers that stand for an activation: 64 evenly spaced elements in row-major order, mean, root mean square."""
    flat = as_array(activation).astype(np.float64).reshape(-1)
    picked = flat[np.arange(PROBE_ELEMENTS) * flat.size // PROBE_ELEMENTS]
    return np.concatenate([picked, [flat.mean(), math.sqrt(np.square(flat).mean())]]).astype(np.float32)

"""Whole tasks with formula components: topic vgen-engine, kind `engine`.

The task runs in a temporary folder that holds the case's files, pictures and checkpoints, from its own command line.
Settings are put back to what the original did where ours differ by default: one random stream for the whole list, two
separate forward calls for guidance, and its way of loading the videos that conditions are read off. Draws made on the
compute device are replaced as the case says.
"""
import contextlib
import io
import json
import logging
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn import ParameterDict

from tests.goldens.reader import tensor
from tests.replays import LeftOut, not_built, toys
from tests.replays.pictures import engine_picture
from tools import media, noise, runtime
from tools.checkpoint import load_file
from tools.cli import parse
from tools.config import is_training, load_config
from tools.diffusions import dpm_solver
from tools.engines import instructvideo
from tools.engines.sample import Sampling
from tools.errors import UserError
from tools.registry import ENGINE, load_components

RUN_AS_ORIGINAL = ["device", "cpu"]
SAMPLE_AS_ORIGINAL = ["seeding", "sequential", "batched_guidance", "false", "condition_loading", "original"]
TRAIN_AS_ORIGINAL = ["tensorboard", "false", "shuffle", "false"]
RECORDED_CALLS = {"first": 0, "second": 1, "last": -1}
TIMESTEPS_KEPT = 200
TIME_STAMP = "MMDD-hh-mm"
USED_DRAWS = {"train_videolcm_t2v_entrance": slice(1, None, 2)}  # it draws a time per step that it makes no use of
EMA_SHARD = re.compile(r"ema_\d+_rank\d+\.pth$")


@dataclass
class Record:
    """What a run did.

    Attributes:
        calls: (x, t, conditions) of every model call.
        draws: shapes drawn on the compute device.
        videos: decoded videos [B, 3, F, H, W] handed to the writer, with the captions.
        losses: of every update.
        files: what lies in the working folder afterwards and did not before.
        final, target: parameters of the trained model, and of the one that follows it in a distillation.
        checkpoints: layout of every weights file written.
    """

    calls: list[tuple[Tensor, Tensor, dict]] = field(default_factory=list)
    draws: list[tuple] = field(default_factory=list)
    videos: list[tuple[str, Tensor, list[str]]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    final: dict[str, Tensor] = field(default_factory=dict)
    target: dict[str, Tensor] = field(default_factory=dict)
    checkpoints: dict[str, dict] = field(default_factory=dict)


def replay_engine(case: dict, expected: dict, path) -> Iterator[tuple]:
    """Run the task and compare videos, model inputs, losses, parameters and files."""
    load_components()
    if case["task"] not in ENGINE.names():
        raise not_built(case["task"])
    with working_folder(case), quiet():
        record = run_task(case)
    yield from videos(case, record, expected)
    yield from model_calls(case, record, expected)
    yield from training_figures(record, expected)
    yield from meta(case, record, json.loads(bytes(expected["meta"])))


@contextlib.contextmanager
def working_folder(case: dict) -> Iterator[Path]:
    """A temporary working directory with everything that the case lists."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        for file, text in case["files"].items():
            _make(file).write_text(text, encoding="utf-8")
        for file, spec in case.get("images", {}).items():
            width, height = spec["size"]
            engine_picture(spec["key"], height, width).save(_make(file))
        for file, content in case.get("checkpoints", {}).items():
            torch.save(checkpoint(content), _make(file))
        yield Path(name)


def _make(file: str) -> Path:
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def checkpoint(content: dict):
    """A weights file from its description: a wrapped state dict, or a bare tensor."""
    if "tensor" in content:
        return tensor(content["tensor"])
    return {"state_dict": {key: tensor(spec) for key, spec in content["state_dict"].items()}, "step": content["step"]}


@contextlib.contextmanager
def rule_videos(entries: dict) -> Iterator[None]:
    """Let every path that matches one of the patterns hold a video whose frame i is the rule's picture `{key}/{i}`."""

    def entry(path) -> dict:
        for pattern, found in entries.items():
            if fnmatch(str(path), pattern):
                return found
        raise UserError(f"no video file '{path}'")

    def probe_video(path) -> media.VideoInfo:
        found = entry(path)
        return media.VideoInfo(float(found["fps"]), found["total"], *found["size"])

    def read_frames(path, indices) -> np.ndarray:
        found = entry(path)
        width, height = found["size"]
        return np.stack([np.asarray(engine_picture(f"{found['key']}/{i}", height, width)) for i in indices])

    if not entries:
        yield
        return
    with mock.patch.multiple(media, probe_video=probe_video, read_frames=read_frames):
        yield


def independent_increments(x: Tensor, k_sigmas: Tensor, generator=None) -> dpm_solver.BrownianIncrements:
    """The solver's noise drawn on the compute device, where cases replace it by rule."""
    return dpm_solver.BrownianIncrements(x, generator)


@contextlib.contextmanager
def recording(record: Record) -> Iterator[None]:
    """Note every video on its way to the writer: path, tensor [1, 3, F, H, W], prompt."""
    write = Sampling._write

    def noting(self, request, video):
        record.videos.append((self._path(request).as_posix(), video.transpose(0, 1)[None],
                              [self.engine.prompt(request.item)]))
        write(self, request, video)

    with mock.patch.object(Sampling, "_write", noting):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep log lines and progress bars of a run to itself; leave logging and the random streams as they were."""
    root = logging.getLogger()
    handlers, level, state = root.handlers[:], root.level, runtime.rng_state()
    root.handlers.clear()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        runtime.set_rng_state(state)


def run_task(case: dict) -> Record:
    """Run the case's command line in the present working directory."""
    arguments = parse(case["argv"], "")
    if "resize" in case:  # of the frames that InstructVideo's toy preference looks at
        arguments.overrides += ["reward", f"{{type: ToyPreference, resize: {case['resize']}}}"]
    cfg = load_config(arguments.cfg, arguments.overrides + RUN_AS_ORIGINAL, arguments.debug, arguments.imports)
    training = is_training(cfg.TASK_TYPE)
    cfg = load_config(arguments.cfg, arguments.overrides + RUN_AS_ORIGINAL
                      + (TRAIN_AS_ORIGINAL if training else SAMPLE_AS_ORIGINAL), arguments.debug, arguments.imports)
    before = set(all_files())
    record = Record(calls=toys.ToyUNet.calls)
    toys.ToyUNet.calls.clear()
    device_randn, record.draws = toys.device_draws(case.get("device_noise_rule"))
    device_randint = toys.device_integers(case.get("randint_values", [])[USED_DRAWS.get(case["task"], slice(None))])
    with mock.patch.object(noise, "device_randn", device_randn), \
            mock.patch.object(noise, "device_randint", device_randint), recording(record), \
            mock.patch.object(dpm_solver, "brownian_noise", independent_increments), \
            mock.patch.object(instructvideo, "time_stamp", return_value=TIME_STAMP), \
            rule_videos(case.get("videos", {})):
        engine = ENGINE.get(cfg.TASK_TYPE)(cfg)
        engine.batch_loss = keeping_losses(engine.batch_loss, record.losses)
        engine.run()
    record.files = sorted(set(all_files()) - before)
    if training:
        record.final = parameters(engine.trainable())
        record.target = parameters(getattr(engine, "target", None))
        record.checkpoints = {file: layout(file) for file in record.files if Path(file).suffix == ".pth"}
    return record


def parameters(module) -> dict[str, Tensor]:
    """A module's parameters by name, those of its parts by the last word of theirs; none without a module."""
    named = [] if module is None else module.named_parameters()
    return {name.rsplit(".", 1)[-1]: value.detach() for name, value in named}


def keeping_losses(batch_loss, losses: list[float]):
    """`batch_loss` that also writes down every loss."""
    def wrapped(batch):
        loss, values = batch_loss(batch)
        losses.append(loss.item())
        return loss, values
    return wrapped


def all_files() -> list[str]:
    """Paths of all files below the working directory."""
    return sorted(path.as_posix() for path in Path().rglob("*") if path.is_file())


def layout(file: str) -> dict:
    """Keys of a weights file's parts, and its step."""
    content = load_file(file)
    if isinstance(content, Tensor):
        return list(content.shape)
    return {key: sorted(value) if isinstance(value, dict | ParameterDict) else value for key, value in content.items()}


def videos(case: dict, record: Record, expected: dict) -> Iterator[tuple]:
    """The tensors that were handed to the writer, in order."""
    stride = case.get("video_stride", 1)
    for key in (key for key in expected if key.startswith("video.")):
        index = int(key.removeprefix("video."))
        video = record.videos[index][1] if index < len(record.videos) else torch.tensor(torch.nan)
        yield key, video[..., ::stride, ::stride] if video.dim() else video, expected[key]


def model_calls(case: dict, record: Record, expected: dict) -> Iterator[tuple]:
    """Inputs of the recorded calls of the denoiser, and the time of every call."""
    stride = case.get("latent_stride", 1)
    for key in (key for key in expected if key.startswith("call.")):
        _, name, argument = key.split(".", 2)
        value = call_inputs(case, record, name).get(argument)
        value = torch.as_tensor(torch.nan if value is None else value)
        yield key, value[..., ::stride, ::stride] if value.dim() >= 4 else value, expected[key]
    if "timesteps" in expected:
        first_sample = [float(t.reshape(-1)[0]) for _, t, _ in record.calls]
        yield "timesteps", np.array(first_sample[:case.get("timesteps_take", TIMESTEPS_KEPT)]), expected["timesteps"]


def call_inputs(case: dict, record: Record, name: str) -> dict:
    """Everything that the call recorded as `name` was given; empty when there was no such call."""
    index = case.get("record_calls", RECORDED_CALLS)[name]
    if not -len(record.calls) <= index < len(record.calls):
        return {}
    x, t, conditions = record.calls[index]
    return {"x": x, "t": t} | conditions


def training_figures(record: Record, expected: dict) -> Iterator[tuple]:
    """Loss of every update and the parameters at the end."""
    if "losses" in expected:
        yield "losses", np.array(record.losses), expected["losses"]
    for part in ("final", "target"):
        for key in (key for key in expected if key.startswith(f"{part}.")):
            yield key, getattr(record, part).get(key.removeprefix(f"{part}."), np.nan), expected[key]


def meta(case: dict, record: Record, wanted: dict) -> Iterator[tuple]:
    """Files and captions, number of calls and draws, names and shapes of what the denoiser was told.

    Files that this project writes in addition (sidecars, metrics, the state to resume from) are not looked at.
    """
    shards = [file for file in wanted.get("files", ()) if EMA_SHARD.search(file)]
    if shards:
        yield "meta/ema_files", LeftOut("the average is one file here, not one per rank that nothing merges"), shards
    wanted = {part: _without(value, shards) for part, value in wanted.items()}
    found = {
        "outputs": [[path, captions if written else []] for (path, _, captions), (_, written)
                    in zip(record.videos, wanted.get("outputs", ()), strict=False)],
        "files": [file for file in wanted.get("files", ()) if file in record.files],
        "model_calls": len(record.calls),
        "device_draws": len(record.draws),
        "checkpoints": {file: record.checkpoints.get(file) for file in wanted.get("checkpoints", ())},
        "call_kwargs": {name: shapes(call_inputs(case, record, name)) for name in wanted.get("call_kwargs", ())},
    }
    for part in wanted:
        yield f"meta/{part}", found.get(part), wanted[part]


def shapes(told: dict) -> dict:
    """Shape of every condition of a call; a plain number or None as it is."""
    return {key: list(value.shape) if isinstance(value, Tensor) else value
            for key, value in told.items() if key not in ("x", "t")}


def _without(value, files: list[str]):
    """A list or dictionary of file names without `files`; anything else as it is."""
    if isinstance(value, dict):
        return {key: entry for key, entry in value.items() if key not in files}
    return [entry for entry in value if entry not in files] if isinstance(value, list) else value


HANDLERS = {("vgen-engine", "engine"): replay_engine}

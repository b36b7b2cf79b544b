"""The training loop: exact resume, accumulation, clipping, averages, formats and what a run leaves behind."""
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from tests.engines import tiny as tasks
from tools import checkpoint, noise, runtime
from tools.engines.train import Metrics, Trainer
from tools.errors import UserError

ROOT = Path(__file__).parents[2]
# One process starts a process for each run, because importing torch is what takes longest.
DIES = """
import os, signal, sys
from tests.engines import tiny
from tools.engines.train import Metrics
from tools.registry import load_components

load_components()
write = Metrics.write

def die(self, step, values):
    write(self, step, values)
    if step == 3:
        os.kill(os.getpid(), signal.SIGKILL)

Metrics.write = die
for file in sys.argv[1:]:
    if os.fork() == 0:
        tiny.run(file)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL
"""
RUNS = {"t2v": {"grad_accumulation": 2, "use_ema": True}, "i2v": {"cache_latents": 4, "grad_clip": 0.5},
        "higen": {"cache_latents": 4}, "sr": {"sr_degradation": 0.5}}

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def killed(tiny, tmp_path_factory) -> dict[str, str]:
    """YAML files of runs that SIGKILL has ended at step 3, after the checkpoint of step 2."""
    files = {method: tiny.training(tmp_path_factory.mktemp(method), method, save_ckp_interval=2, **changes)
             for method, changes in RUNS.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    done = subprocess.run([sys.executable, "-c", DIES, *files.values()], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    yield files
    torch.set_num_threads(threads)


@pytest.mark.parametrize("method", RUNS)
def test_a_killed_run_resumed_ends_with_the_weights_of_one_left_alone(killed, tmp_path, method):
    folder = tasks.run(killed[method], "resume", "true")
    alone = tasks.run(killed[method], "log_dir", tmp_path)
    for kind in ("non_ema", "ema") if "use_ema" in RUNS[method] else ("non_ema",):
        assert tasks.same(tasks.weights(folder, 5, kind), tasks.weights(alone, 5, kind))
    assert not tasks.same(tasks.weights(alone, 5), tasks.weights(alone, 2))
    resumed, whole = tasks.metrics(folder), tasks.metrics(alone)
    assert [line["step"] for line in resumed] == [0, 1, 2, 3, 4, 5]
    assert [line["loss"] for line in resumed] == [line["loss"] for line in whole]


def trainer_of(cfg_file: str, *overrides) -> Trainer:
    """A trainer that has built everything and made no update."""
    engine = tasks.engine(cfg_file, *overrides)
    runtime.seed_everything(0)
    engine.build()
    trainer = Trainer(engine)
    trainer.wrap()
    return trainer


def gradients_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Gradients with which the optimiser made one update."""
    trainer.optimizer.zero_grad = lambda **_: None
    trainer.update(trainer.read_batches())
    return {name: p.grad for name, p in trainer.model.named_parameters()}


@pytest.fixture
def same_draws():
    """Every sample gets the same noise at the same time, so that batches may be cut anywhere."""
    sample = torch.randn(1, 4, tasks.FRAMES, 4, 4, generator=torch.Generator().manual_seed(1))
    draws = {"device_randint": lambda low, high, shape, **_: torch.full(shape, 600),
             "device_randn": lambda shape, **_: sample[..., :shape[-2], :shape[-1]].expand(shape),
             "cpu_randn": lambda shape, **_: torch.zeros(shape)}
    with mock.patch.multiple(noise, **draws):
        yield


def test_accumulation_equals_the_large_batch(tiny, tmp_path, same_draws):
    common = {"p_zero": 0.0,
              "Pretrain": {"type": "pretrain_specific_strategies", "resume_checkpoint": str(tiny.weights("t2v")),
                           "sd_keys_path": None}}
    large = tiny.training(tmp_path, "t2v", "large.yaml", batch_sizes={"3": 4}, **common)
    small = tiny.training(tmp_path, "t2v", "small.yaml", batch_sizes={"3": 2}, grad_accumulation=2, **common)
    trainers = [trainer_of(file) for file in (large, small)]
    for module in (module for trainer in trainers for module in trainer.model.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    expected, found = map(gradients_of, trainers)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-8), name


def test_clipping_bounds_the_gradient_and_reports_its_norm(tiny, tmp_path):
    trainer = trainer_of(tiny.training(tmp_path, "t2v", grad_clip=0.01))
    trainer.optimizer.zero_grad = lambda **_: None
    values, _ = trainer.update(trainer.read_batches())
    norm = torch.stack([p.grad.norm() for p in trainer.parameters]).norm()
    assert values["grad_norm"] > 0.01
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_a_run_writes_what_the_table_of_keys_promises(tiny, tmp_path):
    file = tiny.training(tmp_path, "t2v", num_steps=4, save_ckp_interval=2, keep_checkpoints=1, save_dtype="bf16",
                         use_ema=True, log_interval=2, tensorboard=True)
    folder = tasks.run(file)
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["ema_00000000.pth", "ema_00000002.pth", "ema_00000004.pth", "non_ema_00000000.pth",
                     "non_ema_00000002.pth", "non_ema_00000004.pth", "state_rank0000_00000004.pt"]
    content = checkpoint.load_file(folder / "checkpoints" / "non_ema_00000004.pth")
    assert content["step"] == 4
    assert {value.dtype for value in content["state_dict"].values()} == {torch.bfloat16}
    assert [line["step"] for line in tasks.metrics(folder)] == [0, 2, 4]
    assert list((folder / "tensorboard").iterdir())
    assert "training steps 0 to 4" in (folder / "log.txt").read_text()


def test_weights_of_training_are_sampled_from(tiny, tmp_path):
    folder = tasks.run(tiny.training(tmp_path, "t2v", num_steps=1, save_dtype="fp16"))
    videos = tasks.run(tiny.sampling(tmp_path, "t2v", ["a red star"]), "test_model",
                       folder / "checkpoints" / "non_ema_00000001.pth")
    assert len(list(videos.glob("*.mp4"))) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_decides_the_type_that_the_network_computes_in(tiny, tmp_path, precision):
    trainer = trainer_of(tiny.training(tmp_path, "t2v", precision=precision))
    seen = []
    trainer.model.middle_block[0].register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    values, _ = trainer.update(trainer.read_batches())
    assert seen == [runtime.DTYPES[precision]]
    assert torch.isfinite(values["loss"])


def test_compile_compiles_the_network_and_leaves_its_keys(tiny, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    trainer = trainer_of(tiny.training(tmp_path, "t2v", compile=True))
    assert compiled == [trainer.model]
    assert trainer.engine.network is trainer.model


def test_a_run_that_diverges_ends_before_it_saves(tiny, tmp_path, monkeypatch):
    file = tiny.training(tmp_path, "t2v", save_ckp_interval=1, log_interval=100)
    update = Trainer.update

    def diverge(self, data):
        values, batch = update(self, data)
        return ({"loss": torch.tensor(torch.nan)} if self.step == 2 else values), batch

    monkeypatch.setattr(Trainer, "update", diverge)
    with pytest.raises(UserError, match="step 2: the loss is no longer finite"):
        tasks.run(file)
    states = sorted((tmp_path / "runs" / "train" / "checkpoints").glob("state_*"))
    assert [checkpoint.step_of(state.name) for state in states] == [0, 1]


def test_resume_takes_the_run_that_was_written_last(tiny, tmp_path):
    """Not one with a higher step, which an earlier run with other settings has left behind."""
    file = tiny.training(tmp_path, "t2v", num_steps=1)
    folder = tasks.run(file, "num_steps", 3)
    tasks.run(file)
    trainer = trainer_of(file, "resume", "true")
    assert trainer._resume() is not None
    assert trainer.step == 2
    assert tasks.same(trainer.model.state_dict(), tasks.weights(folder, 1))


def test_resume_skips_a_checkpoint_that_not_all_ranks_have_written(tmp_path):
    rank = mock.Mock(runtime=mock.Mock(world_size=2, is_main=True, rank=0))
    for name in ("state_rank0000_00000002.pt", "state_rank0001_00000002.pt", "state_rank0000_00000004.pt"):
        checkpoint.save_file({"world_size": 2}, tmp_path / name)
    assert Trainer._resumable(rank, tmp_path).name == "state_rank0000_00000002.pt"


def test_resume_refuses_another_number_of_processes(tmp_path):
    rank = mock.Mock(runtime=mock.Mock(world_size=1, is_main=True, rank=0))
    checkpoint.save_file({"world_size": 2}, tmp_path / "state_rank0000_00000002.pt")
    with pytest.raises(UserError, match="written by 2 processes, this run has 1"):
        Trainer._resumable(rank, tmp_path)


def test_metrics_drop_later_steps_and_a_line_cut_by_a_kill(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 1}\n{"step": 1, "loss": 2}\n{"step": 2, "lo')
    Metrics(tmp_path, next_step=1, tensorboard=False).write(1, {"loss": 3.0})
    assert tasks.metrics(tmp_path) == [{"step": 0, "loss": 1}, {"step": 1, "loss": 3.0}]


def test_a_random_seed_is_drawn_and_kept_by_resuming(tiny, tmp_path):
    file = tiny.training(tmp_path, "t2v", num_steps=0, use_random_seed=True)
    with mock.patch("random.SystemRandom.randint", side_effect=[4321, 1234]):
        tasks.run(file)
        trainer = trainer_of(file, "resume", "true")
    assert trainer.cfg.seed == 1234
    trainer._resume()
    assert trainer.cfg.seed == 4321


@pytest.mark.parametrize("method", ["t2v", "i2v"])
def test_one_clip_is_learned_from_scratch(tiny, tmp_path, method):
    file = tiny.training(tmp_path, method, num_steps=39, lr=4e-3, warmup_steps=3, decay_mode="none", grad_clip=1.0,
                         cache_latents=1, batch_sizes={"3": 8}, p_zero=0.0, p_image_zero=0.0,
                         UNet=tiny.shared(method)["UNet"] | {"dropout": 0.0})
    losses = [line["loss"] for line in tasks.metrics(tasks.run(file))]
    assert sum(losses[-12:]) / 12 < 0.6 * sum(losses[:3]) / 3, losses

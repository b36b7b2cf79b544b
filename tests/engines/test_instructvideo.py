"""Training by rewards and InstructVideo's files: exact resume, held-out evaluation, LoRA files, own rewards."""
import json
from pathlib import Path

import pytest
import torch

from tests.engines import tiny as tasks
from tests.goldens.reader import fill_module
from tools import checkpoint
from tools.benchmarks.instructvideo import cost
from tools.config import load_config
from tools.engines.train import Trainer
from tools.errors import UserError
from tools.models.lora import is_lora_key
from tools.registry import MODEL

DIFFUSION = {"type": "DiffusionDDIMReward", "schedule": "linear_sd", "mean_type": "eps", "var_type": "fixed_small",
             "schedule_param": {"num_timesteps": 1000, "init_beta": 0.00085, "last_beta": 0.012}}
REWARDS = """
import torch
from tools.registry import REWARD


@REWARD.register()
class OwnBrightness(torch.nn.Module):
    def __init__(self, give: str = "score"):
        super().__init__()
        self.give = give

    def forward(self, frames, captions):
        score = frames.mean(dim=(2, 3, 4))
        return {"score": score, "nan": score / 0 * 0, "wrong": score.mean(), "detached": score.detach()}[self.give]
"""

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def own_reward(tmp_path_factory) -> str:
    """A user's file with a reward."""
    path = tmp_path_factory.mktemp("own") / "own_brightness.py"
    path.write_text(REWARDS)
    return str(path)


@pytest.fixture
def training(tiny, tmp_path, own_reward):
    """Writes the YAML of a run that trains LoRA pairs of the tiny text-to-video network by the user's reward."""

    def write(name: str = "train.yaml", **changes) -> str:
        held_out = tmp_path / "held_out.txt"
        held_out.write_text("a red star growing on a white background\na blue circle|3\n")
        return tiny.training(tmp_path, "t2v", name, **{
            "TASK_TYPE": "t2v_instructvideo_entrance", "Diffusion": DIFFUSION, "imports": [own_reward],
            "reward": {"type": "OwnBrightness"}, "lora_rank": 2, "segments": 3, "starting_partial": 0.5,
            "selection_method": "TSN", "num_steps": 1, "warmup_steps": 0, "decay_mode": "none",
            "save_ckp_interval": 1, "temp_dir": str(tmp_path / "runs"),
            "vid_reward_dataset": {"type": "ProceduralVideoDataset", "length": 6,
                                   "resolution": [tasks.SIDE] * 2, "vit_resolution": [tasks.SIDE] * 2},
            "Pretrain": {"type": "pretrain_instructvideo", "resume_checkpoint": str(tiny.weights("t2v"))},
            "eval_list_path": str(held_out), **changes})

    return write


def folder_of(root: Path) -> Path:
    """The one run folder below `root`."""
    folder, = root.glob("*_*-*-*")
    return folder


def states(folder: Path) -> dict[str, torch.Tensor]:
    """The state that the last update left."""
    return checkpoint.load_file(checkpoint.by_age(folder / "checkpoints", "state_*")[-1])


@pytest.mark.parametrize(("objective", "eta"), [("reward", 0.0), ("ddpo", 1.0)])
def test_a_run_cut_off_and_resumed_ends_with_the_bits_of_one_left_alone(training, tmp_path, monkeypatch, objective,
                                                                        eta):
    file = training(reward_objective=objective, eta=eta)
    update = Trainer.update

    def cut_off(self, data):
        if self.step == 1:
            raise KeyboardInterrupt
        return update(self, data)

    monkeypatch.setattr(Trainer, "update", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tasks.run(file, "temp_dir", tmp_path / "cut")
    monkeypatch.undo()
    tasks.run(file, "temp_dir", tmp_path / "cut", "resume", "true")
    # That a run is evaluated on the way must not change it.
    tasks.run(file, "temp_dir", tmp_path / "whole", "eval_interval", 1 if objective == "reward" else 0)
    resumed, whole = (states(folder_of(tmp_path / name)) for name in ("cut", "whole"))
    assert resumed["step"] == whole["step"] == 1
    assert tasks.same(resumed["model"], whole["model"])
    assert resumed["engine"] == whole["engine"]
    start = checkpoint.load_state(folder_of(tmp_path / "whole") / "checkpoints" / "lora_non_ema_00000000.pth")
    assert pairs_changed(start, {key: whole["model"][key] for key in start})
    if objective == "ddpo":
        assert sum(map(len, whole["engine"]["reward_tracker"].values())) == 4
    else:
        lines = [json.loads(line) for line in (folder_of(tmp_path / "whole") / "evaluation.jsonl").open()]
        assert [line["step"] for line in lines] == [0, 1]
        assert all(0 < line["reward"] < 1 and line["diversity"] > 0 for line in lines)


def pairs_changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    """Whether something has changed, and nothing but LoRA pairs."""
    changed = [key for key, value in after.items() if not torch.equal(before[key], value)]
    return bool(changed) and all(map(is_lora_key, changed))


def test_weighted_regression_trains_pairs_and_counts_its_rewards(training, tmp_path):
    tasks.run(training(reward_objective="rwr", reward_normalization=True, num_steps=0))
    after = states(folder_of(tmp_path / "runs"))
    ups = [value for key, value in after["model"].items() if ".up_linear." in key]
    assert any(up.any() for up in ups)  # they start at zero
    assert sum(map(len, after["engine"]["reward_tracker"].values())) == 2


def test_a_step_against_the_gradient_raises_the_reward(training):
    engine = tasks.engine(training(truncated_backprop=False, guide_scale=1.5))
    engine.build()
    dataset, _ = engine.dataset()
    batch = torch.utils.data.default_collate([dataset[i] for i in range(2)])
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        loss, _ = engine.batch_loss(batch)
        losses.append(loss.item())
        loss.backward()
        gradients = [p.grad for p in engine.model.parameters() if p.grad is not None]
        largest = max(g.abs().max() for g in gradients)
        with torch.no_grad():
            for parameter in engine.model.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad / largest
        engine.model.zero_grad(set_to_none=True)
    assert losses[1] < losses[0]


def test_recomputing_costs_less_memory(training):
    figures = cost(tasks.resolve(training(truncated_backprop=False)), repeats=0)
    assert figures["ratio"]["mib"] < 0.9
    assert figures["kept"]["mib"] > 1


def test_a_trained_lora_is_merged_with_any_scale(training, tiny, tmp_path):
    tasks.run(training(num_steps=0, lr=0.1))
    lora = folder_of(tmp_path / "runs") / "checkpoints" / "lora_non_ema_00000000.pth"
    again = lora.parent / ".." / "checkpoints" / lora.name

    def sampled(loras: dict) -> dict[str, torch.Tensor]:
        engine = tasks.engine(tiny.sampling(tmp_path, "t2v", ["a red star"], loras=loras))
        engine.build()
        return engine.model.state_dict()

    plain, merged = sampled({str(lora): 0.0}), sampled({str(lora): 1.0})
    assert tasks.same(plain, checkpoint.load_state(tiny.weights("t2v")))
    assert {key.rsplit(".", 2)[-2] for key in plain if not torch.equal(plain[key], merged[key])} == {
        "to_q", "to_k", "to_v", "0"}
    for key, value in sampled({str(lora): 0.25, str(again): 0.75}).items():
        torch.testing.assert_close(value, merged[key])


def test_the_published_network_is_trained_saved_and_sampled_as_published(training, tiny, tmp_path):
    unet = {**tasks.UNET, "type": "UNetSD_LoRA", "use_lora": True, "lora_rank": 2, "lora_alpha": None}
    base = fill_module(MODEL.build(unet))
    checkpoint.save_file({"state_dict": base.state_dict(), "step": 7}, tmp_path / "base_0000007.pth")
    tasks.run(training(UNet=unet, lora_rank=0, num_steps=8, Pretrain={
        "type": "pretrain_instructvideo", "resume_checkpoint": str(tmp_path / "base_0000007.pth")}))
    file = folder_of(tmp_path / "runs") / "checkpoints" / "non_ema_0000008.pth"
    content = checkpoint.load_file(file)
    assert content.keys() == {"state_dict", "step", "optimizer", "scaler"}
    assert content["state_dict"].keys() == base.state_dict().keys()
    assert pairs_changed(base.state_dict(), content["state_dict"])

    (tmp_path / "captions").mkdir()
    lines = ["a/1.mp4|||a cat, walking|||16", "b/1.mp4|||a dog|||16", "c/2.mp4|||x/y"]
    (tmp_path / "captions" / "caps.txt").write_text("\n".join(lines))
    sampling = tiny.sampling(tmp_path, "t2v", ["unused"], TASK_TYPE="inference_instructvideo_entrance", UNet=unet,
                             Diffusion=DIFFUSION, infer_checkpoint=str(file), test_model=None, frame_lens=[3],
                             webvid_dir=str(tmp_path), webvid_cap_file="captions", webvid_eval_text="caps",
                             webvid_test_caps=2, webvid_dir_save=str(tmp_path / "made" / "run_"))
    tasks.run(sampling)
    made = sorted(path.name for path in (tmp_path / "made" / "run_2").glob("*"))
    assert made == ["0000_1_a-dog.json", "0000_1_a-dog.mp4", "0001_2_x-y.json", "0001_2_x-y.mp4", "log.txt", "run_2.pt"]
    stacked = torch.load(tmp_path / "made" / "run_2" / "run_2.pt", weights_only=True)
    assert (stacked.dtype, stacked.shape) == (torch.uint8, (2, 3, tasks.SIDE, tasks.SIDE, 3))


@pytest.mark.parametrize(("changes", "words"), [
    ({"reward": {"type": "OwnBrightness", "give": "nan"}}, "reward OwnBrightness returned NaN for the caption"),
    ({"reward": {"type": "OwnBrightness", "give": "wrong"}}, r"returned shape \(\) for 2 videos of 3 frames"),
    ({"reward": {"type": "OwnBrightness", "give": "detached"}}, "not differentiable in the frames"),
    ({"reward": None, "reward_type": "__import__('os').mkdir('evaluated')"}, "REWARD: no component"),
    ({"reward": None, "reward_type": "HPSv2"}, "models/HPS_v2.pt"),
    ({"reward_objective": "ddpo"}, "set eta above 0"),
    ({"reward_tracker": {"size": 4}}, "reward_tracker takes buffer_size and min_count, not 'size'"),
    ({"starting_partial": 0.1}, "starting_partial 0.1 of 4 DDIM steps"),
    ({"segments": 4}, "segments 4: a clip has only 3 frames"),
    ({"data_type": ["image"]}, "data_type"),
    ({"ddim_steps": [981, 961]}, "leave ddim_steps out"),
    ({"eval_interval": 5, "eval_list_path": None}, "eval_list_path is not"),
    ({"Diffusion": {**DIFFUSION, "type": "DiffusionDDIM"}}, "needs DiffusionDDIMReward"),
])
def test_what_cannot_work_is_refused_in_one_line(training, tmp_path, monkeypatch, changes, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as refused:
        tasks.run(training(**changes))
    assert "\n" not in str(refused.value)
    assert not Path("evaluated").exists()
    assert not list(Path().glob("runs/*/checkpoints/*"))


@pytest.mark.parametrize("file", ["configs/instructvideo_train.yaml", "configs/tiny/instructvideo.yaml",
                                  "configs/instructvideo_infer.yaml", "configs/tiny/instructvideo_infer.yaml"])
def test_the_recipes_resolve(file):
    cfg = load_config(file)
    assert "instructvideo" in cfg.TASK_TYPE
    assert cfg.Diffusion["type"] == "DiffusionDDIMReward"

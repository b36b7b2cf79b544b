"""DreamVideo's stages on tiny networks: what each trains, exact resume, joint sampling, and what is refused."""
import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
import yaml

from tests.engines import tiny as tasks
from tools import checkpoint
from tools.embedders.textual_inversion import read_vectors
from tools.engines.train import Metrics
from tools.errors import UserError
from tools.media import read_frames, write_png, write_video
from tools.models.dreamvideo import is_adapter

TRAIN, SAMPLE = "train_dreamvideo_entrance", "inference_dreamvideo_entrance"
LAST = 3
STAGES = ("word", "subject", "motion")

pytestmark = pytest.mark.usefixtures("own_logging")


class Stages:
    """A subject's photos, a motion's clips, and the YAML files of the three trainings, in one folder."""

    def __init__(self, tiny, folder: Path):
        self.tiny, self.folder = tiny, folder
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
            write_png(folder / f"photos/{number}.png", pixels)
            write_png(folder / f"photos/masks/{number}.png", np.full_like(pixels, 255) * (np.arange(40) < 25)[:, None])
        write_video(folder / "clips/turn.mp4", np.random.default_rng(7).integers(0, 255, (9, 40, 48, 3), np.uint8), 8)
        (folder / "photos.txt").write_text("0.png|||a *\n1.png|||a * on grass\n")
        (folder / "clips.txt").write_text("turn.mp4|||a car turns\n")
        for name in STAGES:
            self.write(name)

    def file(self, name: str) -> str:
        """YAML file of a stage."""
        return str(self.folder / f"{name}.yaml")

    def run_folder(self, name: str) -> Path:
        """Where its run writes."""
        return self.folder / "runs" / name

    def shared(self) -> dict:
        """What all stages and samplings have in common."""
        shared = self.tiny.shared("t2v")
        shared["embedder"]["type"] = "FrozenOpenCLIPCustomEmbedder"
        shared["UNet"]["type"] = "UNetSD_DreamVideo"
        return shared | {
            "TASK_TYPE": TRAIN, "num_steps": LAST, "save_ckp_interval": 1, "lr": 1e-2, "warmup_steps": 1,
            "decay_mode": "none", "log_interval": 1, "tensorboard": False, "use_ema": False, "visual_train": None,
            "p_zero": 0.3, "p_image_zero": 0.3, "noise_strength": 0.1, "log_dir": str(self.folder / "runs"),
            "Diffusion": {"type": "DiffusionDDIM", "schedule": "linear_sd", "mean_type": "eps",
                          "var_type": "fixed_small", "noise_strength": 0.1,
                          "schedule_param": {"num_timesteps": 1000, "init_beta": 0.00085, "last_beta": 0.012}},
            "Pretrain": {"type": "pretrain_dreamvideo", "resume_checkpoint": str(self.tiny.weights("t2v")),
                         "fix_spatial_weight": True, "fix_temporal_weight": True, "train_adapter": True}}

    def keys(self, name: str) -> dict:
        """What a stage adds."""
        word = str(self.run_folder("word") / "embeddings" / f"text_embedding_of_*_{LAST:07d}.pth")
        photos = {
            "frame_lens": [1], "batch_sizes": {"1": 2}, "use_textInversion": True, "use_mask_diffusion": True,
            "img_dataset": {"type": "ImageCustomDataset", "data_list": [str(self.folder / "photos.txt")],
                            "data_dir_list": [str(self.folder / "photos")]},
            "embedmanager": {"type": "EmbeddingManager", "token_dim": tasks.WIDTH, "initializer_words": ["dog"]}}
        return {
            "word": photos | {"UNet": {"type": "UNetSD_T2VBase"}, "fix_spatial_weight": True,
                              "fix_temporal_weight": True},
            "subject": photos | {"UNet": {"spatial_adapter_list": ["cross_attention"]}, "text_embedding_path": word,
                                 "freeze_text_embedding": True},
            "motion": {
                "UNet": {"temporal_adapter_list": ["self_attention", "cross_attention", "feedforward"],
                         "temporal_adapter_condition_dim": tasks.WIDTH},
                "use_clip_adapter_condition": True, "frame_lens": [tasks.FRAMES],
                "batch_sizes": {str(tasks.FRAMES): 2}, "save_latents": True,
                "vid_dataset": {"type": "VideoCustomDataset", "data_list": [str(self.folder / "clips.txt")],
                                "data_dir_list": [str(self.folder / "clips")], "get_random_frame": True}},
        }[name]

    def write(self, name: str, **changes) -> str:
        """Write a stage's YAML file."""
        shared, own = self.shared(), self.keys(name) | changes
        unet = shared["UNet"] | own.pop("UNet", {})
        return tasks.write_yaml(self.folder / f"{name}.yaml", shared | own | {"UNet": unet})

    def sampling(self, prompts: list[str], name: str = "joint", **changes) -> str:
        """YAML of a sampling with both adapters by the last step of their runs."""
        (self.folder / f"{name}.txt").write_text("".join(f"0.png|||{prompt}\n" for prompt in prompts))
        return tasks.write_yaml(self.folder / f"{name}.yaml", {
            "TASK_TYPE": SAMPLE, "base_model": str(self.tiny.weights("t2v")), "subject_cfg": self.file("subject"),
            "motion_cfg": self.file("motion"), "identity_adapter_index": LAST, "motion_adapter_index": LAST,
            "test_list_path": str(self.folder / f"{name}.txt"), "test_data_dir": str(self.folder / "photos"),
            "appearance_guide_strength_uncond": 0, "guide_scale": 3.0, "log_dir": str(self.folder / "out"), **changes})


class Stopped(Exception):
    """Ends a run from within."""


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Stages:
    """All stages, each ended after step 2 (its checkpoint is that of step 1) and resumed."""
    stages = Stages(tiny, tmp_path_factory.mktemp("dreamvideo"))
    write = Metrics.write

    def stop(self, step, values):
        write(self, step, values)
        if step == 2:
            raise Stopped

    for name in STAGES:
        with mock.patch.object(Metrics, "write", stop), pytest.raises(Stopped):
            tasks.run(stages.file(name))
        tasks.run(stages.file(name), "resume", "true")
    return stages


def written(folder: Path) -> dict[str, torch.Tensor]:
    """What a training run leaves: adapters, or learned words."""
    file = folder / "checkpoints" / f"adapter_{LAST:08d}.pth"
    if file.exists():
        return checkpoint.load_state(file)
    return read_vectors(str(next(folder.glob(f"embeddings/*_{LAST:07d}.pth"))))


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_was_stopped_and_resumed_ends_where_one_left_alone_does(trained, tmp_path, name):
    alone = tasks.run(trained.file(name), "log_dir", tmp_path)
    assert tasks.same(written(trained.run_folder(name)), written(alone))
    assert tasks.metrics(trained.run_folder(name)) and [
        line["loss"] for line in tasks.metrics(trained.run_folder(name))] == [
        line["loss"] for line in tasks.metrics(alone)]


def test_every_stage_trains_its_part_and_writes_nothing_else(trained):
    assert [p.name for p in sorted((trained.run_folder("word") / "checkpoints").iterdir())] == [
        f"state_rank0000_{step:08d}.pt" for step in range(LAST + 1)]
    start, end = (read_vectors(str(trained.run_folder("word") / f"embeddings/text_embedding_of_*_{step:07d}.pth"))
                  for step in (0, LAST))
    assert start["*"].shape == (1, tasks.WIDTH) and not torch.equal(start["*"], end["*"])
    for name, block in (("subject", ".1.transformer_blocks."), ("motion", ".transformer_blocks.")):
        content = checkpoint.load_file(trained.run_folder(name) / "checkpoints" / f"adapter_{LAST:08d}.pth")
        assert content.keys() == {"state_dict", "step"} and content["step"] == LAST
        keys = content["state_dict"].keys()
        assert all(is_adapter(key) and block in key for key in keys)
        assert any("condition_linear" in key for key in keys) == (name == "motion")
        assert all(value.any() for key, value in content["state_dict"].items() if "up_linear" in key)
        assert not (trained.run_folder(name) / "embeddings").exists()
    assert len(list((trained.run_folder("subject") / "checkpoints").glob("state_*"))) == LAST + 1


def test_a_checkpoint_leaves_out_what_is_not_trained(trained):
    state = checkpoint.load_file(trained.run_folder("subject") / f"checkpoints/state_rank0000_{LAST:08d}.pt")
    assert state["model"] and all(is_adapter(key) for key in state["model"])


def test_both_adapters_by_index_sample_what_their_files_do(trained):
    by_index = tasks.run(trained.sampling(["a * turns"]))
    files = {f"{kind}_adapter_path": str(trained.run_folder(run) / f"checkpoints/adapter_{LAST:08d}.pth")
             for kind, run in (("identity", "subject"), ("motion", "motion"))}
    none = {f"{kind}_adapter_index": None for kind in ("identity", "motion")}
    tasks.run(trained.sampling(["a * turns"], "paths", **files, **none))
    folder = trained.folder / "out"
    assert by_index.name == "joint"
    videos = [folder / name / "a_*_turns_8888_0.mp4" for name in ("joint", "paths")]
    assert np.array_equal(*(read_frames(video, range(tasks.FRAMES)) for video in videos))
    sidecar = json.loads(videos[0].with_suffix(".json").read_text())
    assert {"base", "identity_adapter", "motion_adapter", "text_embedding"} <= sidecar["weights"].keys()


def frames_of(stages: Stages, name: str, **changes) -> np.ndarray:
    """The one video of a sampling."""
    tasks.run(stages.sampling(["a * turns"], name, **changes))
    return read_frames(next((stages.folder / "out" / name).glob("*.mp4")), range(tasks.FRAMES))


def test_word_adapters_image_and_strength_all_have_a_say(trained):
    whole = frames_of(trained, "whole")
    other = trained.folder / "other.pth"
    checkpoint.save_file({"string_to_param": {"*": torch.full((1, tasks.WIDTH), 0.5)}}, other)
    for name, changes in (("word", {"text_embedding_path": str(other)}),
                          ("earlier", {"identity_adapter_index": 0}), ("unmoved", {"motion_adapter_index": 0}),
                          ("less", {"identity_adapter_scale": 0.5}), ("still", {"motion_adapter_scale": 0}),
                          ("resting", {"motion_adapter_from": 0.5}),
                          ("strength", {"appearance_guide_strength_cond": 3}),
                          ("offset", {"noise_strength": 0.0})):
        assert not np.array_equal(whole, frames_of(trained, name, **changes)), name


def test_noise_may_be_led_by_the_training_clip(trained):
    latents = str(trained.run_folder("motion") / "latents/turn.pth")
    assert list(checkpoint.load_file(latents).shape[1:]) == [4, tasks.FRAMES, 4, 4]
    led = {"inverse_noise_strength": 1.0, "latents_path": latents}
    assert np.array_equal(frames_of(trained, "led", **led), frames_of(trained, "led2", **led, seed=5))
    with pytest.raises(UserError, match=r"latents_path .* holds \[2, 4, 3, 4, 4\].*of max_frames frames"):
        frames_of(trained, "frames", **led, max_frames=4)


@pytest.mark.parametrize(("changes", "words"), [
    ({"identity_adapter_path": "a.pth"}, ["identity_adapter_index and identity_adapter_path"]),
    ({"motion_cfg": None}, ["motion_adapter_index 3", "motion_cfg, which is not set"]),
    ({"motion_cfg": "gone.yaml"}, ["motion_cfg names 'gone.yaml', which does not exist"]),
    ({"motion_adapter_index": 7}, ["adapter_00000007.pth", "are not there"]),
    ({"motion_adapter_index": None}, ["adapter entries that no adapter file holds"]),
    ({"text_embedding_path": None}, ["text_embedding_path is not set"]),
    ({"inverse_noise_strength": 1.5}, ["inverse_noise_strength must lie in 0..1"]),
    ({"motion_adapter_from": 200}, ["motion_adapter_from must lie in 0..1, not 200"]),
    ({"inverse_noise_strength": 0.5}, ["needs latents_path"]),
])
def test_sampling_refuses(trained, changes, words):
    with pytest.raises(UserError) as refused:
        tasks.run(trained.sampling(["a * turns"], "refused", **changes))
    assert all(word in str(refused.value) for word in words), refused.value
    assert not list((trained.folder / "out").glob("refused/*.mp4"))


def test_adapters_of_another_base_are_named_with_their_keys(trained):
    wide = yaml.safe_load(Path(trained.file("motion")).read_text())
    wide["UNet"]["temporal_adapter_hidden_dim"] = 5
    other = tasks.write_yaml(trained.folder / "wide.yaml", wide | {"num_steps": 0})
    tasks.run(other)
    file = str(trained.run_folder("wide") / "checkpoints/adapter_00000000.pth")
    with pytest.raises(UserError) as refused:
        tasks.run(trained.sampling(["a * turns"], "refused", motion_adapter_index=None, motion_adapter_path=file))
    for word in (f"motion adapter '{file}'", f"base_model '{trained.tiny.weights('t2v')}'", "of another shape",
                 "attn_adapter.down_linear.weight"):
        assert word in str(refused.value)


def test_a_prompt_whose_placeholder_would_not_be_replaced_is_left_out(trained, caplog):
    tasks.run(trained.sampling(["a * turns", "a *."], "glued"))
    assert len(list((trained.folder / "out/glued").glob("*.mp4"))) == 1
    assert "line 2" in caplog.text and "put blanks around it" in caplog.text


@pytest.mark.parametrize(("stage", "changes", "words"), [
    ("word", {"embedmanager": None}, ["section 'embedmanager'"]),
    ("subject", {"text_embedding_path": None}, ["text_embedding_path is not set"]),
    ("word", {"cache_latents": 2}, ["cache_latents keeps neither masks"]),
    ("motion", {"use_mask_diffusion": True}, ["the data has no masks"]),
])
def test_training_refuses(trained, tmp_path, stage, changes, words):
    stages = Stages(trained.tiny, tmp_path)
    with pytest.raises(UserError) as refused:
        tasks.run(stages.write(stage, **changes))
    assert all(word in str(refused.value) for word in words), refused.value


def test_captions_without_the_placeholder_are_refused(trained, tmp_path):
    stages = Stages(trained.tiny, tmp_path)
    (tmp_path / "photos.txt").write_text("0.png|||a dog\n")
    with pytest.raises(UserError, match="no training caption has a placeholder"):
        tasks.run(stages.file("word"))


def test_previews_show_photos_as_videos_and_sample_prompts_of_the_users_own(trained, tmp_path):
    stages = Stages(trained.tiny, tmp_path)
    (tmp_path / "prompts.txt").write_text("0.png|||a * flies\n")
    visual = {"type": "VisualTrainDreamVideo", "infer_with_custom_text": True, "use_offset_noise": True,
              "data_list": [str(tmp_path / "prompts.txt")], "data_dir_list": [str(tmp_path / "photos")]}
    folder = tasks.run(stages.write("word", visual_train=visual, sample_preview=True, gen_frames=2, num_steps=0))
    shown = {path.name for path in (folder / "sample_000000").glob("*.mp4")}
    assert shown == {"a_*_flies_8888_0.mp4", "rank_01_00_01_y.mp4"}
    assert len(read_frames(folder / "sample_000000/a_*_flies_8888_0.mp4", range(2))) == 2

"""TF-T2V as a task: what its two branches are told, and the loss on changes between frames."""
import shutil

import pytest
import torch
from torch.utils.data import default_collate

from tests.engines import tiny as tasks
from tests.goldens.reader import fill_module
from tools import checkpoint
from tools.datasets.lists import Item
from tools.diffusions.ddim import DiffusionDDIM
from tools.diffusions.losses import incoherence
from tools.engines.tft2v import ClipsWithPictures, split
from tools.registry import DATASETS, ENGINE, MODEL

WORLD = {"type": "ProceduralVideoDataset", "length": 6, "resolution": [tasks.SIDE] * 2,
         "vit_resolution": [tasks.SIDE] * 2}
SHARED = {"UNet": {"type": "UNetSD_TFT2V", **tasks.UNET, "misc_dropout": 0.0, "p_all_zero": 0.0},
          "video_compositions": ["text", "image"], "TASK_TYPE": "train_tft2v_entrance", "decay_mode": "none",
          "batch_sizes": {str(tasks.FRAMES): 2, "1": 4}, "vid_dataset": {**WORLD, "captioned": False},
          "img_dataset": {**WORLD, "seed": 5}, "p_zero": 0.0}

pytestmark = pytest.mark.usefixtures("own_logging")


def built(tiny, folder, **changes):
    engine = tasks.engine(tiny.training(folder, "t2v", **SHARED | changes))
    engine.build()
    return engine


def first_batch(engine) -> dict:
    dataset, size = engine.dataset()
    torch.manual_seed(0)
    return default_collate([dataset[i] for i in range(size)])


@pytest.fixture(scope="module")
def engine(tiny, tmp_path_factory):
    return built(tiny, tmp_path_factory.mktemp("tft2v"), p_image_zero=0.0)


def test_clips_are_told_a_picture_and_pictures_their_caption(engine):
    clips, pictures = split(first_batch(engine))
    null = engine.words([""])
    told, _ = engine.conditions(engine.with_latents(clips), training=True)
    assert told["y"].equal(null.expand(2, -1, -1))
    assert told["image"].equal(engine.embedder.encode_image(clips["vit_frame"])[:, None])
    told, _ = engine.conditions(engine.with_latents(pictures), training=True)
    assert told["y"].equal(engine.words(pictures["caption"])) and "image" not in told
    assert len(pictures["caption"]) == 4 and pictures["video"].shape[1] == 1


def test_clips_are_told_the_pixels_of_their_picture_too(tiny, tmp_path):
    engine = built(tiny, tmp_path, p_image_zero=0.0, cache_latents=6,
                   video_compositions=["text", "image", "local_image"])
    clips, pictures = split(first_batch(engine))
    told, _ = engine.conditions(clips, training=True)
    dataset = DATASETS.build(engine.cfg.vid_dataset, max_frames=tasks.FRAMES)
    shown = engine.unit_range(torch.stack([dataset[i]["ref_frame"] for i in range(2)]))
    assert told["local_image"].shape == (2, 3, tasks.FRAMES, tasks.SIDE, tasks.SIDE)
    assert all(told["local_image"][:, :, frame].equal(shown) for frame in range(tasks.FRAMES))
    assert "local_image" not in engine.conditions(pictures, training=True)[0]
    fill_module(engine.model).train()
    engine.batch_loss(first_batch(engine))[0].backward()
    assert engine.model.local_image_embedding["0"].weight.grad.abs().max() > 0


def test_a_captioned_clip_is_told_both_and_others_in_its_batch_are_not(engine):
    clips, _ = split(first_batch(engine))
    told, _ = engine.conditions(engine.with_latents(clips | {"caption": ["a red star", ""]}), training=True)
    assert told["y"][:1].equal(engine.words(["a red star", ""])[:1]) and told["y"][1:].equal(engine.words([""]))
    assert "image" in told


def test_whole_batches_go_without_pictures(engine, monkeypatch):
    monkeypatch.setitem(engine.cfg, "p_image_zero", 0.5)
    clips = engine.with_latents(split(first_batch(engine))[0])
    torch.manual_seed(0)
    without = sum("image" not in engine.conditions(clips, training=True)[0] for _ in range(40))
    assert 10 < without < 30


def test_pictures_stay_with_their_captions_and_change_with_the_draw():
    numbers = [{"caption": str(i), "video": torch.full((1,), float(i))} for i in range(50)]
    joined = ClipsWithPictures([{"caption": "", "video": torch.zeros(3)}] * 3, numbers, count=4)
    torch.manual_seed(1)
    clips, pictures = split(default_collate([joined[i] for i in range(3)]))
    assert clips.keys() == {"caption", "video"} and clips["caption"] == ["", "", ""]
    assert [float(caption) for caption in pictures["caption"]] == pictures["video"].flatten().tolist()
    assert len(pictures["caption"]) == 12 and len(set(pictures["caption"])) > 6


def test_the_loss_is_that_of_both_branches(engine, monkeypatch):
    monkeypatch.setitem(engine.cfg, "content_weight", 0.25)
    torch.manual_seed(0)
    loss, values = engine.batch_loss(first_batch(engine))
    torch.testing.assert_close(loss, values["motion_loss"] + 0.25 * values["content_loss"])
    assert values["motion_loss"] > 0 and values["content_loss"] > 0


def test_every_parameter_has_a_gradient_whatever_is_left_out(engine):
    """Distributed training would wait for it."""
    _, pictures = split(first_batch(engine))
    engine.model.train()
    engine.batch_loss(pictures)[0].backward()
    assert all(p.grad is not None for p in engine.model.parameters())
    engine.model.zero_grad(set_to_none=True)


def test_training_resumes_to_the_same_bits_with_latents_kept(tiny, tmp_path):
    cfg = tiny.training(tmp_path, "t2v", **SHARED | {"save_ckp_interval": 2, "num_steps": 3, "cache_latents": 4})
    whole = tasks.run(cfg)
    assert len(list((tmp_path / "runs" / "latents").glob("*.pt"))) == 2
    shutil.copytree(whole, tmp_path / "stopped" / whole.name)
    for file in (tmp_path / "stopped").rglob("*_00000003.*"):
        file.unlink()
    resumed = tasks.run(cfg, "log_dir", tmp_path / "stopped", "resume", "true")
    assert tasks.same(tasks.weights(whole, 3), tasks.weights(resumed, 3))


def test_pictures_alone_train_too(tiny, tmp_path):
    cfg = tiny.training(tmp_path, "t2v", **SHARED | {"frame_lens": [1], "num_steps": 1})
    assert [line.keys() & {"content_loss"} for line in tasks.metrics(tasks.run(cfg))] == [set(), set()]


def test_coherence_compares_changes_from_frame_to_frame():
    torch.manual_seed(0)
    out, target = torch.randn(2, 4, 5, 3, 3), torch.randn(2, 4, 5, 3, 3)
    steps = [((out[:, :, j + 1] - out[:, :, j]) - (target[:, :, j + 1] - target[:, :, j])).square().flatten(1).mean(1)
             for j in range(4)]
    torch.testing.assert_close(incoherence(out, target), torch.stack(steps).mean(0))
    torch.testing.assert_close(incoherence(out, out + torch.randn(2, 4, 1, 3, 3)), torch.zeros(2))


def test_coherence_is_added_with_its_weight_where_there_are_changes():
    torch.manual_seed(0)
    options = {"schedule": "linear_sd", "schedule_param": {"num_timesteps": 100, "init_beta": 0.001, "last_beta": 0.02},
               "mean_type": "v", "var_type": "fixed_small"}
    plain, coherent = DiffusionDDIM(**options), DiffusionDDIM(**options, coherence=0.1)
    x0, noise, t = torch.randn(2, 4, 5, 3, 3), torch.randn(2, 4, 5, 3, 3), torch.tensor([3, 80])
    told = {"t": t, "noise": noise, "model": lambda x, t: 0.5 * x}
    alpha, sigma = plain.alpha_sigma(t, x0)
    target, out = alpha * noise - sigma * x0, 0.5 * (alpha * x0 + sigma * noise)
    torch.testing.assert_close(coherent.loss(x0, **told), plain.loss(x0, **told) + 0.1 * incoherence(out, target))
    still = {"t": t, "noise": noise[:, :, :1], "model": told["model"]}
    assert torch.equal(coherent.loss(x0[:, :, :1], **still), plain.loss(x0[:, :, :1], **still))


@pytest.mark.parametrize("compositions", [["text", "image"], ["text", "image", "local_image"]])
def test_picture_first_goes_from_text_to_picture_to_video(tiny, tmp_path, monkeypatch, compositions):
    weights = tmp_path / "tft2v.safetensors"
    unet = {"type": "UNetSD_TFT2V", **tasks.UNET}
    network = MODEL.build(unet, config={"video_compositions": compositions})
    checkpoint.save_file(fill_module(network).state_dict(), weights)
    cfg = tasks.resolve(tiny.sampling(tmp_path, "t2v", [], TASK_TYPE="inference_tft2v_entrance", UNet=unet,
                                      test_model=str(weights), picture_first=True, video_compositions=compositions))
    engine = ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)
    engine.build()
    told, denoise, done = [], engine.denoise, []

    def spy(start, conditions, *rest):
        told.append((start.shape[2], conditions))
        return denoise(start, conditions, *rest)

    monkeypatch.setattr(engine, "denoise", spy)
    items = [Item(1, "a red star", ""), Item(2, "a blue circle", "")]
    videos = engine.generate(items, [torch.Generator().manual_seed(5) for _ in items],
                             lambda step, total: done.append((step, total)))
    (first, (picture, _)), (second, (video, null)) = told
    assert (first, second) == (1, tasks.FRAMES) and [len(v) for v in videos] == [tasks.FRAMES] * 2
    assert not {"image", "local_image"} & {*picture, *null}
    torch.testing.assert_close(null["y"], engine.words(["", ""]))
    assert torch.equal(video["y"], null["y"]) and not torch.allclose(picture["y"], video["y"])
    assert video["image"].shape == (2, 1, tasks.WIDTH) and not video["image"][0].equal(video["image"][1])
    assert ("local_image" in video) == ("local_image" in compositions)
    if "local_image" in video:
        assert video["local_image"].shape == (2, 3, tasks.FRAMES, tasks.SIDE, tasks.SIDE)
        assert video["local_image"].min() >= 0 and video["local_image"].max() <= 1
    assert not videos[0].equal(videos[1])
    assert done[-1] == (2 * cfg.ddim_timesteps,) * 2

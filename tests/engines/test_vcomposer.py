"""The compositional model as a task: sets of conditions, bad lines, and training with and without truth."""
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.engines import tiny as tasks
from tests.goldens.reader import fill_module
from tools import checkpoint
from tools.check import check
from tools.config import load_config
from tools.datasets.procedural import ProceduralVideoDataset
from tools.errors import UserError
from tools.media import to_uint8, write_video
from tools.models.composer import ENTRIES, MAPS
from tools.registry import MODEL

ROOT = Path(__file__).parents[2]
EVERYTHING = list(ENTRIES.values())
UNET = {"type": "UNetSD_TFT2V", **tasks.UNET}
SHARED = {"UNet": UNET, "video_compositions": EVERYTHING}

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def weights(tiny, tmp_path_factory) -> str:
    """A filled network that knows every condition."""
    network = MODEL.build({**UNET, "config": {"video_compositions": EVERYTHING}})
    path = tmp_path_factory.mktemp("composer") / "composer.safetensors"
    checkpoint.save_file(fill_module(network).state_dict(), path)
    return str(path)


@pytest.fixture
def clips(tmp_path, monkeypatch) -> Path:
    """A folder with two clips of the small world, the second too short."""
    monkeypatch.chdir(tmp_path)
    dataset = ProceduralVideoDataset(resolution=(40, 32), max_frames=6)
    for name, count in (("a", 6), ("b", 6), ("short", 2)):
        write_video(tmp_path / f"{name}.mp4", to_uint8(dataset[0]["video"][:count], (0.5,) * 3, (0.5,) * 3), 8)
    return tmp_path


def sampling(tiny, clips, weights, lines, sets, **changes) -> str:
    return tiny.sampling(clips, "t2v", lines, **SHARED, TASK_TYPE="inference_tft2v_vcomposer_entrance",
                         test_model=weights, data_dir=str(clips), partial_keys=sets, **changes)


def training(tiny, folder, **changes) -> str:
    vid = {"type": "ProceduralVideoDataset", "length": 6, "resolution": [tasks.SIDE] * 2,
           "vit_resolution": [tasks.SIDE] * 2}
    return tiny.training(folder, "t2v", **SHARED | {"TASK_TYPE": "train_tft2v_vcomposer_entrance", "vid_dataset": vid,
                                                    "decay_mode": "none", "conditions_from": "truth", **changes})


def built(cfg_file: str):
    engine = tasks.engine(cfg_file)
    engine.build()
    return engine


def frames_of(folder: Path) -> dict[str, np.ndarray]:
    from tools.media import probe_video, read_frames
    return {path.name: read_frames(path, range(probe_video(path).frames)) for path in sorted(folder.glob("*.mp4"))}


def test_a_video_per_line_and_set_and_bad_ones_left_out(tiny, clips, weights, caplog):
    """A short video, a missing one and weights that are not there cost their own videos only."""
    sets = [["y", "canny"], ["y", "depth"], ["local_image", "image", "histogram", "masked", "motion"]]
    lines = ["a.mp4|||a red star", "short.mp4|||too short", "gone.mp4|||not there", "b.mp4|||a blue circle"]
    with caplog.at_level(logging.ERROR):
        folder = tasks.run(sampling(tiny, clips, weights, lines, sets))
    names = [f"rank_01_00_{line:04d}_condition_{'_'.join(keys)}_{caption}" for line, caption in
             ((0, "a_red_star"), (3, "a_blue_circle")) for keys in (sets[0], sets[2])]
    assert sorted(path.stem for path in folder.glob("*.mp4")) == sorted(names)
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(said) == 8 and all("\n" not in line for line in said)
    assert "line 1, conditions y depth" in said[0] and "models/midas_v3_dpt_large.pth" in said[0]
    assert "line 2, conditions y canny" in said[1] and "has 2 frames" in said[1]
    sidecar = json.loads((folder / f"{names[1]}.json").read_text())
    assert sidecar["item"]["keys"] == sets[2] and sidecar["item"]["files"] == {"video": str(clips / "a.mp4")}


def test_a_list_without_a_good_line_is_refused(tiny, clips, weights):
    with pytest.raises(UserError, match=r"line 1, conditions y depth: .*and 1 more"):
        tasks.run(sampling(tiny, clips, weights, ["a.mp4|||a", "short.mp4|||b"], [["y", "depth"]]))


def test_batches_of_different_sets_give_the_videos_of_single_requests(tiny, clips, weights):
    sets, lines = [["y", "canny"], ["y", "masked"]], ["a.mp4|||a red star", "b.mp4|||a blue circle"]
    cfg = sampling(tiny, clips, weights, lines, sets)
    alone = frames_of(tasks.run(cfg, "log_dir", "alone"))
    together = frames_of(tasks.run(cfg, "log_dir", "together", "batch_size", 3))
    assert alone.keys() == together.keys() and len(alone) == 4
    assert all(np.abs(alone[name].astype(int) - together[name]).max() <= 2 for name in alone)


def test_guidance_keeps_maps_and_takes_text_and_style_away(tiny, clips, weights):
    engine = built(sampling(tiny, clips, weights, ["a.mp4|||a red star"], [["y", "canny", "image", "histogram"]]))
    item, = engine.items()
    batch = engine.request([item], [torch.Generator().manual_seed(0)])
    positive, negative = engine.conditions(batch, training=False)
    assert positive.keys() == {"y", "canny", "image", "histogram"}
    assert positive["canny"] is negative["canny"] and positive["histogram"] is negative["histogram"]
    assert positive["image"].abs().sum() > 0 and not negative["image"].any()
    assert torch.equal(negative["y"], engine.words([""])) and not torch.equal(positive["y"], negative["y"])
    without, _ = engine.conditions(batch | {"keys": ("canny",)}, training=False)
    assert without.keys() == {"y", "canny"} and torch.equal(without["y"], negative["y"])


def test_every_condition_of_truth_and_pixels_reaches_the_network(tiny, tmp_path):
    engine = built(training(tiny, tmp_path, p_image_zero=0.0))
    source = engine.dataset()[0]
    batch = torch.utils.data.default_collate([source[0], source[1]])
    batch = batch | {"latents": engine.encode(batch["video"])}
    told, _ = engine.conditions(batch | engine.features(batch), training=True)
    assert told.keys() == {"y", "image", "histogram", *MAPS}
    size = (2, tasks.FRAMES, tasks.SIDE, tasks.SIDE)
    assert {key: tuple(told[key].shape) for key in MAPS} == {
        key: (size[0], kind.channels, *size[1:]) for key, kind in MAPS.items()}
    pixels = (batch["video"] / 2 + 0.5).transpose(1, 2)
    torch.testing.assert_close(told["local_image"], pixels[:, :, :1].expand_as(pixels), atol=1e-4, rtol=0)
    kept, colors = told["masked"][:, 3:], told["masked"][:, :3]
    torch.testing.assert_close(colors, (2 * pixels - 1) * kept, atol=1e-4, rtol=0)
    assert torch.equal(kept[:, 0] == 0, told["depth"][:, 0] > 1.25)


def test_training_resumes_to_the_same_bits_and_keeps_truth_with_latents(tiny, tmp_path):
    cfg = training(tiny, tmp_path, save_ckp_interval=2, cache_latents=4, num_steps=3)
    whole = tasks.run(cfg)
    shutil.copytree(whole, tmp_path / "stopped" / whole.name)
    for file in (tmp_path / "stopped").rglob("*_00000003.*"):
        file.unlink()
    resumed = tasks.run(cfg, "log_dir", tmp_path / "stopped", "resume", "true")
    assert tasks.same(tasks.weights(whole, 3), tasks.weights(resumed, 3))
    start = tasks.weights(whole, 0)
    assert not tasks.same(start, tasks.weights(whole, 3))


def test_training_reads_conditions_off_pixels(tiny, tmp_path):
    compositions = ["text", "canny", "motion", "mask", "histogram", "local_image"]
    cfg = training(tiny, tmp_path, conditions_from="annotators", video_compositions=compositions, num_steps=1,
                   annotators={"motion_vectors": {"source": "flow", "dense": True}})
    assert len(tasks.metrics(tasks.run(cfg))) == 2


def test_previews_know_the_conditions(tiny, tmp_path):
    """Also where no latents are kept, of a set of conditions each."""
    sets = [["y", "depth"], ["y", "motion"]]
    visual = {"type": "VisualTrainTextImageToVideo", "partial_keys": sets, "guide_scale": 2.0}
    folder = tasks.run(training(tiny, tmp_path, num_steps=0, visual_train=visual))
    assert {path.stem.split("_", 4)[-1] for path in folder.rglob("sample_*/*.png")} == {"y_depth", "y_motion"}


def test_truth_asks_for_clips_that_know_it(tiny, tmp_path):
    engine = tasks.engine(training(tiny, tmp_path))
    with pytest.raises(UserError, match="ProceduralVideoDataset"):
        engine.features({"video": torch.zeros(1, 2, 3, 8, 8)})


def test_training_asks_for_the_annotators_weights_before_anything_is_loaded(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"models/midas_v3_dpt_large\.pth"):
        tasks.engine(training(tiny, tmp_path, conditions_from="annotators")).check()


def test_conditions_are_drawn_for_the_eye(tiny, clips, weights):
    """Near is bright whatever the unit, the longest motion has full colour, what is masked is grey."""
    engine = tasks.engine(sampling(tiny, clips, weights, ["a.mp4|||a red star"], [["y", "canny"]]))
    ramp = torch.linspace(0, 0.1, 16).view(1, 1, 4, 4)
    assert [engine.steering.draw("depth", ramp).min(), engine.steering.draw("depth", ramp).max()] == [0, 255]
    assert engine.steering.draw("sketch", ramp).max() == round(25.5)
    moving = torch.zeros(2, 1, 32, 32)
    moving[0, 0, 16, 16] = 1.5
    assert engine.steering.draw("motion", moving).max() == 255 > engine.steering.draw("motion", moving / 3).max() > 0
    assert set(np.unique(engine.steering.draw("masked", torch.zeros(4, 1, 8, 8)))) == {128}


def test_a_list_of_files_has_no_truth(tiny, clips, weights):
    cfg = sampling(tiny, clips, weights, ["a.mp4|||a red star"], [["y", "depth"]], conditions_from="truth")
    with pytest.raises(UserError, match="set conditions_from annotators"):
        tasks.engine(cfg).check()


def test_annotators_that_do_not_exist_are_refused(tiny, tmp_path):
    engine = tasks.engine(training(tiny, tmp_path, annotators={"dept": {}}))
    with pytest.raises(UserError, match="did you mean 'depth'"):
        engine.steering  # noqa: B018 - built on first use


PUBLISHED = """
TASK_TYPE: inference_tft2v_vcomposer_entrance
guide_scale: 9.0
chunk_size: 2
sample_fps: 3
max_frames: 16
target_fps: 16
use_zero_infer: True
resolution: [896, 512]
use_fps_condition: False
test_list_path: data/vid_list_vcomposer.txt
positive_prompt: ', cinematic'
vldm_cfg: configs/t2v_train.yaml
data_dir: "data/videos"
test_model: models/tft2v_vcomposer_non_ema_270000_896x512.pth
partial_keys: [['y', 'depth'], ['y', 'sketch']]
UNet: {'type': 'UNetSD_TFT2V', 'config': None, 'in_dim': 4, 'dim': 320, 'y_dim': 1024, 'context_dim': 1024,
       'out_dim': 4, 'dim_mult': [1, 2, 4, 4], 'num_heads': 8, 'head_dim': 64, 'num_res_blocks': 2, 'dropout': 0.1,
       'temporal_attention': True, 'num_tokens': 4, 'temporal_attn_times': 1, 'use_checkpoint': True,
       'use_fps_condition': False, 'use_sim_mask': False}
video_compositions: ['text', 'mask', 'depthmap', 'sketch', 'motion', 'image', 'local_image', 'single_sketch']
"""


def test_a_file_with_the_originals_keys_is_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "published.yaml").write_text(PUBLISHED)
    report = check(load_config(str(tmp_path / "published.yaml")))
    assert "1 x 16 frames of 896x512" in report and "1,416,584,436  UNetSD_TFT2V" in report
    for file in ("depth.weights: models/midas_v3_dpt_large.pth", "sketch.weights: models/table5_pidinet.pth",
                 "sketch.simplification: models/sketch_simplification_gan.pth"):
        assert f"MISSING   annotators.{file}" in report

"""Previews during training."""
import pytest
import torch
from PIL import Image

from tests.engines import tiny as tasks
from tools import runtime
from tools.engines.train import Trainer
from tools.media import probe_video

VISUAL = {"type": "VisualTrainTextImageToVideo", "guide_scale": 2.0, "viz_num": 2}

pytestmark = pytest.mark.usefixtures("own_logging")


def drawn(cfg_file: str):
    """Folder of the previews that a trainer draws of its first batch, and the trainer."""
    engine = tasks.engine(cfg_file)
    runtime.seed_everything(0)
    engine.build()
    trainer = Trainer(engine)
    trainer.wrap()
    trainer.preview(engine.to_device(next(trainer.read_batches())))
    return engine.folder / "sample_000000", trainer


def test_what_went_in_lies_beside_what_is_sampled(tiny, tmp_path):
    keys = [["y", "image", "local_image", "fps"], ["y", "local_image", "fps"]]
    visual = VISUAL | {"partial_keys": keys}
    folder, _ = drawn(tiny.training(tmp_path, "i2v", batch_sizes={"3": 3}, visual_train=visual))
    names = ["rank_01_00_08_y_image_local_image_fps", "rank_01_00_08_y_local_image_fps"]
    assert sorted(path.name for path in folder.iterdir()) == [f"{n}.{end}" for n in names for end in ("mp4", "png")]
    info = probe_video(folder / f"{names[0]}.mp4")
    assert info.frames == tasks.FRAMES
    with Image.open(folder / f"{names[0]}.png") as sheet:
        assert sheet.width >= 2 * tasks.SIDE


def test_training_does_not_notice(tiny, tmp_path):
    folder, trainer = drawn(tiny.training(tmp_path, "t2v", visual_train=VISUAL))
    batch = trainer.engine.to_device(next(trainer.read_batches()))
    before = torch.get_rng_state()
    trainer.preview(batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert [path.suffix for path in sorted(folder.iterdir())] == [".mp4", ".png"]


def test_pictures_and_kept_latents_are_drawn_as_well(tiny, tmp_path):
    size = [tasks.SIDE, tasks.SIDE]
    dataset = {"type": "ProceduralVideoDataset", "length": 2, "resolution": size, "vit_resolution": size}
    folder, _ = drawn(tiny.training(tmp_path, "t2v", visual_train=VISUAL, frame_lens=[1], batch_sizes={"1": 2},
                                    img_dataset=dataset, cache_latents=2))
    assert [path.name for path in folder.iterdir()] == ["rank_01_00_01_y_fps.png"]

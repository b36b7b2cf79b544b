"""Contrastive training of a small CLIP."""
import pytest
import torch

from tests.engines import tiny as tasks
from tools import checkpoint
from tools.embedders.features import text_tokens
from tools.engines.clip import contact_sheets
from tools.errors import UserError
from tools.registry import EMBEDDER

pytestmark = pytest.mark.usefixtures("own_logging")


def training(tiny, tmp_path, **changes) -> str:
    """YAML of a run on pictures of the small world."""
    size = [tasks.SIDE, tasks.SIDE]
    return tasks.write_yaml(tmp_path / "clip.yaml", {
        "TASK_TYPE": "train_clip_entrance", "resolution": size, "vit_resolution": size, "device": "cpu",
        "embedder": {"type": "FrozenOpenCLIPTextVisualEmbedder", "arch": str(tiny.arch), "freeze": False,
                     "pretrained": "", "layer": "penultimate"},
        "frame_lens": [1], "batch_sizes": {"1": 6}, "num_workers": 0, "lr": 3e-3, "warmup_steps": 0,
        "img_dataset": {"type": "ProceduralVideoDataset", "length": 6, "resolution": size, "vit_resolution": size},
        "num_steps": 12, "log_interval": 1, "save_ckp_interval": 100, "tensorboard": False, "use_ema": False,
        "log_dir": str(tmp_path / "runs"), **changes})


def test_it_learns_pairs_and_an_embedder_loads_them(tiny, tmp_path):
    folder = tasks.run(training(tiny, tmp_path))
    losses = [line["loss"] for line in tasks.metrics(folder)]
    assert losses[-1] < 0.8 * losses[0]
    file = folder / "checkpoints" / "non_ema_00000012.pth"
    embedder = EMBEDDER.build({"type": "FrozenOpenCLIPTextVisualEmbedder", "arch": str(tiny.arch),
                               "pretrained": str(file)})
    assert tasks.same(embedder.model.state_dict(), checkpoint.load_state(file))
    assert text_tokens(embedder, ["a red star"]).shape == (1, 16, tasks.WIDTH)


def test_equal_captions_are_right_answers_in_equal_parts(tiny, tmp_path):
    engine = tasks.engine(training(tiny, tmp_path))
    engine.build()
    vectors = torch.eye(3)[[0, 0, 1]]
    engine.network = lambda images, tokens: (vectors, vectors, torch.tensor(100.0))
    batch = {"caption": ["a star", "a star", "a circle"], "vit_frame": torch.zeros(3, 3, tasks.SIDE, tasks.SIDE),
             "video": torch.zeros(3, 1, 3, tasks.SIDE, tasks.SIDE)}
    loss, values = engine.batch_loss(batch)
    # Two equal logits share the softmax, each of them half a right answer: cross entropy ln 2, and 0 for the third.
    assert loss.item() == pytest.approx(2 / 3 * torch.log(torch.tensor(2.0)).item(), rel=1e-4)
    assert values["retrieved_frame"] == 1


def test_pictures_of_another_size_are_refused(tiny, tmp_path):
    with pytest.raises(UserError, match=r"vit_resolution \[16, 16\] .* set vit_resolution: \[32, 32\]"):
        tasks.run(training(tiny, tmp_path, vit_resolution=[16, 16]))


def test_a_contact_sheet_shows_the_frames_in_reading_order():
    video = torch.arange(4.0).view(1, 4, 1, 1, 1).expand(1, 4, 3, 2, 3)
    sheet = contact_sheets(video)
    assert sheet.shape == (1, 3, 4, 6)
    assert sheet[0, 0, ::2, ::3].tolist() == [[0, 1], [2, 3]]
    assert all((block == block.flatten()[0]).all() for row in sheet[0, 0].chunk(2) for block in row.chunk(2, dim=1))
    with pytest.raises(UserError, match="square number"):
        contact_sheets(torch.zeros(1, 3, 3, 2, 2))


def test_clips_tell_motions_apart_where_first_frames_cannot(tiny, tmp_path):
    clips = {"type": "ProceduralVideoDataset", "length": 6, "resolution": [tasks.SIDE] * 2,
             "vit_resolution": [tasks.SIDE] * 2, "shapes": ["circle"], "colors": ["red"], "backgrounds": ["gray"],
             "motions": ["moving left", "moving right"]}
    folder = tasks.run(training(tiny, tmp_path, frame_lens=[4], batch_sizes={"4": 6}, vid_dataset=clips, num_steps=80))
    retrieved = [line["retrieved_sheet"] for line in tasks.metrics(folder)[-30:]]
    assert sum(retrieved) / len(retrieved) > 0.9  # two captions: 0.5 by chance

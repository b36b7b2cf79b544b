"""Training of the autoencoder."""
import pytest
import torch
from PIL import Image

from tests.engines import tiny as tasks
from tools.engines.autoencoder import random_crops
from tools.errors import UserError

pytestmark = pytest.mark.usefixtures("own_logging")


def training(tmp_path, **changes) -> str:
    """YAML of a run on pictures of the small world."""
    size = [tasks.SIDE, tasks.SIDE]
    return tasks.write_yaml(tmp_path / "autoencoder.yaml", {
        "TASK_TYPE": "train_autoencoder_entrance", "resolution": size, "vit_resolution": size, "device": "cpu",
        "auto_encoder": {"type": "AutoencoderKL", "ddconfig": tasks.DDCONFIG, "embed_dim": 4, "pretrained": ""},
        "frame_lens": [1], "batch_sizes": {"1": 4}, "num_workers": 0, "lr": 2e-3, "warmup_steps": 0, "mse_weight": 1.0,
        "img_dataset": {"type": "ProceduralVideoDataset", "length": 8, "resolution": size, "vit_resolution": size},
        "num_steps": 9, "log_interval": 1, "save_ckp_interval": 100, "tensorboard": False, "use_ema": False,
        "log_dir": str(tmp_path / "runs"), **changes})


def test_it_learns_and_shows_what_it_sees(tmp_path):
    same = {"type": "ProceduralVideoDataset", "length": 4, "resolution": [tasks.SIDE] * 2, "vit_resolution": [8, 8]}
    folder = tasks.run(training(tmp_path, img_dataset=same, decay_mode="none", initial_logvar=-6.0))
    lines = tasks.metrics(folder)
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[-1]["psnr"] > lines[0]["psnr"]
    with Image.open(folder / "sample_000009.png") as picture:
        assert picture.size == (4 * tasks.SIDE, 2 * tasks.SIDE)


def test_its_weights_are_those_that_an_autoencoder_loads(tmp_path):
    folder = tasks.run(training(tmp_path, num_steps=0))
    again = tasks.engine(training(tmp_path), "auto_encoder.pretrained", folder / "checkpoints" / "non_ema_00000000.pth")
    again.build()
    assert tasks.same(again.model.state_dict(), tasks.weights(folder, 0))


def test_the_loss_is_what_its_docstring_says(tmp_path):
    engine = tasks.engine(training(tmp_path, kl_weight=0.5))
    engine.build()
    engine.network = engine.model
    video = torch.rand(2, 1, 3, tasks.SIDE, tasks.SIDE) * 2 - 1
    torch.manual_seed(0)
    loss, values = engine.batch_loss({"video": video})
    torch.manual_seed(0)
    out, posterior = engine.model(video[:, 0])
    error = out - video[:, 0]
    kl = posterior.kl().sum() / posterior.mean.numel()
    assert loss.item() == pytest.approx((error.abs().mean() + error.square().mean() + 0.5 * kl).item(), rel=1e-5)
    assert values["psnr"].item() == pytest.approx((10 * torch.log10(4 / error.square().mean())).item(), rel=1e-5)


def test_it_takes_over_the_latents_of_a_teacher_that_sees_smaller_pictures(tmp_path):
    narrow = tasks.DDCONFIG | {"ch_mult": tasks.DDCONFIG["ch_mult"][1:]}  # half as many pixels along a latent's side
    section = {"type": "AutoencoderKL", "ddconfig": narrow, "embed_dim": 4, "pretrained": ""}
    scale = 2 ** (len(narrow["ch_mult"]) - 1)
    folder = tasks.run(training(tmp_path, latent_teacher=section, teacher_scale=scale, teacher_weight=2.0,
                                l1_weight=0.0, kl_weight=0.0, mse_weight=0.0, decay_mode="none", num_steps=30))
    lines = tasks.metrics(folder)
    assert lines[0]["loss"] == pytest.approx(2 * lines[0]["teacher"], rel=1e-5)
    assert lines[-1]["teacher"] < 0.5 * lines[0]["teacher"]


def test_the_posterior_may_start_narrow(tmp_path):
    engine = tasks.engine(training(tmp_path, initial_logvar=-6.0))
    engine.build()
    posterior = engine.model.encode(torch.rand(1, 3, tasks.SIDE, tasks.SIDE))
    assert torch.allclose(posterior.logvar, torch.tensor(-6.0))


def test_crops_are_parts_of_their_frames():
    frames = torch.arange(2 * 3 * 8 * 12, dtype=torch.float32).view(2, 3, 8, 12)
    crops = random_crops(frames, 8)
    assert crops.shape == (2, 3, 8, 8)
    for crop, frame in zip(crops, frames, strict=True):
        assert any(torch.equal(crop, frame[:, :, x:x + 8]) for x in range(5))


@pytest.mark.parametrize("crop", [40, 12])
def test_impossible_crops_are_refused(tmp_path, crop):
    with pytest.raises(UserError, match=f"crop {crop} must be a multiple of 8 and no larger"):
        tasks.run(training(tmp_path, crop=crop))
    assert not (tmp_path / "runs").exists()

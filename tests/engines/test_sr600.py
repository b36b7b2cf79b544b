"""Refinement as a task: which videos, to which size, in which pieces, by which process; its training; bad input."""
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from tests.engines import tiny as tasks
from tests.goldens.reader import uniform
from tools import noise
from tools.datasets.lists import Item
from tools.engines.sample import Sampling
from tools.errors import UserError
from tools.media import probe_video, read_frames, write_video

pytestmark = pytest.mark.usefixtures("own_logging")

PROMPTS = ["a red star", "a blue circle|3"]


def write_clip(path: Path, frames: int = 3, width: int = 32, height: int = 32, prompt: str | None = "a star") -> Path:
    """A video fixed by its name, with a sidecar that tells its prompt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = uniform(path.name, (frames, height, width, 3), scale=0.5, offset=0.5) * 255
    write_video(path, pixels.astype(np.uint8), 8)
    if prompt is not None:
        path.with_suffix(".json").write_text(json.dumps({"prompt": prompt}))
    return path


def item_of(path: Path) -> Item:
    return Item(1, "a star", str(path))


def refined(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Name of every refined video -> frames, width, height."""
    found = {path.name: probe_video(path) for path in sorted(folder.glob("*_sr.mp4"))}
    return {name: (info.frames, info.width, info.height) for name, info in found.items()}


def built(tiny, folder: Path, lines=("x",), **changes):
    engine = tasks.engine(tiny.sampling(folder, "sr", list(lines), **changes))
    engine.build()
    return engine


@pytest.fixture(scope="module")
def sampling(tiny, tmp_path_factory):
    return built(tiny, tmp_path_factory.mktemp("sr"))


def test_videos_of_an_earlier_run_are_found_by_list_folder_and_path(tiny, tmp_path):
    earlier = tasks.run(tiny.sampling(tmp_path, "t2v", PROMPTS, ddim_timesteps=1))
    names = ["rank_01_00_0000_a_red_star_sr.mp4", "rank_01_00_0001_a_blue_circle_sr.mp4"]
    size = (tasks.FRAMES, 2 * tasks.SIDE, 2 * tasks.SIDE)
    # The list and log_dir of the run, as the original.
    tasks.run(tiny.sampling(tmp_path, "sr", PROMPTS))
    assert refined(earlier) == dict.fromkeys(names, size)
    # All videos of the folder: not those that are refined already.
    tasks.run(tiny.sampling(tmp_path, "sr", ["x"], refine_dir=str(earlier), log_dir=str(tmp_path / "other")))
    assert refined(tmp_path / "other" / earlier.name) == dict.fromkeys(names, size)
    sidecar = json.loads((tmp_path / "other" / earlier.name / names[1]).with_suffix(".json").read_text())
    assert sidecar["prompt"] == "a blue circle"
    assert Path(sidecar["item"]["path"]) == earlier / names[1].replace("_sr", "")
    # Any videos, by path.
    line = f"{earlier / names[0].replace('_sr', '')}|||another star"
    folder = tasks.run(tiny.sampling(tmp_path, "sr", [line, line], "pairs.yaml"))
    assert sorted(refined(folder)) == ["rank_01_00_0000_a_red_star_0000_sr.mp4",
                                      "rank_01_00_0000_a_red_star_0001_sr.mp4"]


@pytest.mark.parametrize(("changes", "frames", "seen"), [
    ({}, 3, [3]), ({"double_frames_sr": True}, 3, [6]), ({"double_frames_sr": "auto"}, 3, [6]),
    ({"sr_frames": 2}, 5, [2, 2, 1]), ({"sr_frames": 4, "double_frames_sr": True}, 3, [4, 2]),
    ({"double_frames_sr": "auto"}, 17, [17])])
def test_clips_are_doubled_and_cut_and_keep_their_number_of_frames(sampling, tmp_path, monkeypatch, changes, frames,
                                                                   seen):
    for key, value in changes.items():
        monkeypatch.setitem(sampling.cfg, key, value)
    lengths = []
    monkeypatch.setattr(sampling, "noised", lambda latents, *_: lengths.append(latents.shape[2]) or latents)
    monkeypatch.setattr(sampling, "denoise", lambda start, *_: start)
    path = write_clip(tmp_path / "clip.mp4", frames)
    video = sampling.generate([item_of(path)], [torch.Generator().manual_seed(0)])[0]
    assert lengths == seen and video.shape == (frames, 3, 64, 64)


@pytest.mark.parametrize(("width", "height", "expected"), [(32, 32, (64, 64)), (48, 32, (80, 56)), (26, 42, (48, 80))])
def test_videos_of_every_size_come_out_at_a_size_of_their_shape(sampling, tmp_path, width, height, expected):
    path = write_clip(tmp_path / "clip.mp4", 2, width, height)
    video = sampling.generate([item_of(path)], [torch.Generator().manual_seed(0)])[0]
    assert video.shape == (2, 3, expected[1], expected[0]) and video.isfinite().all()


def test_sizes_that_the_network_cannot_take_are_padded_before_encoding_and_cut_after_decoding(tiny, tmp_path):
    deep = {**tasks.UNET, "dim_mult": [1, 1, 1], "attn_scales": [0.25], "type": "UNetSD_SR600"}
    engine = tasks.engine(tiny.sampling(tmp_path, "sr", ["x"], UNet=deep, sr_resolution=[72, 64]))
    engine.sampled_state = lambda: engine.model.state_dict()
    engine.build()
    sizes = []
    engine.noised = lambda latents, *_: sizes.append(tuple(latents.shape[-2:])) or latents
    engine.denoise = lambda start, *_: start
    video = engine.generate([item_of(write_clip(tmp_path / "clip.mp4", 2, 36, 32))], [torch.Generator()])[0]
    assert sizes == [(10, 12)]
    assert video.shape == (2, 3, 64, 72)


def test_noise_depends_on_the_seed_of_the_video_alone(sampling, tmp_path):
    item = item_of(write_clip(tmp_path / "clip.mp4", 2))
    first, again, other = (sampling.generate([item], [torch.Generator().manual_seed(seed)])[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize("start", ["inversion", "noise"])
def test_times_stay_below_the_highest_level(sampling, tmp_path, monkeypatch, start):
    monkeypatch.setitem(sampling.cfg, "sr_start", start)
    monkeypatch.setitem(sampling.cfg, "total_noise_levels", 300)
    times = []
    handle = sampling.model.register_forward_pre_hook(lambda _, args: times.append(int(args[1][0])))
    steps = []
    sampling.generate([item_of(write_clip(tmp_path / "clip.mp4", 2))], [torch.Generator()],
                      lambda done, total: steps.append((done, total)))
    handle.remove()
    inversion = [0, 100, 200] if start == "inversion" else []
    assert times[:len(inversion)] == inversion
    assert times[len(inversion)] == 299 and min(times[len(inversion):]) >= 0
    assert steps[-1] == (6, 6)


def test_the_embedders_prompts_are_used(tiny, tmp_path):
    prompts = {"positive_prompt": ", sharp", "negative_prompt": "blurry"}
    engine = built(tiny, tmp_path, embedder=tiny.shared("sr")["embedder"] | prompts)
    told, null = engine.conditions(engine.request([item_of(tmp_path)], [None]), training=False)
    assert told.keys() == {"y"} and torch.equal(told["y"], engine.words(["a star, sharp"]))
    assert torch.equal(null["y"], engine.words(["blurry"]))


# Bad input.

def listed(tiny, folder: Path, lines, **changes) -> list:
    return Sampling(tasks.engine(tiny.sampling(folder, "sr", lines, **changes))).requests()


def test_a_missing_or_broken_video_is_left_out_and_the_rest_is_refined(tiny, tmp_path, caplog):
    good = write_clip(tmp_path / "good.mp4", 2)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    lines = [f"{tmp_path / 'absent.mp4'}|||a", f"{tmp_path / 'broken.mp4'}|||b", f"{good}|||c"]
    with caplog.at_level(logging.ERROR):
        folder = tasks.run(tiny.sampling(tmp_path, "sr", lines))
    assert sorted(refined(folder)) == ["good_0002_sr.mp4"]
    assert "left out: no video file" in caplog.text and "absent.mp4" in caplog.text and "broken.mp4" in caplog.text


def test_a_video_that_breaks_off_is_left_out_while_others_are_made(tiny, tmp_path, caplog, monkeypatch):
    paths = [write_clip(tmp_path / name, 2) for name in ("one.mp4", "two.mp4")]

    def broken(path, numbers):
        if "one" in str(path):
            raise UserError(f"video '{path}' ends at frame 0")
        return read_frames(path, numbers)

    monkeypatch.setattr("tools.media.read_frames", broken)
    with caplog.at_level(logging.ERROR):
        folder = tasks.run(tiny.sampling(tmp_path, "sr", [f"{path}|||c" for path in paths]))
    assert sorted(refined(folder)) == ["two_0001_sr.mp4"]
    assert "left out" in caplog.text and "one.mp4" in caplog.text


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_without_videos_is_refused(tiny, tmp_path, made):
    folder = tmp_path / "empty"
    if made:
        write_clip(folder / "x_sr.mp4")
    with pytest.raises(UserError, match=r"empty' holds no video .* refine_dir"):
        listed(tiny, tmp_path, ["x"], refine_dir=str(folder))


def test_nothing_to_refine_of_a_list_names_the_first_video_looked_for(tiny, tmp_path):
    with pytest.raises(UserError, match=r"no video file '.*rank_01_00_0000_a_red_star.mp4' \(and 1 more\)"):
        listed(tiny, tmp_path, PROMPTS)


def test_videos_whose_prompt_nobody_tells_are_left_out(tiny, tmp_path, caplog):
    folder = tmp_path / "made"
    write_clip(folder / "silent.mp4", prompt=None)
    with pytest.raises(UserError, match=r"silent.mp4' has no JSON .*video\|\|\|caption"):
        listed(tiny, tmp_path, ["x"], refine_dir=str(folder))
    write_clip(folder / "told.mp4")
    (folder / "odd.json").write_text("[]")
    write_clip(folder / "odd.mp4", prompt=None)
    with caplog.at_level(logging.WARNING):
        assert [r.item.caption for r in listed(tiny, tmp_path, ["x"], refine_dir=str(folder))] == ["a star"]
    assert "silent.mp4" in caplog.text and "odd.json" in caplog.text


@pytest.mark.parametrize(("changes", "message"), [
    ({"sr_resolution": [60, 64]}, r"sr_resolution \[60, 64\] is not a multiple of 8"),
    ({"total_noise_levels": 2000}, "total_noise_levels 2000 is more than the schedule's 1000 steps"),
    ({"Diffusion": {"type": "DiffusionDDIM"}}, "refinement needs Diffusion.type DiffusionDDIMSR, not DiffusionDDIM"),
])
def test_settings_that_cannot_work_are_refused(tiny, tmp_path, changes, message):
    file = tiny.sampling(tmp_path, "sr", [f"{write_clip(tmp_path / 'x.mp4')}|||x"], **changes)
    with pytest.raises(UserError, match=message):
        tasks.run(file)


# Training.

@pytest.fixture(scope="module")
def training(tiny, tmp_path_factory):
    engine = tasks.engine(tiny.training(tmp_path_factory.mktemp("sr"), "sr", total_noise_levels=200,
                                        sr_degradation=1.0))
    engine.build()
    return engine


@pytest.fixture(scope="module")
def batch(training) -> dict:
    dataset, size = training.dataset()
    return training.with_latents(default_collate([dataset[i] for i in range(size)]))


def test_times_are_drawn_below_the_highest_level(training, batch, monkeypatch):
    asked = []
    draw = noise.device_randint
    monkeypatch.setattr(noise, "device_randint", lambda low, high, *rest, **more: asked.append((low, high)) or draw(
        low, high, *rest, **more))
    loss, _ = training.batch_loss(batch)
    assert asked == [(0, 200)] and loss > 0


def test_at_the_highest_level_a_degraded_clip_is_what_refinement_starts_from(training, batch):
    process, latents = training.diffusion.forward_diffusion, batch["latents"]
    n = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    t = training.highest_level(latents)
    gained = n + training.share_of_noise(batch["degraded"] - latents)
    assert (batch["degraded"] - latents).abs().max() > 1e-2
    torch.testing.assert_close(process.diffuse(latents, t, gained), process.diffuse(batch["degraded"], t, n))


def test_only_the_share_asked_for_is_degraded(training, monkeypatch):
    monkeypatch.setitem(training.cfg, "sr_degradation", 0.3)
    torch.manual_seed(0)
    gained = training.share_of_noise(torch.ones(500, 2))
    assert (gained[:, 0] != 0).float().mean() == pytest.approx(0.3, abs=0.06)


def test_the_deterministic_way_down_keeps_the_degradations_share_of_the_noise(training, batch):
    """From x at the highest level, DDIM steps with the clean clip as prediction pass through training's x."""
    process, latents = training.diffusion.forward_diffusion, batch["latents"]
    n = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    gained = n + training.share_of_noise(batch["degraded"] - latents)
    level, lower = training.highest_level(latents), torch.full((len(latents),), 50)
    alpha, sigma = process.alpha_sigma(level, latents)
    eps = (process.diffuse(batch["degraded"], level, n) - alpha * latents) / sigma
    torch.testing.assert_close(process.diffuse(latents, lower, eps), process.diffuse(latents, lower, gained),
                               rtol=1e-3, atol=1e-3)


def test_without_degradation_nothing_is_encoded_twice_or_drawn_for_it(tiny, tmp_path, batch):
    engine = tasks.engine(tiny.training(tmp_path, "sr"))
    assert engine.features(batch) == {} and engine.pixel_features == ()

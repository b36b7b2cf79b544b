"""HiGen as a task: two passes, what each is told, content measured in training, and seeds."""
import pytest
import torch
from torch.utils.data import default_collate

from tests.engines import tiny as tasks
from tools import noise
from tools.datasets.lists import Item
from tools.engines.content import appearance_table

pytestmark = pytest.mark.usefixtures("own_logging")

COLUMNS = 32


@pytest.fixture(scope="module")
def training(tiny, tmp_path_factory):
    engine = tasks.engine(tiny.training(tmp_path_factory.mktemp("higen"), "higen", p_zero=0.0))
    engine.build()
    return engine


@pytest.fixture(scope="module")
def sampling(tiny, tmp_path_factory):
    engine = tasks.engine(tiny.sampling(tmp_path_factory.mktemp("higen"), "higen", ["a"], ddim_timesteps=2,
                                        noise_strength=0.1, motion_factor=400, appearance_factor=0.5))
    engine.build()
    return engine


@pytest.fixture(scope="module")
def batch(training) -> dict:
    dataset, size = training.dataset()
    return default_collate([dataset[i] for i in range(size)])


def video_of(engine, caption: str = "a red star", seed: int = 1, **settings) -> torch.Tensor:
    """The video of a caption with other settings."""
    before = {key: engine.cfg[key] for key in settings}
    engine.cfg.update(settings)
    try:
        return engine.generate([Item(1, caption)], [torch.Generator().manual_seed(seed)])[0]
    finally:
        engine.cfg.update(before)


def test_the_second_pass_is_told_the_first_ones_frame_and_the_factors(sampling, monkeypatch):
    calls, denoise = [], sampling.denoise

    def noting(start, conditions, *rest):
        calls.append((start, conditions, denoise(start, conditions, *rest)))
        return calls[-1][2]

    monkeypatch.setattr(sampling, "denoise", noting)
    video = video_of(sampling)
    (start, (told, null), key), (second, (then, _), _) = calls
    assert video.shape == (tasks.FRAMES, 3, tasks.SIDE, tasks.SIDE)
    assert (start.shape[2], second.shape[2]) == (1, tasks.FRAMES)
    assert told.keys() == {"y", "spat_prior", "motion_cond", "appearance_cond"}
    assert not told["spat_prior"].any() and told["motion_cond"].tolist() == [0]
    assert torch.equal(told["appearance_cond"], torch.ones(1, 1, COLUMNS))
    assert torch.equal(then["spat_prior"], key[:, :, 0]) and key[:, :, 0].abs().max() > 0
    assert then["motion_cond"].tolist() == [[400] * (tasks.FRAMES - 1)]
    assert torch.equal(then["appearance_cond"][0], appearance_table(0.5, tasks.FRAMES, COLUMNS))
    assert torch.equal(null["y"], sampling.words([""]))


@pytest.mark.parametrize("setting", [{"motion_factor": 0}, {"appearance_factor": 0.0}, {"noise_strength": 0.0}])
def test_every_dial_changes_the_video(sampling, setting):
    assert (video_of(sampling) - video_of(sampling, **setting)).abs().max() > 1e-3


def test_the_same_seed_gives_the_same_video_and_batches_are_those_made_alone(sampling):
    captions = ["a red star", "a blue circle"]
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    together = sampling.generate([Item(1, c) for c in captions], generators)
    for video, caption, seed in zip(together, captions, (1, 2), strict=True):
        assert torch.allclose(video, video_of(sampling, caption, seed), rtol=1e-3, atol=1e-4)


def test_one_frame_is_a_video_too(sampling):
    assert video_of(sampling, max_frames=1).shape == (1, 3, tasks.SIDE, tasks.SIDE)


def test_progress_counts_both_passes(sampling):
    seen = []
    sampling.generate([Item(1, "a")], [torch.Generator()], lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_lines_have_their_own_seed(tiny, tmp_path):
    folder = tasks.run(tiny.sampling(tmp_path, "higen", ["a red star|9", "# no", "a red star|9", "a red star"],
                                     ddim_timesteps=1))
    videos = [path.read_bytes() for path in sorted(folder.glob("*.mp4"))]
    assert [path.name for path in sorted(folder.glob("*.mp4"))] == [
        f"rank_01_00_{number:04d}_a_red_star.mp4" for number in (0, 2, 3)]
    assert videos[0] == videos[1] != videos[2]


def test_the_originals_stream_starts_anew_for_every_line(tiny, tmp_path):
    folder = tasks.run(tiny.sampling(tmp_path, "higen", ["a red star|9", "a red star|9"], ddim_timesteps=1,
                                     seeding="sequential"))
    first, second = (path.read_bytes() for path in sorted(folder.glob("*.mp4")))
    assert first == second


def test_training_is_told_the_middle_frame_and_what_is_measured(training, batch):
    batch = training.with_latents(batch)
    told, _ = training.conditions(batch, training=True)
    middle = tasks.FRAMES // 2
    assert torch.equal(told["spat_prior"], batch["latents"][:, :, middle])
    difference = (batch["video"][:, 1:] - batch["video"][:, :-1]).abs().mean((2, 3, 4)) / 2
    assert torch.equal(told["motion_cond"], (difference * 10000).round().long())
    assert told["motion_cond"].min() > 0
    assert told["appearance_cond"].shape == (2, tasks.FRAMES, COLUMNS)
    ends = told["appearance_cond"][:, [0, -1], [0, -1]]
    torch.testing.assert_close(ends, torch.ones(2, 2), atol=1e-4, rtol=0)


def test_the_first_frame_may_be_the_key_frame(training, batch, monkeypatch):
    monkeypatch.setitem(training.cfg, "key_frame", "first")
    batch = training.with_latents(batch)
    assert torch.equal(training.conditions(batch, training=True)[0]["spat_prior"], batch["latents"][:, :, 0])


def test_an_update_has_both_passes_and_pictures_the_first_alone(training, batch, monkeypatch):
    monkeypatch.setitem(training.cfg, "spatial_weight", 0.5)
    seen, network = [], training.network
    monkeypatch.setattr(training, "network", lambda x, t, **told: seen.append((x.shape[2], told)) or network(
        x, t, **told))
    loss, values = training.batch_loss(batch)
    assert [frames for frames, _ in seen] == [1, tasks.FRAMES]
    assert not seen[0][1]["spat_prior"].any() and seen[1][1]["spat_prior"].any()
    torch.testing.assert_close(loss, values["temporal_loss"] + 0.5 * values["spatial_loss"])
    seen.clear()
    training.batch_loss(batch | {"video": batch["video"][:, :1]})
    assert [frames for frames, _ in seen] == [1]


def test_dropped_text_is_the_empty_one(training, batch, monkeypatch):
    monkeypatch.setitem(training.cfg, "p_zero", 1.0)
    told, _ = training.conditions(training.with_latents(batch), training=True)
    assert torch.equal(told["y"], training.words([""]).expand(2, -1, -1))


def test_kept_latents_come_with_what_was_measured(tiny, tmp_path, training, batch):
    cached = tasks.engine(tiny.training(tmp_path, "higen", cache_latents=4))
    cached.build()
    dataset, _ = cached.dataset()
    kept = default_collate([dataset[0], dataset[1]])
    measured = training.features(batch)
    for name in ("differences", "similarities"):
        torch.testing.assert_close(kept[name], measured[name])


def test_previews_are_drawn_from_the_clips_own_content(tiny, tmp_path, batch, monkeypatch):
    engine = tasks.engine(tiny.training(tmp_path, "higen", ddim_timesteps=1,
                                        visual_train={"type": "VisualTrainTextImageToVideo"}))
    engine.build()
    monkeypatch.setattr(noise, "cpu_randn", lambda shape, **_: torch.zeros(tuple(shape)))
    engine.preview(3, batch)
    assert list(engine.folder.glob("sample_000003/*.png"))

"""Text-to-video: what the network is told, and with which losses it is trained."""
import pytest
import torch

from tests.engines import tiny as tasks
from tools import noise, runtime
from tools.datasets.lists import Item

pytestmark = pytest.mark.usefixtures("own_logging")
BATCH = {"caption": ["a red star", "a blue circle"]}


def built(cfg_file: str, *overrides):
    """An engine with its components."""
    engine = tasks.engine(cfg_file, *overrides)
    engine.build()
    return engine


@pytest.fixture(scope="module")
def training(tiny, tmp_path_factory):
    return built(tiny.training(tmp_path_factory.mktemp("t2v"), "t2v", negative_prompt="bad"))


@pytest.fixture(scope="module")
def sampling(tiny, tmp_path_factory):
    return built(tiny.sampling(tmp_path_factory.mktemp("t2v"), "t2v", ["a"], negative_prompt="bad", target_fps=16,
                               positive_prompt=", sharp"))


def test_sampling_is_told_the_text_against_the_negative_prompt_and_the_rate(sampling):
    positive, negative = sampling.conditions(BATCH, training=False)
    assert torch.equal(positive["y"], sampling.words(BATCH["caption"]))
    assert torch.equal(negative["y"], sampling.words(["bad"]).expand_as(negative["y"]))
    assert positive["y"].shape == (2, 16, tasks.WIDTH)
    assert positive["fps"].tolist() == negative["fps"].tolist() == [16, 16]


def test_the_positive_prompt_is_appended(sampling):
    assert sampling.request([Item(1, "a red star")], [None]) == {"caption": ["a red star, sharp"]}


@pytest.mark.parametrize(("p_zero", "dropped"), [(0.0, 0), (1.0, 64), (0.25, 16)])
def test_training_drops_text_to_the_negative_prompt(training, monkeypatch, p_zero, dropped):
    monkeypatch.setitem(training.cfg, "p_zero", p_zero)
    runtime.seed_everything(0)
    text = training.conditions({"caption": ["a red star"] * 64}, training=True)[0]["y"]
    null, kept = training.words(["bad"])[0], training.words(["a red star"])[0]
    count = sum(torch.equal(row, null) for row in text)
    assert count == pytest.approx(dropped, abs=0 if p_zero in (0, 1) else 12)
    assert count + sum(torch.equal(row, kept) for row in text) == 64


def test_training_is_told_the_rate_that_clips_have(training):
    told = training.conditions(BATCH | {"fps": torch.tensor([7, 12])}, training=True)[0]["fps"]
    assert told.tolist() == [7, 12]
    assert training.conditions(BATCH, training=True)[0]["fps"].tolist() == [8, 8]


def test_tokens_do_not_depend_on_what_was_encoded_before(training):
    """Nor in their last bits, or a resumed run would drift from the one it continues."""
    captions = [f"a {word} star" for word in ("red", "blue", "green", "white", "black")]
    fresh = training.words(captions)
    training.words(captions[:2])
    assert torch.equal(training.words(captions), fresh)


@pytest.mark.parametrize(("limit", "expected"), [(None, 1000), (50, 50)])
def test_times_are_drawn_below_the_limit(training, monkeypatch, limit, expected):
    seen = []

    def draw(low, high, shape, **_):
        seen.append((low, high))
        return torch.zeros(tuple(shape), dtype=torch.long)

    monkeypatch.setitem(training.cfg, "opti_timesteps", limit)
    monkeypatch.setattr(noise, "device_randint", draw)
    batch = BATCH | {"video": torch.zeros(2, tasks.FRAMES, 3, tasks.SIDE, tasks.SIDE)}
    loss, _ = training.batch_loss(batch)
    assert seen == [(0, expected)]
    assert loss.shape == () and torch.isfinite(loss)


def test_times_are_drawn_where_the_configuration_wants_them(training, monkeypatch):
    monkeypatch.setitem(training.cfg, "timestep_logit_normal", [-2.0, 0.5])
    times = training.draw_times(4000)
    assert times.dtype == torch.long and times.min() >= 0 and times.max() < 1000
    shares = (times + 0.5) / 1000
    assert torch.logit(shares).mean() == pytest.approx(-2.0, abs=0.05)
    assert torch.logit(shares).std() == pytest.approx(0.5, abs=0.05)
    monkeypatch.setitem(training.cfg, "timestep_logit_normal", [50.0, 1.0])
    assert training.draw_times(3).tolist() == [999] * 3


def test_joint_training_gives_ranks_their_frames_batches_and_rates(tiny, tmp_path, monkeypatch):
    engine = tasks.engine(tiny.training(tmp_path, "t2v", frame_lens=[4, 1], sample_fps=[8, 16],
                                        batch_sizes={"4": 2, "1": 5}))
    plans = []
    for rank in range(3):
        monkeypatch.setattr(engine, "runtime", runtime.Runtime(torch.device("cpu"), "fp32", rank, 3))
        plans.append(engine.rank_plan())
    assert plans == [(4, 2, 8), (1, 5, 1), (4, 2, 8)]


def test_one_rate_for_all_ranks_may_stand_alone(tiny, tmp_path):
    assert tasks.engine(tiny.training(tmp_path, "t2v", sample_fps=12)).rank_plan() == (tasks.FRAMES, 2, 12)

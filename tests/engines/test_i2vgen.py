"""Image-to-video: the picture as latent and as vector, and their dropout."""
import pytest
import torch
from PIL import Image

from tests.engines import tiny as tasks
from tools import runtime
from tools.datasets.lists import Item
from tools.engines.i2vgen import dropped

pytestmark = pytest.mark.usefixtures("own_logging")


def built(cfg_file: str, *overrides):
    """An engine with its components."""
    engine = tasks.engine(cfg_file, *overrides)
    engine.build()
    return engine


@pytest.fixture(scope="module")
def training(tiny, tmp_path_factory):
    return built(tiny.training(tmp_path_factory.mktemp("i2v"), "i2v"))


@pytest.fixture(scope="module")
def sampling(tiny, tmp_path_factory):
    return built(tiny.sampling(tmp_path_factory.mktemp("i2v"), "i2v", ["x.png|||a"]))


@pytest.fixture
def clips():
    draw = torch.Generator().manual_seed(0)
    return {"caption": ["a red star", "a blue circle"], "fps": torch.tensor([8, 8]),
            "latents": torch.randn(2, 4, tasks.FRAMES, 4, 4, generator=draw),
            "vit_frame": torch.randn(2, 3, tasks.SIDE, tasks.SIDE, generator=draw)}


def test_training_is_told_the_first_frame_as_latent_and_as_vector(training, clips, monkeypatch):
    monkeypatch.setitem(training.cfg, "p_image_zero", 0.0)
    told, _ = training.conditions(clips, training=True)
    assert told.keys() == {"y", "image", "local_image", "fps"}
    assert torch.equal(told["local_image"], clips["latents"][:, :, :1].expand(-1, -1, tasks.FRAMES, -1, -1))
    assert torch.equal(told["image"], training.embedder.encode_image(clips["vit_frame"])[:, None])


def test_dropouts_are_whole_independent_and_to_what_sampling_shows_unguided(training, clips, monkeypatch):
    for key in ("p_zero", "p_image_zero", "p_local_image_zero"):
        monkeypatch.setitem(training.cfg, key, 0.5)
    batch = {key: value[:1] * 200 if isinstance(value, list) else value[:1].repeat(200, *[1] * (value.dim() - 1))
             for key, value in clips.items()}
    runtime.seed_everything(3)
    told, _ = training.conditions(batch, training=True)
    null = training.words([""])[0]
    dropped = torch.stack([torch.tensor([torch.equal(row, null) for row in told["y"]]),
                           (told["image"] == 0).flatten(1).all(1), (told["local_image"] == 0).flatten(1).all(1)])
    assert dropped.float().mean(dim=1).tolist() == pytest.approx([0.5] * 3, abs=0.12)
    assert torch.corrcoef(dropped.float()).sub(torch.eye(3)).abs().max() < 0.25


def test_nothing_is_drawn_for_a_dropout_that_is_off():
    state = torch.get_rng_state()
    condition = torch.ones(2, 3)
    assert dropped(condition, 0.0) is condition
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("zero", [True, False])
def test_the_unconditional_branch_keeps_the_latent_and_loses_the_vector(sampling, clips, monkeypatch, zero):
    monkeypatch.setitem(sampling.cfg, "use_zero_infer", zero)
    positive, negative = sampling.conditions(clips, training=False)
    assert torch.equal(positive["local_image"], negative["local_image"])
    assert positive["image"].abs().sum() > 0
    assert torch.equal(negative["image"], torch.zeros_like(positive["image"])) if zero else negative["image"] is None


def test_a_picture_of_any_size_becomes_a_vector_and_a_latent(tiny, sampling, tmp_path):
    items = [Item(1, "a", path=str(tiny.picture(tmp_path, name))) for name in ("p.png", "q.png")]
    batch = sampling.request(items, [torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)])
    assert batch["vit_frame"].shape == (2, 3, tasks.SIDE, tasks.SIDE)
    assert batch["local_image"].shape == (2, 4, tasks.FRAMES, 4, 4)
    alone = sampling.request(items[1:], [torch.Generator().manual_seed(2)])
    assert torch.allclose(batch["local_image"][1:], alone["local_image"])


def test_the_video_follows_picture_and_text(tiny, sampling, tmp_path):
    p, q = (str(tiny.picture(tmp_path, name)) for name in ("p.png", "q.png"))
    items = [Item(1, "a red star", path=p), Item(1, "a red star", path=q), Item(1, "a blue circle", path=p)]
    reference, *others = (sampling.generate([item], [torch.Generator().manual_seed(1)])[0] for item in items)
    assert reference.shape == (tasks.FRAMES, 3, tasks.SIDE, tasks.SIDE)
    assert all((video - reference).abs().max() > 1e-2 for video in others)


def test_names_carry_picture_caption_and_index(tiny, tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "my.pic.jpg")
    folder = tasks.run(tiny.sampling(tmp_path, "i2v", [f"{tmp_path / 'my.pic.jpg'}|||a red star"]))
    assert [path.name for path in folder.glob("*.mp4")] == ["my_01_00_a_red_star_00.mp4"]


def test_training_starts_from_text_to_video(tiny, tmp_path):
    """The published way: what both networks have is taken over, the picture's channels start at zero."""
    engine = built(tiny.training(tmp_path, "i2v", Pretrain={
        "type": "pretrain_specific_strategies", "resume_checkpoint": str(tiny.weights("t2v")), "sd_keys_path": "",
        "inflate_input": True}))
    text = tasks.checkpoint.load_state(tiny.weights("t2v"))
    stem = engine.model.input_blocks[0][0].weight
    assert torch.equal(stem[:, :4], text["input_blocks.0.0.weight"])
    assert not stem[:, 4:].any()
    assert torch.equal(engine.model.out[2].weight, text["out.2.weight"])

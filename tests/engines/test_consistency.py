"""Consistency distillation of text- and image-conditioned methods, and sampling in a few steps."""
import itertools

import pytest
import torch

from tests.engines import tiny as tasks
from tests.goldens.reader import fill_module
from tools import checkpoint, runtime
from tools.check import check
from tools.datasets.lists import Item
from tools.diffusions.lcm import guidance_embedding
from tools.engines.consistency import ConsistencyModel
from tools.engines.i2vgen import ImageToVideo
from tools.engines.train import Metrics, Trainer
from tools.errors import UserError
from tools.models.unet import GUIDANCE_WIDTH

METHODS = {"t2v": "train_t2v_entrance", "i2v": "train_i2v_vs_img_text_entrance"}
RUNS = {"t2v": {"use_ema": True},
        "i2v": {"lcm_variant": "paper", "lcm_guide_scales": [2.0, 6.0], "use_zero_infer": True}}

pytestmark = pytest.mark.usefixtures("own_logging")


def distillation(tiny, folder, method: str, **changes) -> str:
    """YAML of a distillation of one of the tiny networks."""
    pretrain = {"type": "pretrain_specific_strategies", "resume_checkpoint": str(tiny.weights(method)),
                "sd_keys_path": None}
    return tiny.training(folder, method, "lcm.yaml", **{
        "TASK_TYPE": "train_lcm_entrance", "lcm_task": METHODS[method], "Pretrain": pretrain, "ddim_timesteps": 10,
        **changes})


def few_steps(tiny, folder, method: str, lines: list[str], **changes) -> str:
    """YAML that samples one of the tiny networks as if it had been distilled."""
    return tiny.sampling(folder, method, lines, "lcm_sample.yaml", **{
        "TASK_TYPE": "inference_lcm_entrance", "lcm_task": METHODS[method], "ddim_timesteps": 10,
        "num_inference_steps": 2, **changes})


def trainer_of(cfg_file: str, *overrides) -> Trainer:
    """A trainer that has built everything and made no update."""
    engine = tasks.engine(cfg_file, *overrides)
    runtime.seed_everything(0)
    engine.check()
    engine.build()
    trainer = Trainer(engine)
    trainer.wrap()
    return trainer


class Stop(BaseException):
    """What ends a run between two lines."""


@pytest.mark.parametrize("method", METHODS)
def test_a_distillation_that_was_cut_off_resumes_to_the_same_bits(tiny, tmp_path, method, monkeypatch):
    file = distillation(tiny, tmp_path, method, num_steps=1, **RUNS[method])
    write = Metrics.write

    def stop(self, step, values):
        write(self, step, values)
        if step == 1:
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "write", stop)
        with pytest.raises(Stop):
            tasks.run(file)
    folder = tasks.run(file, "resume", "true")
    alone = tasks.run(file, "log_dir", tmp_path / "alone")
    for kind in ("non_ema", "ema") if RUNS[method].get("use_ema") else ("non_ema",):
        assert tasks.same(tasks.weights(folder, 1, kind), tasks.weights(alone, 1, kind))
    states = [checkpoint.load_file(run / "checkpoints" / "state_rank0000_00000001.pt") for run in (folder, alone)]
    targets = [state["engine"]["target"] for state in states]
    assert tasks.same(*targets)
    assert not tasks.same(targets[0], tasks.weights(alone, 1))
    assert [line["loss"] for line in tasks.metrics(folder)] == [line["loss"] for line in tasks.metrics(alone)]


def test_the_target_follows_the_student_and_the_teacher_stays(tiny, tmp_path):
    trainer = trainer_of(distillation(tiny, tmp_path, "t2v", lr=1e-2, warmup_steps=0, lcm_target_decay=0.75))
    engine = trainer.engine
    first = checkpoint.load_state(tiny.weights("t2v"))
    trainer.update(trainer.read_batches())
    expected = {key: 0.75 * value + 0.25 * trainer.model.state_dict()[key] for key, value in first.items()}
    assert tasks.same(engine.teacher.state_dict(), first)
    assert not tasks.same(trainer.model.state_dict(), first)
    for key, value in engine.target.state_dict().items():
        torch.testing.assert_close(value, expected[key])
    assert not any(p.requires_grad for network in (engine.teacher, engine.target) for p in network.parameters())


@pytest.mark.parametrize(("changes", "dropout"), [({}, True), ({"set_target_eval": True}, False),
                                                  ({"lcm_variant": "paper"}, False)])
def test_who_keeps_dropout_and_who_is_told_the_guidance(tiny, tmp_path, changes, dropout):
    trainer = trainer_of(distillation(tiny, tmp_path, "t2v", **changes))
    engine, told = trainer.engine, {}
    networks = {"student": trainer.model, "teacher": engine.teacher, "target": engine.target}
    for name, network in networks.items():
        network.register_forward_pre_hook(lambda _, args, kwargs, name=name: told.update({name: kwargs.get("t_w")}),
                                          with_kwargs=True)
    trainer.update(trainer.read_batches())
    assert (engine.teacher.training, engine.target.training, trainer.model.training) == (dropout, dropout, True)
    expected = guidance_embedding(torch.tensor([9.0, 9.0]), GUIDANCE_WIDTH)
    assert torch.equal(told["student"], expected)
    assert told["teacher"] is None
    if "lcm_variant" in changes:
        assert torch.equal(told["target"], expected)
        assert trainer.model.guidance_embed is not None
    else:
        assert told["target"] is None
        assert trainer.model.guidance_embed is None


def test_the_paper_s_student_learns_many_scales(tiny, tmp_path):
    engine = trainer_of(distillation(tiny, tmp_path, "t2v", **RUNS["i2v"])).engine
    drawn = engine._draw_guidance(500) + 1
    assert drawn.min() >= 2 and drawn.max() <= 6
    assert drawn.mean() == pytest.approx(4.0, abs=0.2)


def test_a_student_as_good_as_its_teacher_costs_nothing(tiny, tmp_path):
    """With one and the same clip to learn, any noise leads there, and teacher, student and target agree."""
    engine = trainer_of(distillation(tiny, tmp_path, "t2v", Diffusion={"mean_type": "x0"})).engine
    clip = torch.randn(1, 4, tasks.FRAMES, 4, 4, generator=torch.Generator().manual_seed(1)).expand(4, -1, -1, -1, -1)
    conditions = engine.conditions({"caption": ["a"] * 4, "fps": torch.full((4,), 8)}, training=False)

    def knowing(x, t, **_):
        return clip

    engine.network = engine.teacher = engine.target = knowing
    assert engine.distil(clip, *conditions) < 1e-4
    engine.network = lambda x, t, **_: clip + 1
    assert engine.distil(clip, *conditions) > 0.5


def test_pictures_are_what_the_distilled_method_makes_of_them(tiny, tmp_path):
    trainer = trainer_of(distillation(tiny, tmp_path, "i2v", use_zero_infer=True))
    engine, seen = trainer.engine, []
    assert isinstance(engine, ImageToVideo) and isinstance(engine, ConsistencyModel) and engine.needs_image_vector
    engine.teacher.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    trainer.update(trainer.read_batches())
    positive, negative = seen
    assert torch.equal(positive["local_image"], negative["local_image"])
    assert positive["image"].abs().sum() > 0 and not negative["image"].any()


def test_both_passes_of_a_method_are_distilled(tiny, tmp_path):
    trainer = trainer_of(distillation(
        tiny, tmp_path, "t2v", lcm_task="inference_higen_entrance", UNet=tasks.UNET | {"type": "UNetSD_HiGen"}))
    frames = {"student": [], "teacher": [], "target": []}
    for name, network in (("student", trainer.model), ("teacher", trainer.engine.teacher),
                          ("target", trainer.engine.target)):
        network.register_forward_pre_hook(lambda _, args, name=name: frames[name].append(args[0].shape[2]))
    values, _ = trainer.update(trainer.read_batches())
    assert frames == {"student": [1, tasks.FRAMES], "teacher": [1, 1, tasks.FRAMES, tasks.FRAMES],
                      "target": [1, tasks.FRAMES]}
    assert values["loss"] == values["temporal_loss"] + values["spatial_loss"]


@pytest.fixture(scope="module")
def sampling(tiny, tmp_path_factory):
    """A built few-step text-to-video engine."""
    engine = tasks.engine(few_steps(tiny, tmp_path_factory.mktemp("few"), "t2v", ["a"]))
    engine.build()
    return engine


def generate(engine, captions=("a red star",), seeds=(1,)):
    items = [Item(1, caption) for caption in captions]
    return engine.generate(items, [torch.Generator().manual_seed(seed) for seed in seeds])


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_as_many_evaluations_as_steps_without_guidance(sampling, monkeypatch, steps):
    monkeypatch.setitem(sampling.cfg, "num_inference_steps", steps)
    sizes = []
    handle = sampling.model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    video = generate(sampling)[0]
    handle.remove()
    assert sizes == [1] * steps
    assert video.shape == (tasks.FRAMES, 3, tasks.SIDE, tasks.SIDE)


def test_clips_of_a_batch_are_those_made_alone(sampling):
    together = generate(sampling, ("a red star", "a blue circle"), (1, 2))
    alone = generate(sampling, ("a blue circle",), (2,))[0]
    torch.testing.assert_close(together[1], alone, rtol=1e-3, atol=1e-4)


def test_guide_scale_counts_for_a_network_that_is_told(tiny, tmp_path):
    weights = tmp_path / "told.safetensors"
    network = tasks.MODEL.build({"type": tasks.UNETS["t2v"], **tasks.UNET, "guidance_embedding": True})
    checkpoint.save_file(fill_module(network).state_dict(), weights)
    file = few_steps(tiny, tmp_path, "t2v", ["a"], lcm_variant="paper", lcm_guide_scales=[2.0, 6.0],
                     test_model=str(weights))
    videos = []
    for scale in (2, 6):
        engine = tasks.engine(file, "guide_scale", scale)
        engine.check()
        engine.build()
        videos += generate(engine)
    assert (videos[0] - videos[1]).abs().max() > 1e-4


def test_image_to_video_is_sampled_from_a_list(tiny, tmp_path):
    picture = tiny.picture(tmp_path, "p.png")
    folder = tasks.run(few_steps(tiny, tmp_path, "i2v", [f"{picture}|||a red star"]))
    assert [path.name for path in folder.glob("*.mp4")] == ["p_01_00_a_red_star_00.mp4"]


def test_previews_are_made_in_few_steps(tiny, tmp_path):
    trainer = trainer_of(distillation(tiny, tmp_path, "t2v", num_inference_steps=3, visual_train={
        "type": "VisualTrainTextImageToVideo", "viz_num": 1}))
    calls = []
    trainer.model.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    trainer.preview(trainer.engine.to_device(next(trainer.read_batches())))
    assert calls == [1, 1, 1]
    assert list((trainer.folder / "sample_000000").glob("*.png"))


@pytest.mark.parametrize("method", METHODS)
def test_the_wiring_is_checked_as_that_of_the_method(tiny, tmp_path, method):
    text = check(tasks.resolve(distillation(tiny, tmp_path, method, lcm_variant="paper")))
    assert "frozen copies" in text
    parameters = [int(line.split()[1].replace(",", "")) for line in text.splitlines() if line.startswith("UNet ")]
    assert parameters == [sum(p.numel() for p in tasks.checkpoint.load_state(tiny.weights(method)).values())
                          + GUIDANCE_WIDTH * tasks.UNET["dim"]]


TRAINING_MISTAKES = [
    ({"lcm_task": "train_autoencoder_entrance"}, "no method that can be distilled"),
    ({"lcm_task": "train_lcm_entrance"}, "no method that can be distilled"),
    ({"lcm_task": "train_t2v_entrence"}, "train_t2v_entrance"),
    ({"lcm_task": "train_consisti2v_entrance"}, "its own objective"),
    ({"lcm_task": "train_dreamvideo_entrance"}, "its own objective"),
    ({"lcm_task": "inference_sr600_entrance"}, "its own objective"),
    ({"Pretrain": None}, "nothing to distil"),
    ({"ddim_timesteps": 3}, "num_inference_steps 4 is more than ddim_timesteps 3"),
    ({"lcm_guide_scales": [2.0, 4.0]}, "set lcm_variant paper"),
    ({"lcm_guide_scales": [4.0, 2.0], "lcm_variant": "paper"}, "must not be above the second"),
]


@pytest.mark.parametrize(("changes", "words"), TRAINING_MISTAKES, ids=itertools.count())
def test_mistakes_are_refused_before_anything_is_loaded(tiny, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        tasks.engine(distillation(tiny, tmp_path, "t2v", **changes)).check()


@pytest.mark.parametrize(("changes", "words"), [
    ({"num_inference_steps": 11}, "num_inference_steps 11 is more than ddim_timesteps 10"),
    ({"lcm_variant": "paper", "lcm_guide_scales": [4.0, 9.0]}, "guide_scale 3.0 is outside"),
])
def test_sampling_refuses_what_was_not_distilled(tiny, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        tasks.engine(few_steps(tiny, tmp_path, "t2v", ["a"], **changes)).check()


def test_a_network_without_input_for_the_guidance_is_refused(tiny, tmp_path, monkeypatch):
    engine = tasks.engine(distillation(tiny, tmp_path, "t2v", lcm_variant="paper"))
    monkeypatch.setitem(engine.cfg.UNet, "type", "deaf_for_test")
    monkeypatch.setitem(tasks.MODEL._entries, "deaf_for_test", torch.nn.Identity)
    with pytest.raises(UserError, match="deaf_for_test has no input for the guidance"):
        engine.check()

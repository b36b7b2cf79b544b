"""The app with the real methods, on tiny networks: LoRA, refinement, few steps, conditions, adapters."""
import functools
import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.engines import tiny as tasks
from tests.goldens.reader import fill_module
from tools import checkpoint
from tools.catalogue import CLIP, Settings
from tools.datasets.procedural import ProceduralVideoDataset
from tools.engines.sample import Sampling
from tools.errors import UserError
from tools.media import probe_video, read_frames, to_uint8, write_video
from tools.models.dreamvideo import is_adapter
from tools.registry import MODEL
from tools.studio import Studio

STAR = Settings("a red star", None, 3, 2.0, 1)
COMPOSITIONS = ["text", "mask", "depthmap", "motion", "canny", "image", "local_image", "histogram"]

pytestmark = pytest.mark.usefixtures("own_logging")


def ignore(*_arguments):
    pass


def changed(settings: Settings, **changes) -> Settings:
    return Settings(**{**vars(settings), **changes})


def sidecar(video: Path) -> dict:
    return json.loads(video.with_suffix(".json").read_text())


@pytest.fixture
def app(tiny, tmp_path):
    """A studio of text to video with few steps and refinement, and the name of that configuration."""
    configs = tmp_path / "configs"
    configs.mkdir()
    few = tiny.sampling(configs, "t2v", ["a"], "few.yaml", TASK_TYPE="inference_lcm_entrance", ddim_timesteps=10,
                        lcm_task="inference_text2video_entrance", log_dir=str(tmp_path / "few"))
    refine = tiny.sampling(configs, "sr", ["a"], "refine.yaml", sr_steps=1, log_dir=str(tmp_path / "refined"))
    name = tiny.sampling(configs, "t2v", ["a"], "t2v.yaml", few_steps_cfg=few, refine_cfg=refine,
                         log_dir=str(tmp_path / "out"))
    return Studio(str(configs)), name


def lora_file(path: Path, base: Path, more: int = 0) -> str:
    """A LoRA of one projection of a network with the weights `base`, or of one that is wider by `more`."""
    name, weight = next(pair for pair in checkpoint.load_state(base).items() if pair[0].endswith("attn1.to_q.weight"))
    layer, width = name.removesuffix(".weight"), weight.shape[1] + more
    generator = torch.Generator().manual_seed(1)
    checkpoint.save_file({f"{layer}_lora.down_linear.weight": torch.randn(2, width, generator=generator),
                          f"{layer}_lora.up_linear.weight": torch.randn(len(weight), 2, generator=generator)}, path)
    return str(path)


def test_a_lora_changes_the_video_by_its_strength_and_one_of_another_base_costs_nothing(tiny, app, tmp_path):
    studio, name = app
    base = tiny.weights("t2v")
    fits, other = lora_file(tmp_path / "fits.safetensors", base), lora_file(tmp_path / "other.pth", base, more=8)

    def make(loras):
        return studio.make(name, changed(STAR, loras=loras), ignore)[0]

    plain, full, none = make({}), make({fits: 1.0}), make({fits: 0.0})
    assert none.read_bytes() == plain.read_bytes() != full.read_bytes()
    assert sidecar(full)["weights"]["lora_0"]["sha256"] == checkpoint.digest(fits)
    with pytest.raises(UserError, match=r"other\.pth'.*belongs to another base") as refused:
        make({other: 1.0})
    assert "\n" not in str(refused.value)
    assert make({}).read_bytes() == plain.read_bytes()


def test_few_steps_and_refinement_are_what_inference_makes(app, tmp_path):
    studio, name = app
    base, refined = studio.make(name, changed(STAR, few_steps=2, refine=True), ignore)
    few, refine = studio.few_steps(name), studio.refinement(name)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red star|3\n")
    alone = tasks.run(few, "test_list_path", prompts, "num_inference_steps", 2, "log_dir", tmp_path / "alone")
    again = tasks.run(refine, "test_list_path", prompts, "refine_dir", alone, "seed", 3).parent / alone.name
    assert (alone / base.name).read_bytes() == base.read_bytes()
    assert (again / refined.name).read_bytes() == refined.read_bytes()
    assert [probe_video(path).width for path in (base, refined)] == [tasks.SIDE, 2 * tasks.SIDE]


def test_the_first_networks_are_gone_before_those_of_the_refinement_are_built(app, monkeypatch):
    studio, name = app
    models, alive = [], []
    classes = [studio.method(name), studio.method(studio.refinement(name))]
    builds = [cls.build for cls in classes]

    def watched(self):
        alive.append([model() is not None for model in models])
        builds[classes.index(type(self))](self)
        models.extend(weakref.ref(part) for part in (self.model, self.autoencoder, self.embedder))

    for cls in classes:
        monkeypatch.setattr(cls, "build", watched)
    gc.disable()
    try:
        studio.make(name, changed(STAR, refine=True), ignore)
    finally:
        gc.enable()
    assert alive == [[], [False] * 3]


def test_missing_weights_of_the_refinement_are_named_before_the_video_is_made(app, tmp_path):
    studio, name = app
    studio.config(studio.refinement(name)).test_model = "gone.pth"
    with pytest.raises(UserError, match=r"gone\.pth"):
        studio.make(name, changed(STAR, refine=True), ignore)
    assert list((tmp_path / "out/gradio").iterdir()) == []


# Conditions of other videos.

@pytest.fixture
def composer(tiny, tmp_path, monkeypatch):
    """A studio of the compositional model, and the name of its configuration; the list's clip is in `clips`."""
    monkeypatch.chdir(tmp_path)
    unet = {"type": "UNetSD_TFT2V", **tasks.UNET}
    weights = tmp_path / "composer.safetensors"
    network = MODEL.build({**unet, "config": {"video_compositions": COMPOSITIONS}})
    checkpoint.save_file(fill_module(network).state_dict(), weights)
    video = ProceduralVideoDataset(resolution=(40, 32), max_frames=6)[0]["video"]
    write_video(tmp_path / "clips/a.mp4", to_uint8(video, (0.5,) * 3, (0.5,) * 3), 8)
    configs = tmp_path / "configs"
    configs.mkdir()
    tiny.sampling(configs, "t2v", ["a.mp4|||a red star"], "composer.yaml", UNet=unet, video_compositions=COMPOSITIONS,
                  TASK_TYPE="inference_tft2v_vcomposer_entrance", test_model=str(weights), data_dir="clips",
                  partial_keys=[["y", "canny"], ["y", "depth"]], log_dir="out")
    return Studio("configs"), "configs/composer.yaml"


def test_conditions_are_chosen_of_what_the_network_knows_and_the_video_is_inferences(composer):
    studio, name = composer
    [control] = studio.controls(name)
    assert studio.starts_from(name) == CLIP
    assert control.options(studio.config(name)) == ("y", "image", "histogram", "depth", "motion", "canny", "masked",
                                                    "local_image")
    first = studio.defaults(name)
    assert (first.source, first.more) == ("clips/a.mp4", {"partial_keys": ["y", "canny"]})
    sets = (["y", "canny"], ["masked", "image", "histogram", "local_image"])
    videos = [studio.make(name, changed(first, steps=1, more={"partial_keys": keys}), ignore)[0] for keys in sets]
    assert [sidecar(video)["config"]["partial_keys"] for video in videos] == [
        [["y", "canny"]], [["image", "histogram", "masked", "local_image"]]]
    alone = tasks.run(name, "partial_keys", "[[y, canny]]", "ddim_timesteps", 1, "log_dir", "alone")
    assert (alone / videos[0].name).read_bytes() == videos[0].read_bytes()


def test_a_preview_shows_what_the_video_will_be_told_and_builds_no_network(composer, monkeypatch):
    studio, name = composer
    monkeypatch.setattr(studio.method(name), "build", lambda self: pytest.fail("built"))
    keys = ["y", "image", "canny", "motion", "masked", "histogram", "local_image"]
    settings = changed(studio.defaults(name), prompt="", more={"partial_keys": keys})
    preview = functools.partial(studio.preview, name)
    path = preview(settings)
    info = probe_video(path)
    assert info.frames == tasks.FRAMES and info.width > 3 * 160 and info.height > 3 * 160  # the clip and six conditions
    same, other = preview(settings), preview(changed(settings, seed=9))
    frames = [read_frames(video, range(info.frames)) for video in (path, same, other)]
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])  # another mask, other frames


def test_conditions_are_drawn_by_the_draws_of_their_video(composer):
    """The mask of a preview is the mask that the network is told."""
    _, name = composer
    engine = tasks.engine(name, "partial_keys", "[[masked, canny]]")
    request = Sampling(engine).requests()[0]
    drawn = engine.draw_conditions(request)
    batch = engine.request([request.item], [request.generator()])
    told = batch["masked"][0].transpose(0, 1)
    assert np.array_equal(drawn["masked"], ((told[:, :3] * 0.5 + 0.5) * 255).round().byte().permute(0, 2, 3, 1).numpy())
    assert np.array_equal(drawn["canny"][..., 0] > 0, batch["canny"][0, 0].numpy() > 0)


@pytest.mark.parametrize(("changes", "message"), [
    ({"more": {"partial_keys": ["y", "depth"]}}, r"models/midas_v3_dpt_large\.pth"),
    ({"more": {"partial_keys": []}}, "no condition is chosen; there are: y, image"),
    ({"source": None}, "a video or a picture is needed"),
    ({"source": "clips/still.png", "more": {"partial_keys": ["motion"]}}, "cannot be read off the picture"),
])
def test_conditions_that_cannot_be_read_are_named_in_one_line(tiny, composer, changes, message):
    studio, name = composer
    tiny.picture(Path("clips"), "still.png")
    for ask in (studio.preview, functools.partial(studio.make, progress=ignore)):
        with pytest.raises(UserError, match=message) as refused:
            ask(name, changed(studio.defaults(name), **changes))
        assert "\n" not in str(refused.value)
    assert not list(Path("out").glob("gradio/*"))


# Adapters.

@pytest.fixture
def customised(tiny, tmp_path):
    """A studio of DreamVideo with a motion whose training has written steps 100 and 200, and its configuration."""
    unet = tasks.UNET | {"type": "UNetSD_DreamVideo", "temporal_adapter_list": ["self_attention"]}
    shared = tiny.shared("t2v") | {"UNet": unet, "log_dir": str(tmp_path / "runs")}
    for step in (100, 200):
        torch.manual_seed(step)
        network = MODEL.build(unet)
        state = {key: torch.randn_like(value) for key, value in network.state_dict().items() if is_adapter(key)}
        checkpoint.save_file(state, tmp_path / f"runs/motion/checkpoints/adapter_{step:08d}.pth")
    training = tasks.write_yaml(tmp_path / "motion.yaml", shared | {"TASK_TYPE": "train_dreamvideo_entrance"})
    configs = tmp_path / "configs"
    configs.mkdir()
    (tmp_path / "prompts.txt").write_text("a red star\n")
    (configs / "dreamvideo.yaml").write_text(yaml.safe_dump({
        "TASK_TYPE": "inference_dreamvideo_entrance", "base_model": str(tiny.weights("t2v")), "motion_cfg": training,
        "motion_adapter_index": 200, "test_list_path": str(tmp_path / "prompts.txt"), "guide_scale": 2.0,
        "log_dir": str(tmp_path / "out")}))
    return Studio(str(configs)), str(configs / "dreamvideo.yaml")


def test_adapters_are_picked_by_step_or_file_and_scaled(customised, tmp_path):
    studio, name = customised
    controls = {control.key: control for control in studio.controls(name)}
    assert list(controls) == ["motion_adapter_index", "motion_adapter_path", "motion_adapter_scale",
                              "motion_adapter_from"]
    cfg = studio.config(name)
    assert controls["motion_adapter_index"].options(cfg) == ("100", "200")
    assert studio.defaults(name).more == {"motion_adapter_index": "200", "motion_adapter_path": None,
                                          "motion_adapter_scale": 1.0, "motion_adapter_from": 0.0}
    mine = tmp_path / "mine.pth"
    mine.write_bytes((tmp_path / "runs/motion/checkpoints/adapter_00000100.pth").read_bytes())
    builds, build = [], studio.method(name).build

    def counted(self):
        builds.append(self.cfg.motion_adapter_index)
        build(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studio.method(name), "build", counted)
        configured, step, file, weak, back = (
            studio.make(name, changed(STAR, more=more), ignore)[0]
            for more in ({}, {"motion_adapter_index": "100"}, {"motion_adapter_path": str(mine)},
                         {"motion_adapter_path": str(mine), "motion_adapter_scale": 0.5}, {}))
    assert builds == [200, 100, None, 200]  # strength alone builds nothing
    assert step.read_bytes() == file.read_bytes()
    assert len({video.read_bytes() for video in (configured, step, weak)}) == 3
    assert configured.read_bytes() == back.read_bytes()
    assert sidecar(file)["weights"]["motion_adapter"]["path"].endswith("mine.pth")

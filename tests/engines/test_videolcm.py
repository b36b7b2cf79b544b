"""VideoLCM's own tasks: the original's process, and composed conditions in a few steps."""
import pytest
import torch

from tests.engines import tiny as tasks
from tests.goldens.reader import fill_module
from tools import checkpoint, runtime
from tools.engines.train import Trainer
from tools.media import write_video
from tools.registry import MODEL

COMPOSED = {
    "video_compositions": ["text", "depthmap", "canny"], "conditions_from": "truth", "ddim_timesteps": 10,
    "partial_keys": [["y", "depth"], ["y", "canny"]], "use_fps_condition": False,
    "UNet": tasks.UNET | {"type": "UNetSD_VideoLCM", "p_all_zero": 1.0, "p_all_keep": 0.0},
}

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def weights(tiny, tmp_path_factory):
    """File of a filled compositional network."""
    config = {"video_compositions": COMPOSED["video_compositions"]}
    path = tmp_path_factory.mktemp("composed") / "composed.safetensors"
    checkpoint.save_file(fill_module(MODEL.build(COMPOSED["UNet"] | {"config": config})).state_dict(), path)
    return path


@pytest.mark.parametrize(("mode", "changes", "last"), [
    ("training", {}, False), ("training", {"zero_terminal_snr": True}, True),
    ("sampling", {}, True), ("sampling", {"zero_terminal_snr": False}, False)])
def test_the_process_is_the_originals_whatever_the_yaml_says_of_another(tiny, tmp_path, mode, changes, last):
    task = {"training": "train_videolcm_t2v_entrance", "sampling": "inference_videolcm_entrance"}[mode]
    changes |= {"TASK_TYPE": task, "Diffusion": {"schedule": "cosine", "mean_type": "eps"}}
    file = tiny.training(tmp_path, "t2v", **changes) if mode == "training" \
        else tiny.sampling(tmp_path, "t2v", ["a"], **changes)
    process = tasks.engine(file).process()
    assert process.mean_type == "v"
    assert process.alpha_bar(0) == pytest.approx(1 - 0.00085)
    assert (process.alpha_bar(999) == 0) == last


def test_student_teacher_and_target_are_told_the_same_set_of_conditions(tiny, tmp_path, weights):
    file = tiny.training(tmp_path, "t2v", **COMPOSED, TASK_TYPE="train_videolcm_vcomposer_entrance", Pretrain={
        "type": "pretrain_specific_strategies", "resume_checkpoint": str(weights), "sd_keys_path": None})
    engine = tasks.engine(file)
    runtime.seed_everything(1)
    engine.check()
    engine.build()
    trainer = Trainer(engine)
    trainer.wrap()
    told = []
    for network in (trainer.model, engine.teacher, engine.target):
        network.register_forward_pre_hook(lambda _, args, kwargs: told.append(kwargs), with_kwargs=True)
    data, sets = trainer.read_batches(), []
    for _ in range(4):
        told.clear()
        trainer.update(data)
        maps = [{key: kwargs[key] for key in ("depth", "canny") if key in kwargs} for kwargs in told]
        assert all(len(one) == 1 and one.keys() == maps[0].keys() for one in maps)
        sets.append(next(iter(maps[0])))
    assert set(sets) == {"depth", "canny"}
    x, t = torch.randn(2, 4, tasks.FRAMES, 4, 4), torch.tensor([500, 500])
    with torch.no_grad():
        heard = [engine.target(x, t, y=told[0]["y"], **{sets[-1]: scale * maps[0][sets[-1]]}) for scale in (1, 0)]
    assert (heard[0] - heard[1]).abs().max() > 1e-4, "dropped by the network itself"


def test_a_video_for_every_set_of_conditions_in_a_few_steps(tiny, tmp_path, weights):
    write_video(tmp_path / "clip.mp4", torch.randint(0, 255, (9, 32, 32, 3)).to(torch.uint8).numpy(), 8)
    changes = COMPOSED | {"conditions_from": "annotators", "partial_keys": [["y"], ["y", "canny"]]}
    file = tiny.sampling(tmp_path, "t2v", ["clip.mp4|||a red star"], **changes, num_inference_steps=2,
                         data_dir=str(tmp_path), test_model=str(weights),
                         TASK_TYPE="inference_videolcm_vcomposer_entrance")
    names = sorted(path.name for path in tasks.run(file).glob("*.mp4"))
    assert names == ["rank_01_00_0000_condition_y_a_red_star.mp4", "rank_01_00_0000_condition_y_canny_a_red_star.mp4"]

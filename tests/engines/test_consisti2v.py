"""ConsistI2V by the original's own keys: sampling, long videos, training, bad input."""
import dataclasses
import json
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.engines import tiny as tasks
from tests.engines.consisti2v import FRAMES, SIDE, Small
from tests.engines.test_train import gradients_of, trainer_of
from tools import media, noise
from tools.errors import UserError
from tools.models.consisti2v.folder import save_unet

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Small(tmp_path_factory.mktemp("consisti2v"))


def built(cfg_file: str, *overrides):
    engine = tasks.engine(cfg_file, *overrides)
    engine.check()
    engine.build()
    return engine


def latents_of(engine, seed: int = 3) -> torch.Tensor:
    """Latents of the engine's first prompt."""
    generators = [torch.Generator().manual_seed(seed)]
    with torch.no_grad():
        return engine.sample_latents(engine.request(engine.items()[:1], generators), generators)


# Sampling.

def test_a_run_writes_what_the_original_writes(small, tmp_path):
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(yaml.safe_dump({"prompts": ["do: a / b", "da"], "seeds": [5, "random"], "n_prompts": ["da"],
                                       "path_to_first_frames": [str(small.picture)]}))
    file = small.sampling(tmp_path, {"num_videos_per_prompt": 2}, prompt=None, prompt_config=str(prompts),
                          output_name="i2v", format="gif", save_model=True)
    tasks.run_task(tasks.resolve(file))
    folder, = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("i2v-20")
    names = sorted(path.name for path in (folder / "sample").glob("*.gif"))
    assert names == ["0-1-do-a--b.gif", "0-2-do-a--b.gif", "1-1-da.gif", "1-2-da.gif"]
    with Image.open(folder / "sample.gif") as grid:
        assert grid.size == (4 * SIDE + 10, SIDE + 4) and grid.n_frames == FRAMES
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    sidecars = [json.loads(path.read_text()) for path in sorted((folder / "sample").glob("*.json"))]
    assert settings["prompt_kwargs"]["random_seeds"] == [sidecar["seed"] for sidecar in sidecars]
    assert settings["prompt_kwargs"]["random_seeds"][:2] == [5, 6]
    assert settings["sampling_kwargs"]["steps"] == settings["ddim_timesteps"] == 3
    again = built(small.sampling(tmp_path, pretrained_model_path=str(folder / "model")))
    torch.testing.assert_close(latents_of(again), latents_of(built(small.sampling(tmp_path))))


def test_the_video_starts_with_the_picture_and_follows_what_it_is_told(small, tmp_path):
    engine = built(small.sampling(tmp_path))
    reference = latents_of(engine)
    assert reference.shape == (1, 4, FRAMES, SIDE // 2, SIDE // 2)
    picture = engine.encode(engine.pixels(media.read_image(small.picture))[None], torch.Generator().manual_seed(3))
    torch.testing.assert_close(reference[:, :, :1], picture)
    for changes in ({"frame_stride": 1}, {"guide_scale": 2.0}, {"guide_scale_img": 2.0}, {"guide_rescale": 0.7},
                    {"eta": 1.0}, {"autoregress_steps": 1}):
        with mock.patch.dict(engine.cfg, changes):
            assert torch.equal(latents_of(engine), reference) == ("autoregress_steps" in changes), changes
    item, = engine.items()
    for changes in ({"caption": "da"}, {"negative": "da"}):
        with mock.patch.object(engine, "items", return_value=[dataclasses.replace(item, **changes)]):
            assert not torch.equal(latents_of(engine), reference), changes
    with mock.patch.dict(engine.cfg, {"noise_init": None}):
        assert not torch.equal(latents_of(engine), reference)


def test_original_keys_yield_to_ours_and_to_the_command_line(small, tmp_path):
    file = small.sampling(tmp_path, {"steps": 9}, guide_scale=2.0)
    engine = tasks.engine(file, "sampling_kwargs.steps", 4, "frame_stride", 5)
    cfg = engine.cfg
    assert (cfg.ddim_timesteps, cfg.guide_scale, cfg.frame_stride, cfg.max_frames) == (4, 2.0, 5, FRAMES)
    assert (cfg.resolution, cfg.scale, cfg.negative_prompt) == ([SIDE, SIDE], 2, "")
    assert cfg.Diffusion["noise_sampling_method"] == "pyoco_mixed" and cfg.Diffusion["steps_offset"] == 1


def test_prompts_made_together_are_those_made_alone(small, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{small.picture}|||do|7\n{small.picture}|||da|8\n")
    engine = built(small.sampling(tmp_path, prompt=None, test_list_path=str(listed)))
    draws = [lambda: torch.Generator().manual_seed(7), lambda: torch.Generator().manual_seed(8)]
    together = engine.generate(engine.items(), [draw() for draw in draws])
    for item, draw, video in zip(engine.items(), draws, together, strict=True):
        torch.testing.assert_close(engine.generate([item], [draw()])[0], video, rtol=1e-3, atol=1e-4)


def test_a_long_video_chains_clips_and_keeps_the_picture(small, tmp_path):
    engine = built(small.sampling(tmp_path, {"autoregress_steps": 3}))
    seen = []
    latents = engine.sample_latents(engine.request(engine.items(), [torch.Generator().manual_seed(3)]),
                                    [torch.Generator().manual_seed(3)], lambda *steps: seen.append(steps))
    assert latents.shape[2] == 3 * FRAMES - 2
    assert seen == [(step, 9) for step in range(1, 10)]
    one = built(small.sampling(tmp_path, {"autoregress_steps": 1}))
    first = one.sample_latents(one.request(one.items(), [torch.Generator().manual_seed(3)]),
                               [torch.Generator().manual_seed(3)])
    torch.testing.assert_close(latents[:, :, :FRAMES], first)
    firsts = []
    with mock.patch.object(engine, "conditions", lambda batch, training: firsts.append(batch["first_frame"]) or
                           type(engine).conditions(engine, batch, training)):
        latents = latents_of(engine)
    for chunk, start in enumerate(firsts):
        assert torch.equal(start, latents[:, :, chunk * (FRAMES - 1)][:, :, None])


def test_a_moving_camera_moves_the_reference_of_the_noise(small, tmp_path):
    still, moving = (built(small.sampling(tmp_path, frameinit={"camera_motion": motion}))
                     for motion in (None, "zoom_in"))
    clips = [engine.reference_latents(engine.request(engine.items(), [torch.Generator().manual_seed(3)]))
             for engine in (still, moving)]
    assert clips[0].shape == clips[1].shape
    assert torch.equal(clips[0][:, :, 0], clips[0][:, :, -1])
    assert (clips[1][:, :, 0] - clips[1][:, :, -1]).abs().max() > 0.01
    off = built(small.sampling(tmp_path, frameinit={"camera_motion": "zoom_in", "enable": False}))
    assert "moving" not in off.request(off.items(), [None])


def test_a_network_without_first_frame_makes_videos_of_text(small, tmp_path):
    text = {"unet_additional_kwargs": {"first_frame_condition_mode": "none"}, "path_to_first_frame": None}
    engine = built(small.sampling(tmp_path, frameinit={"enable": False}, **text))
    assert latents_of(engine).shape == (1, 4, FRAMES, SIDE // 2, SIDE // 2)
    with pytest.raises(UserError, match="noise_init FrameInit needs a picture"):
        latents_of(built(small.sampling(tmp_path, **text)))
    with pytest.raises(UserError, match="chains clips by their first frame"):
        built(small.sampling(tmp_path, {"autoregress_steps": 2}, **text))


def test_another_denoiser_replaces_the_folders(small, tmp_path):
    engine = built(small.sampling(tmp_path))
    with torch.no_grad():
        engine.model.conv_out.weight.mul_(2)
    save_unet(tmp_path / "unet", engine.model)
    replaced = built(small.sampling(tmp_path, unet_path=str(tmp_path / "unet")))
    torch.testing.assert_close(latents_of(replaced), latents_of(engine))


def test_frameinit_leads_the_noise_of_i2vgen(tiny, tmp_path):
    picture = tiny.picture(tmp_path, "p.png")
    file = tiny.sampling(tmp_path, "i2v", [f"{picture}|||a red star"])
    starts = {}
    for name, init in (("off", "null"), ("on", '{"type": "FrameInit", "noise_level": 300}'),
                       ("none", '{"type": "FrameInit", "filter_params": {"d_s": 0}}')):
        engine = tasks.engine(file, "noise_init", init)
        engine.build()
        batch = engine.request(engine.items(), [torch.Generator().manual_seed(1)])
        starts[name] = engine.start_noise(batch, [torch.Generator().manual_seed(2)])
    torch.testing.assert_close(starts["none"], starts["off"])
    still = batch["local_image"].mean(dim=(3, 4))
    distance = {name: (start.mean(dim=(3, 4)) - still).abs().mean() for name, start in starts.items()}
    assert distance["on"] < distance["off"]


def test_frameinit_without_a_picture_is_refused(tiny, tmp_path):
    engine = tasks.engine(tiny.sampling(tmp_path, "t2v", ["a red star"]), "noise_init", "{type: FrameInit}")
    engine.build()
    with pytest.raises(UserError, match="noise_init FrameInit needs a picture"):
        engine.generate(engine.items(), [None])


@pytest.mark.parametrize(("changes", "words"), [
    ({"path_to_first_frame": None}, "prompt 'do' has no first frame"),
    ({"path_to_first_frame": "absent.png"}, "no image file 'absent.png'"),
    ({"frameinit": {"filter_params": {"method": "gausian"}}}, "filter 'gausian' is unknown .did you mean 'gaussian'"),
    ({"frameinit": {"noise_level": 1000}}, "noise_level 1000 is no step"),
    ({"frameinit": {"camera_motion": "pan_up"}}, "camera_motion 'pan_up' is unknown"),
    ({"unet_additional_kwargs": {"noise_sampling_method": "pyoco"}}, "noise_sampling_method 'pyoco' is unknown"),
    ({"unet_additional_kwargs": {"n_temp_head": 4}}, "unknown key 'n_temp_head' .did you mean 'n_temp_heads'"),
    ({"sampling": {"step": 3}}, "sampling_kwargs: unknown key 'step' .did you mean 'steps'"),
    ({"sampling": {"width": 17}}, "height and width must be multiples of 2"),
    ({"sampling": {"frame_stride": 0}}, "sampling_kwargs.frame_stride must be an integer of at least 1, not 0"),
    ({"pretrained_model_path": "absent/folder/x"}, "no model folder 'absent/folder/x'"),
])
def test_bad_input_is_one_line(small, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        latents_of(built(small.sampling(tmp_path, **changes)))


# Training.

def test_a_killed_run_resumed_ends_with_the_weights_of_one_left_alone(small, tmp_path):
    alone = tasks.run(small.training(tmp_path), "log_dir", tmp_path / "alone")
    file = small.training(tmp_path)

    def die(self, step, values):
        if step == 3:
            raise KeyboardInterrupt

    with mock.patch("tools.engines.train.Metrics.write", die), pytest.raises(KeyboardInterrupt):
        tasks.run(file)
    folder = tasks.run(file, "resume", "true")
    for kind in ("non_ema", "ema"):
        assert tasks.same(tasks.weights(folder, 4, kind), tasks.weights(alone, 4, kind))
    assert not tasks.same(tasks.weights(alone, 4), tasks.weights(alone, 2))


@pytest.fixture
def same_draws():
    """Every sample gets the same noise at the same time, so that batches may be cut anywhere."""
    def randn(shape, **_):
        sample = torch.randn(4, *shape[2:], generator=torch.Generator().manual_seed(shape[2]))
        return sample.expand(shape)

    draws = {"device_randint": lambda low, high, shape, **_: torch.full(shape, 600), "device_randn": randn,
             "cpu_randn": lambda shape, **_: torch.zeros(shape)}
    with mock.patch.multiple(noise, **draws):
        yield


def test_accumulation_equals_the_large_batch(small, tmp_path, same_draws):
    drops = {"cfg_random_null_text_ratio": 0.0, "cfg_random_null_img_ratio": 0.0}
    large = small.training(tmp_path, "large.yaml", train_batch_size=4, **drops)
    few = small.training(tmp_path, "few.yaml", train_batch_size=1, gradient_accumulation_steps=4, **drops)
    expected, found = (gradients_of(trainer_of(file)) for file in (large, few))
    largest = max(float(gradient.abs().max()) for gradient in expected.values() if gradient is not None)
    compared = 0
    for name, gradient in expected.items():
        if gradient is not None:
            assert (found[name] - gradient).abs().max() < 1e-5 * largest, name
            compared += 1
    assert compared > 200


def test_listed_modules_train_and_others_stay(small, tmp_path):
    trainer = trainer_of(small.training(tmp_path, trainable_modules=["conv3ds.", "tempo_attns."]))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.update(trainer.read_batches())
    trainer.update(trainer.read_batches())
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("conv3ds." in name or "tempo_attns." in name for name in moved)
    with pytest.raises(UserError, match="no parameter's name contains 'temporal'"):
        trainer_of(small.training(tmp_path, trainable_modules=["temporal"]))


def test_training_reads_the_original_recipe(small, tmp_path):
    trainer = trainer_of(small.training(tmp_path, max_train_steps=-1, max_train_epoch=6, checkpointing_steps=-1,
                                        checkpointing_epochs=3, scale_lr=True, train_batch_size=1,
                                        gradient_accumulation_steps=2))
    cfg = trainer.cfg
    assert (cfg.num_steps, cfg.save_ckp_interval, cfg.lr) == (5, 3, 2e-3)
    assert (cfg.p_zero, cfg.p_local_image_zero, cfg.weight_decay, cfg.grad_clip) == (0.3, 0.3, 1e-2, 0.5)
    assert (cfg.decay_mode, cfg.warmup_steps, cfg.precision, cfg.ema_warmup) == ("none", 0, "fp32", "diffusers")
    group = trainer.optimizer.param_groups[0]
    assert (group["betas"], group["eps"], group["lr"]) == ((0.9, 0.999), 1e-8, 2e-3)


def test_cached_latents_keep_the_strides_of_their_clips(small, tmp_path):
    trainer = trainer_of(small.training(tmp_path, cache_latents=6, data={"sample_stride": [2, 5]}))
    batch = next(trainer.read_batches())
    assert "video" not in batch and set(batch["stride"].tolist()) <= {2, 3, 4, 5}
    told, _ = trainer.engine.conditions(batch, training=True)
    assert torch.equal(told["frame_stride"], batch["stride"])


def test_pairs_of_frames_train_the_spatial_layers(small, tmp_path):
    trainer = trainer_of(small.training(tmp_path, is_image=True, trainable_modules=None))
    assert not any("conv3ds" in name or "tempo_attns" in name for name, _ in trainer.model.named_parameters())
    values, batch = trainer.update(trainer.read_batches())
    assert batch["video"].shape[1] == 2 and torch.isfinite(values["loss"])


def test_any_dataset_trains_it(small, tmp_path):
    file = small.training(tmp_path, vid_dataset={"type": "ProceduralVideoDataset", "resolution": [SIDE, SIDE]})
    trainer = trainer_of(file)
    values, batch = trainer.update(trainer.read_batches())
    assert batch["caption"][0].startswith("a") and torch.isfinite(values["loss"])
    assert trainer.engine.frame_strides(batch).tolist() == [3, 3]
    with pytest.raises(UserError, match="a clip needs 2 or more"):
        built(file, "frame_lens", "[1]")


def test_previews_and_the_final_folder(small, tmp_path):
    missing = str(small.picture.with_suffix(".jpg"))
    folder = tasks.run(small.training(
        tmp_path, max_train_steps=1, save_model=True,
        validation_data={"prompts": ["do", "da"], "path_to_first_frames": [missing], "num_inference_steps": 2,
                         "ddim_eta": 0.0, "guidance_scale_txt": 7.5, "guidance_scale_img": 1.0, "frame_stride": 3,
                         "guidance_rescale": 0.0}))
    assert sorted(path.name for path in (folder / "samples" / "sample-0").iterdir()) == ["0.gif", "1.gif"]
    assert (folder / "samples" / "sample-0.gif").is_file()
    final = built(small.sampling(tmp_path, pretrained_model_path=str(folder / "final_checkpoint")))
    # Sampling the previews has put alphas beyond 1 back, which the next update would have done.
    trained = {key: value.clamp(0, 1) if key.endswith("alpha") else value
               for key, value in tasks.weights(folder, 0).items()}
    assert tasks.same(final.model.state_dict(), trained)
    assert (folder / "final_checkpoint" / "unet_ema" / "config.json").is_file()


def test_the_originals_checkpoint_goes_on_at_its_step(small, tmp_path):
    engine = built(small.training(tmp_path))
    with torch.no_grad():
        engine.model.conv_out.bias.fill_(0.25)
    save_unet(tmp_path / "checkpoint-7" / "unet", engine.model)
    going_on = built(small.training(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-7")))
    assert going_on.first_step == 7
    assert (going_on.model.conv_out.bias == 0.25).all()
    with pytest.raises(UserError, match="must be a folder checkpoint-N"):
        built(small.training(tmp_path, resume_from_checkpoint=str(tmp_path)))


def test_dropped_pictures_are_noised_at_the_clips_time(small, tmp_path):
    engine = built(small.training(tmp_path, cfg_random_null_img_ratio=1.0))
    latents = torch.randn(2, 4, FRAMES, 8, 8)
    told, _ = engine.conditions({"caption": ["do", "da"], "latents": latents}, training=True)
    seen = []
    with mock.patch.object(engine.diffusion, "loss",
                           lambda x0, t, model, kwargs, noise: seen.append((t, kwargs, noise)) or torch.zeros(2)), \
            mock.patch.object(engine.diffusion, "sample_noise", lambda x: torch.ones_like(x)):
        engine.loss(latents, told)
    (t, kwargs, behind), = seen
    expected = engine.diffusion.q_sample(latents[:, :, :1], t, torch.ones_like(latents[:, :, :1]))
    assert torch.equal(kwargs["first_frame_latents"], expected)
    assert np.array_equal(behind.shape, (2, 4, FRAMES - 1, 8, 8))

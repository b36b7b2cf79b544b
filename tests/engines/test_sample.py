"""The sampling loop: seeds, shares, names, sidecars, sizes."""
import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from tests.engines import tiny as tasks
from tools import checkpoint
from tools.engines.sample import Sampling
from tools.media import probe_video, read_frames

PROMPTS = ["a red star", "a blue circle|77", "a green square", "an orange triangle"]

pytestmark = pytest.mark.usefixtures("own_logging")


def sampling(cfg_file: str, *overrides, rank: int = 0, world_size: int = 1) -> Sampling:
    """The sampling loop of one of several ranks, not run."""
    engine = tasks.engine(cfg_file, *overrides)
    engine.runtime = mock.Mock(wraps=engine.runtime, rank=rank, world_size=world_size, device=engine.runtime.device)
    return Sampling(engine)


def videos(loop: Sampling) -> dict[str, torch.Tensor]:
    """Prompt -> pixels before they are written, made in the loop's batches."""
    loop.engine.build()
    requests, size, made = loop.requests(), loop.cfg.batch_size, {}
    for chosen in (requests[i:i + size] for i in range(0, len(requests), size)):
        pixels = loop.engine.generate([r.item for r in chosen], [r.generator() for r in chosen], lambda *_: None)
        made |= {r.item.caption: video for r, video in zip(chosen, pixels, strict=True)}
    return made


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    """The videos of the list, one at a time by one process."""
    return videos(sampling(tiny.sampling(tmp_path_factory.mktemp("alone"), "t2v", PROMPTS)))


def test_prompts_made_together_are_those_made_alone(tiny, tmp_path, alone):
    together = videos(sampling(tiny.sampling(tmp_path, "t2v", PROMPTS, batch_size=3)))
    assert together.keys() == alone.keys()
    assert all(close(together[prompt], alone[prompt]) for prompt in alone)
    assert not close(alone["a red star"], alone["a green square"])


def test_noise_of_the_steps_is_each_prompts_own(tiny, tmp_path):
    apart, together = (videos(sampling(tiny.sampling(tmp_path, "t2v", PROMPTS[:2], eta=1.0, batch_size=size)))
                       for size in (1, 2))
    assert all(close(together[prompt], apart[prompt]) for prompt in apart)


def test_ranks_share_the_list_and_make_the_same_videos(tiny, tmp_path, alone):
    file = tiny.sampling(tmp_path, "t2v", PROMPTS)
    shares = [videos(sampling(file, rank=rank, world_size=2)) for rank in range(2)]
    assert [list(share) for share in shares] == [["a red star", "a green square"],
                                                 ["a blue circle", "an orange triangle"]]
    assert all(close(video, alone[prompt]) for share in shares for prompt, video in share.items())


def test_a_prompt_with_its_own_seed_does_not_mind_its_place(tiny, tmp_path, alone):
    moved = videos(sampling(tiny.sampling(tmp_path, "t2v", ["# a comment", "", *PROMPTS[::-1]])))
    assert close(moved["a blue circle"], alone["a blue circle"])
    assert not close(moved["a red star"], alone["a red star"])


def test_guidance_in_one_forward_is_guidance_in_two(tiny, tmp_path, alone):
    apart = videos(sampling(tiny.sampling(tmp_path, "t2v", PROMPTS[:1], batched_guidance=False)))
    unguided = videos(sampling(tiny.sampling(tmp_path, "t2v", PROMPTS[:1], guide_scale=None)))
    assert close(apart["a red star"], alone["a red star"])
    assert not close(unguided["a red star"], alone["a red star"])


def test_out_of_memory_falls_back_to_two_forwards(tiny, tmp_path, alone, monkeypatch):
    loop = sampling(tiny.sampling(tmp_path, "t2v", PROMPTS[:1]))
    loop.engine.build()
    whole, tried = loop.engine.diffusion.ddim_sample_loop, []

    def full(**arguments):
        tried.append(arguments["batched_guidance"])
        if arguments["batched_guidance"]:
            raise torch.OutOfMemoryError
        return whole(**arguments)

    monkeypatch.setattr(loop.engine.diffusion, "ddim_sample_loop", full)
    request = loop.requests()[0]
    video = loop.engine.generate([request.item], [request.generator()])[0]
    assert tried == [True, False]
    assert close(video, alone["a red star"])


@pytest.mark.parametrize("method", ["t2v", "i2v"])
def test_a_sidecar_suffices_to_make_the_video_again(tiny, tmp_path, method):
    lines = ["a red star", "a blue circle"]
    if method == "i2v":
        lines = [f"{tiny.picture(tmp_path, f'{number}.x.png')}|||{line}" for number, line in enumerate(lines)]
    folder = tasks.run(tiny.sampling(tmp_path, method, lines), "round", 2)
    sidecar = json.loads(sorted(folder.glob("*.json"))[-1].read_text())
    item = sidecar["item"]
    line = f"{item['path']}|||{item['caption']}" if item["path"] else item["caption"]
    by_line = tasks.run(tiny.sampling(tmp_path, method, [f"{line}|{sidecar['seed']}"], "line.yaml"))
    by_key = tasks.run(tiny.sampling(tmp_path, method, [line], "key.yaml"), "seed", sidecar["seed"])
    video = sorted(folder.glob("*.mp4"))[-1].read_bytes()
    assert [path.read_bytes() == video for again in (by_line, by_key) for path in again.glob("*.mp4")] == [True, True]


def test_names_rounds_and_sidecars(tiny, tmp_path):
    file = tiny.sampling(tmp_path, "t2v", ["a red star, moving!", "# left out", "a blue circle|9"])
    folder = tasks.run(file, "round", 2)
    assert sorted(path.name for path in folder.glob("*.mp4")) == [
        "rank_01_00_0000_a_red_star_moving.mp4", "rank_01_00_0001_a_red_star_moving.mp4",
        "rank_01_00_0004_a_blue_circle.mp4", "rank_01_00_0005_a_blue_circle.mp4"]
    sidecars = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    assert [(s["prompt"], s["index"], s["seed"]) for s in sidecars] == [
        ("a red star, moving!", 0, 5), ("a red star, moving!", 1, 6), ("a blue circle", 4, 9), ("a blue circle", 5, 10)]
    assert {role: entry["sha256"] for role, entry in sidecars[0]["weights"].items()} == {
        role: checkpoint.digest(tiny.weights(name))
        for role, name in (("UNet", "t2v"), ("auto_encoder", "autoencoder"), ("embedder", "clip"))}
    assert (sidecars[0]["config"]["round"], sidecars[0]["config"]["UNet"]["dim"]) == (2, 32)
    assert (folder / "log_00.txt").exists()
    info = probe_video(sorted(folder.glob("*.mp4"))[0])
    assert (info.frames, info.width, info.height, info.fps) == (tasks.FRAMES, tasks.SIDE, tasks.SIDE, 8)


def test_resume_makes_only_what_is_missing(tiny, tmp_path):
    file = tiny.sampling(tmp_path, "t2v", PROMPTS[:3])
    folder = tasks.run(file)
    names = sorted(path.name for path in folder.glob("*.mp4"))
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.mp4")}
    lost = folder / names[1]
    lost.with_suffix(".json").unlink()
    tasks.run(file, "resume", "true")
    changed = [path for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert changed == [lost]
    assert lost.with_suffix(".json").exists()


def test_one_stream_for_the_whole_list_on_request(tiny, tmp_path):
    file = tiny.sampling(tmp_path, "t2v", ["a red star", "a red star"], seeding="sequential")
    folder = tasks.run(file)
    first, second = (read_frames(path, [0]) for path in sorted(folder.glob("*.mp4")))
    assert not np.array_equal(first, second)
    assert json.loads(sorted(folder.glob("*.json"))[0].read_text())["seed"] is None
    torch.manual_seed(5)
    expected = torch.randn(1, 4, tasks.FRAMES, 4, 4)
    seen = []
    engine = tasks.engine(file)
    engine.denoise = lambda start, *_: seen.append(start) or start
    Sampling(engine).run()
    assert torch.equal(seen[0], expected)


def test_one_frame_becomes_a_picture(tiny, tmp_path):
    folder = tasks.run(tiny.sampling(tmp_path, "t2v", PROMPTS[:1], max_frames=1))
    assert sorted(path.name for path in folder.glob("rank*")) == ["rank_01_00_0000_a_red_star.json",
                                                                 "rank_01_00_0000_a_red_star.mp4.png"]


@pytest.mark.parametrize("method", ["t2v", "i2v"])
def test_any_multiple_of_8_is_a_size(tiny, tmp_path, method):
    lines = PROMPTS[:1] if method == "t2v" else [f"{tiny.picture(tmp_path, 'p.png')}|||a red star"]
    folder = tasks.run(tiny.sampling(tmp_path, method, lines, resolution=[72, 24], max_frames=5))
    info = probe_video(next(folder.glob("*.mp4")))
    assert (info.width, info.height, info.frames) == (72, 24, 5)


def test_progress_counts_every_step(tiny, tmp_path):
    loop, seen = sampling(tiny.sampling(tmp_path, "t2v", PROMPTS[:1])), []
    loop.engine.build()
    loop.make(loop.requests(), lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_network_is_compiled_on_request(tiny, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    engine = tasks.engine(tiny.sampling(tmp_path, "t2v", PROMPTS[:1], compile=True))
    engine.build()
    assert compiled == [engine.model]


def test_an_interrupted_video_leaves_no_file(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("tools.media._encode", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tasks.run(tiny.sampling(tmp_path, "t2v", PROMPTS[:1]))
    assert [path.name for path in Path(tmp_path / "runs" / "sample_list").iterdir()] == ["log_00.txt"]

"""`python -m tools.metrics` beyond the small world: measures, lists, JSON, and how it ends on bad input."""
import json

import numpy as np
import pytest
import torch

from tests.goldens.reader import fill_module
from tests.metrics.test_similarity import TINY_DINO, write_clip
from tests.numbered import write_coded
from tools.cli import run_main
from tools.errors import UserError
from tools.media import probe_video, read_frames, write_png, write_video
from tools.metrics.__main__ import main
from tools.metrics.dino import DinoViT
from tools.metrics.fidelity import psnr, ssim
from tools.metrics.steadiness import measure
from tools.world.draw import render
from tools.world.scene import sample_truth
from tools.world.vocabulary import caption_of

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture
def folder(tmp_path):
    """Two clips of the small world with sidecars that name their first frames."""
    for number in range(2):
        truth = sample_truth(11, number)
        clip = render(truth, 6, (48, 32))
        write_video(tmp_path / "videos" / f"{number}.mp4", clip, 8)
        picture = write_png(tmp_path / f"{number}.png", clip[0])
        (tmp_path / "videos" / f"{number}.json").write_text(
            json.dumps({"prompt": caption_of(truth), "item": {"path": str(picture)}}))
    return tmp_path


def run(folder, *options) -> dict:
    main([str(folder / "videos"), "--json", str(folder / "report.json"), *map(str, options)])
    return json.loads((folder / "report.json").read_text())


def frames_of(folder, number: int) -> np.ndarray:
    path = folder / "videos" / f"{number}.mp4"
    return read_frames(path, range(probe_video(path).frames))


def test_motion_and_first_frame(folder, capsys):
    report = run(folder, "--measures", "motion,first_frame")
    for number, video in enumerate(report["videos"]):
        found, frames = measure(frames_of(folder, number)), frames_of(folder, number)
        assert video["file"].endswith(f"{number}.mp4") and video["flicker"] == found.flicker
        assert video["motion"] == found.motion and video["dynamic"] == float(found.dynamic)
        assert video["first_frame_psnr"] > 25 and video["first_frame_ssim"] <= 1
        assert frames.shape == (6, 32, 48, 3)
    mean = report["means"]["motion"]
    assert mean["mean"] == pytest.approx(np.mean([video["motion"] for video in report["videos"]]))
    assert mean["least"] <= mean["mean"] <= mean["most"] and mean["videos"] == 2
    table = capsys.readouterr().out
    assert f"{mean['mean']:.4f}" in table and "first_frame_ssim" in table


def test_the_small_world_and_figures_side_by_side(folder):
    report = run(folder, "--measures", "world,motion")
    assert report["accuracies"]["clips"] == 2 and set(report["means"]) == {"change", "flicker", "motion", "dynamic"}
    assert {"caption", "seen", "right", "motion"} <= set(report["videos"][0])


def test_fidelity_compares_by_name(folder, capsys):
    truth = render(sample_truth(11, 0), 6, (48, 32))
    write_video(folder / "truth" / "0.mp4", truth // 2, 8)
    report = run(folder, "--measures", "fidelity", "--reference", folder / "truth")
    [video] = report["videos"]
    other = read_frames(folder / "truth" / "0.mp4", range(6))
    assert video["psnr"] == psnr(frames_of(folder, 0), other) and video["ssim"] == ssim(frames_of(folder, 0), other)
    assert report["skipped"] == 1 and "no video file" in capsys.readouterr().err
    same = run(folder, "--measures", "fidelity", "--reference", folder / "videos")
    assert same["videos"][0]["psnr"] is None and same["means"]["ssim"]["mean"] == pytest.approx(1)


def test_dreamvideo_with_references_and_motion_beside_consistency(folder):
    clip, arch = write_clip(folder)
    torch.save(fill_module(DinoViT(**TINY_DINO)).state_dict(), folder / "dino.pth")
    (folder / "list.txt").write_text(f"any/0.mp4|||{folder}|||a red star\n1.mp4||||||a blue circle\n")
    report = run(folder, "--measures", "dreamvideo", "--prompts", folder / "list.txt", "--clip", clip, "--clip-arch",
                 arch, "--dino", folder / "dino.pth")
    first, second = report["videos"]
    assert {"clip_t", "clip_i", "dino_i", "temporal_consistency", "dynamic"} <= set(first)
    assert "clip_i" not in second and report["means"]["clip_i"]["videos"] == 1
    assert all(-1 <= first[name] <= 1.0001 for name in ("clip_t", "clip_i", "dino_i", "temporal_consistency"))


def test_dreamvideo_takes_prompts_of_sidecars_and_then_needs_no_dino(folder):
    clip, arch = write_clip(folder)
    report = run(folder, "--measures", "dreamvideo", "--clip", clip, "--clip-arch", arch, "--dino", "gone.pth")
    assert report["means"]["clip_t"]["videos"] == 2 and "dino_i" not in report["means"]


def test_a_damaged_video_and_a_single_frame_are_reported_and_left_out(folder, capsys):
    (folder / "videos" / "damaged.mp4").write_bytes(b"no video")
    write_coded(folder / "videos" / "still.mp4", frames_of(folder, 0)[:1], format="mp4")
    report = run(folder, "--measures", "motion")
    errors = capsys.readouterr().err
    assert report["skipped"] == 2 and "damaged.mp4" in errors and "still.mp4': one frame neither moves" in errors


@pytest.mark.parametrize(("options", "message"), [
    (["--measures", "motion,fid"], "no measure 'fid'; there are: world, motion"),
    (["--measures", "fidelity"], "fidelity needs --reference"),
    (["--measures", "fidelity", "--reference", "nowhere"], "no folder 'nowhere'"),
    (["--measures", "dreamvideo", "--clip", "gone.bin"], "weights 'gone.bin' are not there"),
    (["--measures", "dreamvideo", "--prompts", "{folder}/two.txt"], "line 1: expected video|||folder"),
    (["--measures", "first_frame", "--pictures", "{folder}/pictures.txt"], "none of the 2 videos"),
])
def test_bad_input_ends_with_one_line(folder, options, message, capsys):
    (folder / "two.txt").write_text("0.mp4|||a red star\n")
    (folder / "pictures.txt").write_text("0.mp4|||none.png\n")
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: run(folder, *[option.format(folder=folder) for option in options]))
    assert ended.value.code == 2 and not (folder / "report.json").exists()
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_of_references_without_pictures_is_named(folder, capsys):
    clip, arch = write_clip(folder)
    torch.save(fill_module(DinoViT(**TINY_DINO)).state_dict(), folder / "dino.pth")
    (folder / "list.txt").write_text(f"0.mp4|||{folder}/videos|||a\n1.mp4|||{folder}/gone|||b\n")
    with pytest.raises(UserError, match="none of the 2 videos"):
        run(folder, "--measures", "dreamvideo", "--prompts", folder / "list.txt", "--clip", clip, "--clip-arch", arch,
            "--dino", folder / "dino.pth")
    errors = capsys.readouterr().err
    assert "no picture in folder" in errors and "no folder" in errors

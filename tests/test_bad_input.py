"""Bad input ends with exit code 2, one clear line, and nothing written."""
import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import inference
import train_net
from tools import checkpoint
from tools.cli import run_main

ROOT = Path(__file__).parents[1]
PROMPTS = ["a red star"]

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Run an entry script and return its one line; every file is as it was."""

    def run(script, cfg_file: str, *overrides) -> str:
        before = listing(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", "--cfg", str(cfg_file), *map(str, overrides)])
        with pytest.raises(SystemExit) as ended:
            run_main(script.main)
        assert ended.value.code == 2
        assert listing(tmp_path) == before
        return one_line(capsys.readouterr().err)

    return run


def listing(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def one_line(stderr: str) -> str:
    """The line of the error, which is the last one and no traceback."""
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert lines == stderr.rstrip().splitlines()[-1:], stderr
    assert "Traceback" not in stderr
    return lines[0]


def contains(line: str, *words: str) -> bool:
    missing = [word for word in words if word not in line]
    assert not missing, f"{missing} not in {line}"
    return True


@pytest.mark.parametrize(("overrides", "words"), [
    (["sed", "7"], ["command line", "unknown key 'sed'", "did you mean 'seed'"]),
    (["UNet.dimm", "7"], ["unknown key 'UNet.dimm'", "did you mean 'dim'"]),
    (["Unet.dim", "7"], ["unknown key 'Unet'", "did you mean 'UNet'"]),
    (["seed", "soon"], ["'seed' must be an integer", "'soon'"]),
    (["round", "[1, 2]"], ["'round' must be an integer"]),
    (["guide_scale", "high"], ["'guide_scale' must be a number or null"]),
    (["UNet.dim", "wide"], ["'UNet.dim' is 32", "'wide' has another type"]),
    (["seed", "1", "round"], ["override 'round' has no value"]),
    (["UNet.type", "UNetSD_T2VBas"], ["MODEL: no component 'UNetSD_T2VBas'", "did you mean 'UNetSD_T2VBase'"]),
    (["TASK_TYPE", "inference_text2vid_entrance"], ["ENGINE", "did you mean 'inference_text2video_entrance'"]),
    (["resolution", "[36, 32]"], ["resolution [36, 32]", "multiple of 8", "[32, 32]"]),
    (["max_frames", "0"], ["'max_frames' must be an integer of at least 1, not 0"]),
    (["test_list_path", "nowhere.txt"], ["no list file 'nowhere.txt'"]),
    (["test_model", "models/nowhere.pth"], ["models/nowhere.pth", "looked for"]),
    (["test_model", "null"], ["test_model is not set"]),
    (["auto_encoder.pretrained", "nowhere.ckpt"], ["nowhere.ckpt"]),
    (["embedder.pretrained", "nowhere.bin"], ["nowhere.bin"]),
    (["embedder.arch", "nowhere.json"], ["nowhere.json"]),
    (["device", "gpu"], ["device: 'gpu'"]),
    (["seed", str(2**63)], ["seed", "too large"]),
], ids=lambda value: "-".join(value) if value and value[0].isidentifier() else "")
def test_sampling_refuses(tiny, tmp_path, refused, overrides, words):
    assert contains(refused(inference, tiny.sampling(tmp_path, "t2v", PROMPTS), *overrides), *words)


@pytest.mark.parametrize(("changes", "words"), [
    ({"sed": 7}, ["sample.yaml: unknown key 'sed'", "did you mean 'seed'"]),
    ({"UNet": {"type": "UNetSD_T2VBase", "dimm": 3}}, ["sample.yaml", "UNetSD_T2VBase: unknown key 'dimm'"]),
    ({"UNet": {"type": "UNetSD"}}, ["MODEL: no component 'UNetSD'"]),
    ({"seed": "x"}, ["sample.yaml: 'seed' must be an integer"]),
    ({"max_frames": 0}, ["'max_frames' must be an integer of at least 1"]),
    ({"_BASE": "nowhere.yaml"}, ["_BASE names 'nowhere.yaml', which does not exist"]),
])
def test_a_file_with_a_mistake_is_refused(tiny, tmp_path, refused, changes, words):
    assert contains(refused(inference, tiny.sampling(tmp_path, "t2v", PROMPTS, **changes)), *words)


@pytest.mark.parametrize(("content", "words"), [
    ("", ["is empty"]),
    ("# only a comment\n\n", ["is empty"]),
    ("a red star\npicture.png|||a blue star\n", ["line 2", "a caption alone"]),
    ("a red star\n\na blue star|soon\n", ["line 3", "whole number as seed"]),
    (f"a red star|{2**64}\n", ["line 1", "too large"]),
    ("\xff\xfe", ["not UTF-8"]),
])
def test_wrong_lists_are_refused_with_the_line(tiny, tmp_path, refused, content, words):
    (tmp_path / "list.txt").write_bytes(content.encode("latin-1"))
    file = tiny.sampling(tmp_path, "t2v", PROMPTS, test_list_path=str(tmp_path / "list.txt"))
    assert contains(refused(inference, file), "list.txt", *words)


def test_pictures_are_looked_at_before_anything_is_loaded(tiny, tmp_path, refused):
    (tmp_path / "no.png").write_text("no picture")
    good = tiny.picture(tmp_path, "good.png")
    for lines, words in (([f"{good}|||a", f"{tmp_path / 'no.png'}|||b"], ["no.png"]),
                         ([f"{tmp_path / 'absent.png'}|||b"], ["absent.png"]),
                         (["a caption alone"], ["line 1", "path|||caption"])):
        assert contains(refused(inference, tiny.sampling(tmp_path, "i2v", lines, test_model="nowhere")), *words)


class RunsCode:
    """Pickles to something that creates a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_checkpoints_of_another_model_or_none_are_refused(tiny, tmp_path, refused):
    file = tiny.sampling(tmp_path, "t2v", PROMPTS)
    whole = tiny.weights("t2v").read_bytes()
    cut, evil, old, other = (tmp_path / name for name in ("cut.safetensors", "evil.pth", "old.pth", "other.pth"))
    cut.write_bytes(whole[:len(whole) // 2])
    torch.save({"state_dict": RunsCode(tmp_path / "ran")}, evil)
    old.write_bytes(pickle.dumps(RunsCode(tmp_path / "ran"), protocol=2))
    state = checkpoint.load_state(tiny.weights("t2v"))
    del state["out.2.bias"]
    state |= {"surplus": torch.zeros(1), "out.2.weight": torch.zeros(8, 32, 3, 3)}
    checkpoint.save_file({"state_dict": state}, other)
    for path, words in ((cut, ["damaged"]), (evil, ["refused"]), (old, ["refused"]),
                        (other, ["1 missing (first: out.2.bias)", "1 unexpected (first: surplus)",
                                 "1 of another shape (first: out.2.weight (8, 32, 3, 3) for (4, 32, 3, 3))"]),
                        (tiny.weights("clip"), ["missing", "unexpected"])):
        assert contains(refused(inference, file, "test_model", path), path.name, *words)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("changes", "words"), [
    ({"use_fsdp": True}, ["use_fsdp", "DDP"]),
    ({"vid_dataset": None}, ["section 'vid_dataset' is missing"]),
    ({"vid_dataset": {"type": "VideoDatset"}}, ["DATASETS: no component 'VideoDatset'", "did you mean 'VideoDataset'"]),
    ({"vid_dataset": {"type": "VideoDataset", "data_list": ["no.txt"], "data_dir_list": ["."]}},
     ["no list file 'no.txt'"]),
    ({"batch_sizes": {"16": 2}}, ["batch_sizes has no entry for the 3 frames"]),
    ({"frame_lens": [0]}, ["'frame_lens' must be a list of integers of at least 1"]),
    ({"resolution": [36, 32]}, ["resolution [36, 32]", "[32, 32]"]),
    ({"opti_timesteps": 2000}, ["opti_timesteps 2000", "1000"]),
    ({"decay_mode": "cosin"}, ["'decay_mode' must be"]),
    ({"save_dtype": "fp8"}, ["'save_dtype' must be"]),
    ({"Pretrain": {"type": "pretrain_specific_strategies", "resume_checkpoint": "nowhere.pth"}}, ["nowhere.pth"]),
    ({"visual_train": {"type": "VisualTrain"}}, ["VISUAL: no component 'VisualTrain'"]),
])
def test_training_refuses(tiny, tmp_path, refused, changes, words):
    assert contains(refused(train_net, tiny.training(tmp_path, "t2v", **changes)), *words)


def test_training_on_a_list_of_nothing_readable_is_refused(tiny, tmp_path, refused):
    (tmp_path / "list.txt").write_text("absent.mp4|||a red star\nlist.txt|||a list\n")
    dataset = {"type": "VideoDataset", "data_list": [str(tmp_path / "list.txt")], "data_dir_list": [str(tmp_path)]}
    line = refused(train_net, tiny.training(tmp_path, "t2v", vid_dataset=dataset))
    assert contains(line, "none of the 2 files", "list.txt", "data_dir_list")


def test_image_to_video_needs_pictures_of_the_encoders_size(tiny, tmp_path, refused):
    line = refused(train_net, tiny.training(tmp_path, "i2v", vit_resolution=[16, 16]))
    assert contains(line, "vit_resolution [16, 16]", "set vit_resolution: [32, 32]")


def test_circular_bases_are_refused(tmp_path, refused):
    for name, base in (("a.yaml", "b.yaml"), ("b.yaml", "a.yaml")):
        (tmp_path / name).write_text(f"_BASE: {tmp_path / base}\n")
    assert contains(refused(inference, tmp_path / "a.yaml"), "circular _BASE", "a.yaml", "b.yaml")


def test_a_full_disk_ends_a_run_with_one_line(tiny, tmp_path, monkeypatch, capsys):
    file = tiny.sampling(tmp_path, "t2v", PROMPTS)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tools.files.tempfile.mkstemp", full)
    monkeypatch.setattr(sys, "argv", ["inference.py", "--cfg", file])
    with pytest.raises(SystemExit) as ended:
        run_main(inference.main)
    assert ended.value.code == 2
    last = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert contains(last, "error: no space left on the disk", "a_red_star.mp4")
    assert [path.suffix for path in (tmp_path / "runs" / "sample_list").iterdir()] == [".txt"]


@pytest.mark.parametrize(("script", "words"), [
    (["train_net.py", "--cfg", "nowhere.yaml"], ["nowhere.yaml"]),
    (["inference.py", "--cfg", "configs/quickstart.yaml", "seed"], ["override 'seed' has no value"]),
    (["inference.py"], ["--cfg"]),
])
def test_entry_scripts_exit_with_2(tmp_path, script, words):
    done = subprocess.run([sys.executable, *script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert contains(one_line(done.stderr), *words)

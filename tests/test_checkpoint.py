"""Weights files: safe to read, whole on the disk, and a clear word about what does not fit."""
import errno
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from tools import checkpoint
from tools.errors import UserError

STATE = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2])}


class RunsCode:
    """Pickles to something that creates a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_what_is_saved_is_loaded(tmp_path, name):
    checkpoint.save_file(STATE, tmp_path / "new" / name)
    loaded = checkpoint.load_state(tmp_path / "new" / name)
    assert loaded.keys() == STATE.keys()
    assert all(torch.equal(loaded[key], STATE[key]) for key in STATE)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_wrapped_states_are_unwrapped(tmp_path):
    checkpoint.save_file({"state_dict": STATE, "step": 3}, tmp_path / "w.pth")
    assert checkpoint.load_state(tmp_path / "w.pth").keys() == STATE.keys()


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"a": 1}}])
def test_what_holds_no_state_is_refused(tmp_path, content):
    checkpoint.save_file(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth' hold no state dict"):
        checkpoint.load_state(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.ckpt"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(tmp_path, name):
    torch.save({"state_dict": RunsCode(tmp_path / "ran")}, tmp_path / name)
    with pytest.raises(UserError, match="refused"):
        checkpoint.load_state(tmp_path / name)
    (tmp_path / f"plain_{name}").write_bytes(pickle.dumps(RunsCode(tmp_path / "ran"), protocol=2))
    with pytest.raises(UserError, match="refused"):
        checkpoint.load_state(tmp_path / f"plain_{name}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.95])
def test_truncated_files_are_named(tmp_path, name, share):
    file = tmp_path / name
    checkpoint.save_file({"a": torch.zeros(400)}, file)
    file.write_bytes(file.read_bytes()[:int(share * file.stat().st_size)])
    with pytest.raises(UserError, match=rf"{name}'.*(damaged|refused)") as caught:
        checkpoint.load_state(file)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_it_is_expected_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"models/x\.pth.*looked for {tmp_path}/models/x\.pth.*hf://owner/repo/file"):
        checkpoint.load_state("models/x.pth")


def test_hub_names_are_fetched_by_the_hubs_library(tmp_path, monkeypatch):
    checkpoint.save_file(STATE, tmp_path / "w.pth")
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *names: asked.append(names) or tmp_path / "w.pth")
    assert checkpoint.load_state("hf://owner/repo/folder/w.pth").keys() == STATE.keys()
    assert asked == [("owner/repo", "folder/w.pth")]


def test_offline_says_which_file_to_get(monkeypatch):
    def offline(*names):
        raise ConnectionError("no network\nand more")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(UserError, match=r"repo/w\.pth' could not be fetched .*no network.*'w\.pth' of owner/repo"):
        checkpoint.load_state("hf://owner/repo/w.pth")


@pytest.mark.parametrize("name", ["hf://owner/w.pth", "modelscope://w.pth"])
def test_short_hub_names_are_refused(name):
    with pytest.raises(UserError, match="owner/repo/file"):
        checkpoint.load_state(name)


def test_weights_of_another_model_are_described_by_their_first_keys():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = model.state_dict()
    del state["0.bias"]
    state |= {"extra": torch.zeros(1), "1.weight": torch.zeros(1, 4)}
    with pytest.raises(UserError) as caught:
        checkpoint.load_into(model, state, "here")
    assert str(caught.value) == ("here: weights of another model or configuration: 1 missing (first: 0.bias); "
                                 "1 unexpected (first: extra); 1 of another shape (first: 1.weight (1, 4) for (1, 3))")


def test_half_precision_weights_are_cast_to_the_models_type():
    model = nn.Linear(2, 2)
    half = {key: value.half() for key, value in model.state_dict().items()}
    checkpoint.load_into(model, half, "here")
    assert model.weight.dtype == torch.float32


def test_a_full_disk_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    file = tmp_path / "w.pth"
    checkpoint.save_file({"a": torch.zeros(1)}, file)
    before = file.read_bytes()

    def full(content, path):
        Path(path).write_bytes(b"part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"no space left on the disk while writing '.*w\.pth'"):
        checkpoint.save_file(STATE, file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_prefixes_are_stripped_where_they_occur():
    assert checkpoint.strip_prefix({"m.a": 1, "x": 2}, "m.") == {"a": 1}
    assert checkpoint.strip_prefix({"a": 1}, "m.") == {"a": 1}


@pytest.mark.parametrize(("name", "step"), [("model_scope_0267000.pth", 267000), ("a_b.pth", 0), ("w.pth", 0),
                                            ("x/non_ema_00000012.pth", 12), ("ema_7.ckpt.pth", 7)])
def test_steps_are_read_from_names(name, step):
    assert checkpoint.step_of(name) == step


def test_old_files_go_by_the_time_they_were_written(tmp_path):
    for seconds, name in enumerate(["s_9.pt", "s_1.pt", "s_2.pt", "other_1.pt"]):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (seconds, seconds))
    assert [f.name for f in checkpoint.by_age(tmp_path, "s_*.pt")] == ["s_9.pt", "s_1.pt", "s_2.pt"]
    checkpoint.remove_old(tmp_path, "s_*.pt", 0)
    checkpoint.remove_old(tmp_path, "s_*.pt", 2)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["other_1.pt", "s_1.pt", "s_2.pt"]


def test_a_digest_is_that_of_the_content(tmp_path):
    (tmp_path / "w").write_bytes(b"abc")
    assert checkpoint.digest(tmp_path / "w") == "ba7816bf8f01cfea"

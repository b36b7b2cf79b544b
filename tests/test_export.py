"""Weights that are given away: what a checkpoint held, in the number format asked for."""
import pytest
import torch

from tools import checkpoint
from tools.errors import UserError
from tools.export import export

STATE = {"weight": torch.arange(6.0).reshape(2, 3) / 7, "count": torch.tensor([3])}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "non_ema_00000012.pth"
    checkpoint.save_file({"state_dict": STATE, "step": 12}, path)
    return str(path)


@pytest.mark.parametrize(("dtype", "expected"), [("fp32", torch.float32), ("fp16", torch.float16)])
def test_floats_change_their_format_and_integers_do_not(source, tmp_path, dtype, expected):
    target = str(tmp_path / "out.safetensors")
    size = export(source, target, dtype)
    state = checkpoint.load_state(target)
    assert state["weight"].dtype == expected and state["count"].dtype == torch.int64
    torch.testing.assert_close(state["weight"].float(), STATE["weight"], atol=1e-3, rtol=1e-3)
    assert size == (tmp_path / "out.safetensors").stat().st_size


def test_a_torch_file_keeps_the_original_layout(source, tmp_path):
    target = str(tmp_path / "out.pth")
    export(source, target)
    content = checkpoint.load_file(target)
    assert content["step"] == 12 and set(content["state_dict"]) == set(STATE)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="nothing_here"):
        export(str(tmp_path / "nothing_here.pth"), str(tmp_path / "out.safetensors"))

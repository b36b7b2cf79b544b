"""`--check`: wiring is built without weights; files are looked for, not needed; what does not fit is refused."""
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tools.check import check
from tools.config import load_config
from tools.errors import UserError
from tools.memory import peak_bytes
from tools.models.attention import attention
from tools.registry import MODEL, load_components

ROOT = Path(__file__).parent.parent
ARCH = {"embed_dim": 16,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}}
YAML = """
TASK_TYPE: train_i2v_vs_img_text_entrance
resolution: [64, 32]
vit_resolution: [16, 16]
frame_lens: [1, 4]
batch_sizes: {1: 2, 4: 1}
vid_dataset: {type: VideoDataset, data_list: [there.txt, gone.txt], data_dir_list: [., gone]}
img_dataset: {type: ProceduralVideoDataset}
auto_encoder:
  {type: AutoencoderKL, embed_dim: 4, pretrained: gone.ckpt,
   ddconfig: {double_z: true, z_channels: 4, resolution: 32, in_channels: 3, out_ch: 3, ch: 32, ch_mult: [1, 1, 1, 1],
              num_res_blocks: 1, attn_resolutions: [], dropout: 0.0}}
embedder: {type: FrozenOpenCLIPTextVisualEmbedder, arch: arch.json, pretrained: hf://owner/repo/clip.bin}
UNet: {type: UNetSD_I2VGen, in_dim: 4, out_dim: 4, dim: 32, y_dim: 16, context_dim: 16, dim_mult: [1, 2], num_heads: 2,
       head_dim: 16, num_res_blocks: 1, attn_scales: [0.5]}
Pretrain: {type: pretrain_specific_strategies, resume_checkpoint: gone.pth}
use_ema: true
test_list_path: there.txt
test_model: gone.pth
max_frames: 4
"""
SAMPLE = ("TASK_TYPE", "inference_i2vgen_entrance")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the configuration, its architecture and one of its lists."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(YAML)
    Path("arch.json").write_text(json.dumps(ARCH))
    Path("there.txt").write_text("a.mp4|||a caption\n")


def report(*overrides: str) -> dict[str, str]:
    """First column of the report -> the rest; files by their key."""
    lines = check(load_config("run.yaml", overrides)).splitlines()
    states = {line.split(maxsplit=1)[1]: line.split()[0] for line in lines if ": " in line and line[0] in "tMh"}
    return {line.split("  ")[0].strip(): line.split("  ", 1)[-1].strip() for line in lines} | states


def test_training_is_built_without_files():
    said = report()
    assert said["auto_encoder.pretrained: gone.ckpt"] == "MISSING"
    assert said["embedder.pretrained: hf://owner/repo/clip.bin"] == "hub"
    assert said["vid_dataset.data_list: there.txt"] == "there"
    assert said["vid_dataset.data_list: gone.txt"] == "MISSING"
    assert said["vid_dataset.data_dir_list: ."] == "there"
    assert said["Pretrain.resume_checkpoint: gone.pth"] == "MISSING"
    assert "test_model: gone.pth" not in said
    assert said["UNet"].endswith("UNetSD_I2VGen")
    for part in ("weights", "gradients", "optimiser", "average of the weights", "activations", "together"):
        assert float(said[part].split()[0]) >= 0


def test_sampling_asks_for_its_own_files():
    said = report(*SAMPLE)
    assert said["test_model: gone.pth"] == "MISSING"
    assert said["test_list_path: there.txt"] == "there"
    assert "Pretrain.resume_checkpoint: gone.pth" not in said
    assert "gradients" not in said


@pytest.mark.parametrize(("overrides", "message"), [
    (("TASK_TYPE", "train_i2v_entrance"), "did you mean 'train_"),
    (("UNet.type", "UNetSD_I2VGem"), "did you mean 'UNetSD_I2VGen'"),
    (("UNet.context_dim", "32"), "UNetSD_I2VGen does not take"),
    (("UNet.y_dim", "8"), "UNetSD_I2VGen does not take"),
    (("Diffusion.schedule", "cosin"), "cosine"),
    (("auto_encoder", "{ddconfig: {depth: 4}}"), "depth"),
    (("frame_lens", "[5]"), "batch_sizes has no entry for the 5 frames"),
    (("vid_dataset", "null"), "section 'vid_dataset' is missing"),
    (("visual_train", "{type: VisualTrainTextImageToVideo, guide: 3}"), "unknown key 'guide'"),
    (("img_dataset", "{type: ProceduralVideoDataset, lenght: 3}"), "did you mean 'length'"),
])
def test_unsound_wiring_is_refused(overrides, message):
    with pytest.raises(UserError) as error:
        check(load_config("run.yaml", overrides))
    assert message in str(error.value)


def test_own_components_and_tasks():
    Path("own.py").write_text(
        "from torch import nn\nfrom tools.registry import ENGINE, MODEL\n\n\n"
        "@MODEL.register()\nclass OwnForCheck(nn.Linear):\n"
        "    def __init__(self, width):\n        super().__init__(width, 1)\n\n\n"
        "@ENGINE.register()\nclass own_task_for_check:\n    sections = ('UNet',)\n\n"
        "    def __init__(self, cfg):\n        pass\n")
    Path("run.yaml").write_text("TASK_TYPE: own_task_for_check\nimports: [own.py]\n"
                                "UNet: {type: OwnForCheck, width: 7}\n")
    said = report()
    assert said["UNet"].split() == ["8", "OwnForCheck"]


def test_peak_counts_what_lives_together():
    layers = nn.Sequential(*[nn.Linear(1000, 1000, bias=False, device="meta") for _ in range(4)])
    x = torch.empty(100, 1000, device="meta")
    output = 100 * 1000 * 4
    with torch.no_grad():
        assert peak_bytes(lambda: layers(x)) == 2 * output  # the input of a layer goes when its output is there
    assert peak_bytes(lambda: layers(x)) == 4 * output  # kept for the backward pass


def test_peak_of_attention_has_no_matrix_of_scores():
    q = torch.empty(1, 4096, 2, 8, device="meta")
    with torch.no_grad():
        assert peak_bytes(lambda: attention(q, q, q)) == q.nbytes


def test_published_sizes():
    """Parameters of the published models, in millions: 1,411 (text to video), 1,420 (image to video)."""
    load_components()
    for name, expected in (("t2v_train", 1_411_233_860), ("i2vgen_xl_train", 1_420_469_224)):
        cfg = load_config(str(ROOT / "configs" / f"{name}.yaml"))
        with torch.device("meta"):
            network = MODEL.build(cfg.UNet)
        assert sum(p.numel() for p in network.parameters()) == expected

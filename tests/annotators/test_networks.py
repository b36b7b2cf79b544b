"""Depth and sketches: published layouts, other implementations, any size of picture."""
from pathlib import Path

import pytest
import torch
from transformers import DPTForDepthEstimation

from tests.goldens.reader import fill_module, load_manifest
from tools.annotators.depth import Depth
from tools.annotators.networks import simplification
from tools.annotators.networks.midas import NEVER_RUN, MiDaS, load_midas
from tools.annotators.networks.pidinet import PiDiNet, convert_state, layer_kinds, load_pidinet
from tools.annotators.networks.simplification import SketchSimplification
from tools.annotators.sketch import MEAN, STD, Sketch
from tools.errors import UserError
from tools.frozen import on_meta

TINY = {"image_size": 64, "dim": 32, "neck_dims": [12, 16, 24, 32], "fusion_dim": 16, "num_heads": 4, "num_layers": 8}
NETWORKS = {"MiDaS": MiDaS, "PiDiNet": PiDiNet, "SketchSimplification": SketchSimplification}


@pytest.mark.parametrize("name", ["MiDaS.dpt_large", "PiDiNet.bsd", "PiDiNet.bsd_converted", "PiDiNet.bsd_small",
                                  "PiDiNet.bsd_tiny", "SketchSimplification.gan"])
def test_published_sizes_have_the_published_keys_in_their_order(name):
    manifest = load_manifest(name)
    network = on_meta(NETWORKS[manifest["component"]], **manifest["config"])
    state = network.published_state() if isinstance(network, MiDaS) else network.state_dict()
    assert [(key, list(value.shape)) for key, value in state.items()] == list(manifest["state_dict"].items())
    assert sum(value.numel() for value in state.values()) == manifest["num_parameters"]


@pytest.fixture(scope="module")
def midas() -> MiDaS:
    return fill_module(MiDaS(**TINY)).eval()


@pytest.fixture
def midas_file(midas, tmp_path) -> str:
    torch.save(midas.published_state(), tmp_path / "midas.pth")
    return str(tmp_path / "midas.pth")


def test_depth_of_squares_is_transformers_own(midas):
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    theirs = DPTForDepthEstimation(midas.network.config).eval()
    theirs.config.backbone_out_indices = [1, 3, 5, 7]
    theirs.load_state_dict(midas.network.state_dict(), strict=False)  # it has a last layer norm, of no effect
    with torch.no_grad():
        torch.testing.assert_close(midas(pictures)[:, 0], theirs(pictures).predicted_depth)


def test_both_layouts_of_a_file_load(midas, midas_file, tmp_path):
    own = {key: value for key, value in midas.network.state_dict().items() if not key.startswith(NEVER_RUN)}
    torch.save(own | {"dpt.layernorm.weight": torch.ones(32), "dpt.layernorm.bias": torch.zeros(32)},
               tmp_path / "transformers.bin")
    pictures = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for path in (midas_file, str(tmp_path / "transformers.bin")):
            loaded = load_midas(path, **TINY)
            assert torch.equal(loaded(pictures), midas(pictures))
            assert not any(p.requires_grad for p in loaded.parameters())


def test_depth_takes_any_size_and_chunk(midas_file):
    frames = torch.rand(3, 3, 70, 50)
    whole = Depth(midas_file, network=TINY, std=0.1, chunk=3)(frames)
    assert whole.shape == (3, 1, 70, 50) and whole.min() >= 0 and whole.max() <= 10
    torch.testing.assert_close(Depth(midas_file, network=TINY, std=0.1, chunk=2)(frames), whole, rtol=1e-4, atol=1e-4)
    clamped = Depth(midas_file, network=TINY, std=0.1, clamp=0.5)(frames)
    torch.testing.assert_close(clamped, whole.clamp(max=0.5), rtol=1e-4, atol=1e-4)


def test_depth_pictures_use_the_whole_range(midas_file):
    annotator = Depth(midas_file, network=TINY)
    pictures = annotator.draw(annotator(torch.rand(2, 3, 64, 64)))
    assert pictures.shape == (2, 64, 64, 3)
    assert pictures.min(axis=(1, 2, 3)).tolist() == [0, 0] and pictures.max(axis=(1, 2, 3)).tolist() == [255, 255]


@pytest.mark.parametrize("config", ["carv4", "baseline", "c-v15", "a-v15", "r-v15", "rrrv4", "a16", "r16"])
def test_converted_kernels_give_the_same_edges(config):
    options = {"inplane": 6, "config": config, "dil": 3, "sa": True}
    original, plain = fill_module(PiDiNet(**options)), PiDiNet(**options, convert=True)
    before = {key: value.clone() for key, value in original.state_dict().items()}
    plain.load_state_dict(convert_state(original.state_dict(), config))
    pictures = torch.randn(1, 3, 24, 40)
    with torch.no_grad():
        torch.testing.assert_close(plain(pictures), original(pictures))
    assert all(torch.equal(value, before[key]) for key, value in original.state_dict().items())


def test_flat_pictures_have_no_pixel_differences():
    network = fill_module(PiDiNet(inplane=4, config="c16", dil=None, sa=False))
    out = network.init_block(torch.full((1, 3, 12, 12), 0.7))
    torch.testing.assert_close(out[..., 2:-2, 2:-2], torch.zeros(1, 4, 8, 8), atol=1e-5, rtol=0)
    assert layer_kinds("carv4")[:5] == ["cd", "ad", "rd", "cv", "cd"]
    with pytest.raises(ValueError, match="no PiDiNet is called 'carv5'"):
        layer_kinds("carv5")


@pytest.mark.parametrize("options", [{"dil": 3, "sa": True}, {"dil": None, "sa": True}, {"dil": 3, "sa": False}])
def test_pidinet_files_of_any_width_load_published_and_converted(options, tmp_path):
    original = fill_module(PiDiNet(inplane=6, **options))
    state = original.state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "published.pth")
    torch.save(convert_state(state), tmp_path / "converted.pth")
    pictures = torch.randn(1, 3, 24, 24)
    with torch.no_grad():
        for name in ("published", "converted"):
            loaded = load_pidinet(str(tmp_path / f"{name}.pth"))
            torch.testing.assert_close(loaded(pictures), original(pictures))


@pytest.fixture
def sketch_files(tmp_path, monkeypatch) -> dict[str, str]:
    """Weights of both networks, narrow ones."""
    narrow = tuple((min(channels, 4) if channels > 1 else 1, change) for channels, change in simplification.LAYERS)
    monkeypatch.setattr(simplification, "LAYERS", narrow)
    files = {"weights": str(tmp_path / "pidinet.pth"), "simplification": str(tmp_path / "simplification.pth")}
    torch.save(fill_module(PiDiNet(inplane=6, dil=3)).state_dict(), files["weights"])
    torch.save(fill_module(SketchSimplification()).state_dict(), files["simplification"])
    return files


def test_sketches_are_edges_cleaned_as_dark_strokes(sketch_files):
    annotator, frames = Sketch(**sketch_files), torch.rand(2, 3, 24, 32)
    sketch = annotator(frames)
    edges = Sketch(sketch_files["weights"], simplification=None)(frames)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        torch.testing.assert_close(edges, annotator.edges((frames - mean) / std))
        torch.testing.assert_close(sketch, 1 - annotator.cleaner(1 - edges))
    assert annotator(torch.rand(1, 3, 21, 35)).shape == (1, 1, 21, 35)
    assert annotator.draw(sketch).shape == (2, 24, 32, 3)


def test_each_published_simplification_has_its_own_paper(sketch_files):
    darkness = {name: Sketch(**sketch_files, training=name).cleaner.std for name in simplification.PUBLISHED}
    assert len(set(darkness.values())) == 4
    with pytest.raises(UserError, match="training 'pen' must be one of gan, mse, pencil1, pencil2"):
        Sketch(**sketch_files, training="pen")


def test_missing_and_foreign_weights_are_named(midas_file, sketch_files, tmp_path):
    with pytest.raises(UserError, match=r"weights 'models/midas_v3_dpt_large.pth' are not there"):
        Depth()
    with pytest.raises(UserError, match=r"weights 'models/sketch_simplification_gan.pth' are not there"):
        Sketch(sketch_files["weights"])
    with pytest.raises(UserError, match=r"weights 'nowhere.pth' are not there"):
        Sketch("nowhere.pth")
    with pytest.raises(UserError, match=r"midas.pth': weights of another network: .* of another shape"):
        Depth(midas_file)
    with pytest.raises(UserError, match=r"missing \(first: cls_embedding\)"):
        Depth(sketch_files["weights"])
    with pytest.raises(UserError, match=r"midas.pth': weights of another network: .*missing \(first: init_block"):
        Sketch(midas_file)
    (tmp_path / "cut.pth").write_bytes(Path(midas_file).read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged or truncated"):
        Depth(str(tmp_path / "cut.pth"))

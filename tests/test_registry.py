"""Registries: names, arguments checked against signatures, errors that say what to do."""
import logging
import traceback

import pytest

from tools.errors import UserError
from tools.registry import REGISTRIES, Registry, load_components


@pytest.fixture
def registry():
    return Registry("THING")


class Wheel:
    def __init__(self, radius: float, spokes: int = 8):
        if radius < 0:
            raise ValueError("negative radius")
        self.radius, self.spokes = radius, spokes


def test_builds_by_type(registry):
    registry.register()(Wheel)
    wheel = registry.build({"type": "Wheel", "radius": 2}, spokes=3)
    assert (wheel.radius, wheel.spokes) == (2, 3)


def test_builds_functions_and_leaves_the_section_alone(registry):
    registry.register("listed")(lambda items: items.append(1) or items)
    section = {"type": "listed", "items": []}
    assert registry.build(section) == [1]
    assert section == {"type": "listed", "items": []}


def test_aliases_name_the_same_component(registry):
    registry.register(aliases=["old_wheel"])(Wheel)
    assert registry.get("old_wheel") is Wheel
    assert registry.names() == ["Wheel", "old_wheel"]


def test_a_name_is_given_once(registry):
    registry.register()(Wheel)
    with pytest.raises(ValueError, match="'Wheel' is registered twice"):
        registry.register()(Wheel)


@pytest.mark.parametrize(("section", "words"), [
    ({"type": "Weel", "radius": 1}, ["no component 'Weel'", "did you mean 'Wheel'", "registered: Wheel"]),
    ({"type": "Wheel", "radius": 1, "spoke": 2}, ["THING Wheel", "unknown key 'spoke'", "did you mean 'spokes'"]),
    ({"type": "Wheel"}, ["THING Wheel", "missing key 'radius'"]),
    ({"radius": 1}, ["lacks 'type'"]),
    ("Wheel", ["a section with 'type'"]),
    (None, ["a section with 'type'"]),
])
def test_wrong_sections_are_refused(registry, section, words):
    registry.register()(Wheel)
    with pytest.raises(UserError) as error:
        registry.build(section)
    for word in words:
        assert word in str(error.value)


def test_ignored_keys_are_accepted_and_noted_once(registry, caplog):
    registry.register(ignored=["max_words"])(Wheel)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert registry.build({"type": "Wheel", "radius": 1, "max_words": 7}).radius == 1
    assert caplog.text.count("keys without effect (they had none in the original either): max_words") == 1


def test_original_traceback_is_kept(registry):
    registry.register()(Wheel)
    with pytest.raises(ValueError, match="negative radius") as error:
        registry.build({"type": "Wheel", "radius": -1})
    assert traceback.extract_tb(error.value.__traceback__)[-1].name == "__init__"
    assert error.value.__notes__ == ["while building THING Wheel"]


def test_parameters_are_the_constructors(registry):
    registry.register()(Wheel)
    assert list(registry.parameters("Wheel")) == ["radius", "spokes"]


def test_own_files_register_once(tmp_path):
    own = tmp_path / "own_part.py"
    own.write_text("from tools.registry import MODEL\n\n\n@MODEL.register()\nclass OwnForRegistryTest:\n    pass\n")
    load_components([str(own)])
    load_components([str(own)])
    assert "OwnForRegistryTest" in REGISTRIES["MODEL"].names()


def test_missing_own_file_is_named():
    with pytest.raises(UserError, match=r"imports: no file 'gone.py'"):
        load_components(["gone.py"])


def test_original_names_are_registered():
    load_components()
    expected = {
        "ENGINE": ["train_t2v_entrance", "train_i2v_vs_img_text_entrance", "inference_text2video_entrance",
                   "inference_i2vgen_entrance"],
        "MODEL": ["UNetSD_T2VBase", "UNetSD_I2VGen"],
        "DATASETS": ["VideoDataset", "ImageDataset", "ProceduralVideoDataset"],
        "EMBEDDER": ["FrozenOpenCLIPEmbedder", "FrozenOpenCLIPVisualEmbedder", "FrozenOpenCLIPTextVisualEmbedder",
                     "FrozenOpenCLIPEmbedderZero"],
        "AUTO_ENCODER": ["AutoencoderKL", "AutoencoderVideo"],
        "VISUAL": ["VisualTrainTextImageToVideo"],
        "DIFFUSION": ["DiffusionDDIM"],
        "PRETRAIN": ["pretrain_specific_strategies"],
    }
    for name, components in expected.items():
        assert set(components) <= set(REGISTRIES[name].names()), name

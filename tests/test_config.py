"""Reading configurations: what files mean, what overrides may say, what is refused, and where values came from."""
import copy
import json
import logging
import pickle
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tests.goldens.reader import load_case
from tests.replays.config import replay_config
from tools.config import Config, load_config
from tools.defaults import KEYS, REQUIRED, default_values
from tools.errors import UserError
from tools.kinds import convert, describe
from tools.registry import MODEL
from tools.yaml_files import Loader, parse_word, to_text

ROOT = Path(__file__).parent.parent
# Files that others include, and recipes, which name files to run one after the other (tests/test_recipes.py).
INCLUDED = {"configs/base.yaml", "configs/dreamvideo/dreamvideo.yaml", "configs/tiny/common.yaml",
            "configs/tiny/higen_world.yaml", "configs/tiny/sr_world.yaml", "configs/tiny/world.yaml",
            "configs/tiny/world_first.yaml",
            "configs/tiny/world_mini.yaml", "configs/tiny/common_mini.yaml", "configs/tiny/denoiser.yaml"}
SHIPPED = sorted({str(path.relative_to(ROOT)) for path in ROOT.glob("configs/**/*.yaml") if "recipe" not in path.stem}
                 - INCLUDED)
CASE, EXPECTED = load_case("vgen-engine", "config_merge")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(**files: str) -> None:
    """Write `name.yaml` for every argument."""
    for name, text in files.items():
        Path(f"{name}.yaml").write_text(text, encoding="utf-8")


def load(text: str, *overrides: str) -> Config:
    """The configuration of one file with that text."""
    write(run=text)
    return load_config("run.yaml", overrides)


def refusal(text: str, *overrides: str) -> str:
    """The message with which that configuration is refused; one line."""
    with pytest.raises(UserError) as error:
        load(text, *overrides)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def replayed():
    """Entry -> our result and the original's."""
    return {name: (out, wanted) for name, out, wanted in replay_config(CASE, EXPECTED, Path())}


@pytest.mark.parametrize("name", [entry["name"] for entry in CASE["entries"]])
def test_files_mean_what_they_meant(replayed, name):
    out, wanted = replayed[name]
    assert out == wanted


@pytest.mark.parametrize("path", SHIPPED)
def test_shipped_configurations_resolve(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    cfg = load_config(path)
    assert cfg.TASK_TYPE
    assert set(cfg.UNet) >= {"type", "in_dim", "dim"}


@pytest.mark.parametrize(("path", "size", "frames", "unet"), [
    ("configs/t2v_infer.yaml", [448, 256], 16, "UNetSD_T2VBase"),
    ("configs/i2vgen_xl_infer.yaml", [1280, 704], 16, "UNetSD_I2VGen"),
])
def test_published_settings(path, size, frames, unet, monkeypatch):
    """Effective values of the published configurations."""
    monkeypatch.chdir(ROOT)
    cfg = load_config(path)
    assert (cfg.resolution, cfg.max_frames, cfg.UNet["type"]) == (size, frames, unet)
    assert (cfg.guide_scale, cfg.ddim_timesteps, cfg.seed, cfg.round, cfg.target_fps) == (9.0, 50, 8888, 4, 16)
    assert (cfg.UNet["dim"], cfg.UNet["attn_scales"], cfg.scale_factor) == (320, [1.0, 0.5, 0.25], 0.18215)
    assert cfg.Diffusion["mean_type"] == "v"
    assert cfg.Diffusion["schedule"] == "cosine"
    assert cfg.Diffusion["schedule_param"]["zero_terminal_snr"]
    assert cfg.negative_prompt.startswith("Distorted, discontinuous")


def test_every_default_has_its_own_type():
    for name, key in KEYS.items():
        if key.default is not REQUIRED and not key.unused:
            assert convert(key.default, key) == key.default, name
            assert describe(key) and key.help, name


def test_defaults_are_fresh_copies():
    first = default_values()
    first["UNet"]["dim"] = 1
    assert default_values()["UNet"]["dim"] == 320


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "1.0e-5", "+1e-5", "1.e-5", "0.00001"])
def test_numbers_are_numbers(text):
    assert load(f"lr: {text}").lr == 1e-5
    assert load("", "lr", text).lr == 1e-5


@pytest.mark.parametrize("word", ["1e", "e5", "1.2.3", "v1.5", "1e5x"])
def test_texts_stay_texts(word):
    assert parse_word(word) == word


def test_defaults_stand_behind_files_behind_overrides():
    cfg = load("seed: 3\nround: 2\n", "round", "5")
    assert (cfg.seed, cfg.round, cfg.ddim_timesteps) == (3, 5, 50)
    assert cfg.provenance["seed"] == "run.yaml"
    assert cfg.provenance["round"] == "command line"
    assert cfg.provenance["ddim_timesteps"] == "tools/defaults.py"


def test_second_file_stands_between_defaults_and_file_for_sampling():
    write(second="seed: 1\nlr: 0.5\nUNet: {type: U, dim: 8, upper: 2}\n")
    cfg = load("TASK_TYPE: inference_x\nvldm_cfg: second.yaml\nseed: 2\nUNet: {dim: 16}\n")
    assert (cfg.seed, cfg.lr, cfg.UNet["dim"], cfg.UNet["upper"]) == (2, 0.5, 16, 2)
    assert cfg.provenance["UNet.upper"] == "second.yaml"
    assert cfg.provenance["UNet.dim"] == "run.yaml"


def test_second_file_is_not_read_for_training():
    write(second="seed: 1\nlr: 0.5\n")
    assert load("TASK_TYPE: train_x\nvldm_cfg: second.yaml\n").lr == 5e-5


def test_second_file_of_the_command_line_and_overrides_of_its_values():
    write(second="UNet: {type: U, upper: 2}\n")
    cfg = load("TASK_TYPE: inference_x\n", "vldm_cfg", "second.yaml", "UNet.upper", "3")
    assert cfg.UNet["upper"] == 3


def test_missing_second_file_is_skipped_and_said(caplog):
    with caplog.at_level(logging.WARNING):
        load("TASK_TYPE: inference_x\nvldm_cfg: gone.yaml\n")
    assert "gone.yaml" in caplog.text


def test_schedule_parameters_are_replaced_whole():
    cfg = load("Diffusion: {schedule_param: {num_timesteps: 500}}\n")
    assert cfg.Diffusion["schedule_param"] == {"num_timesteps": 500}
    assert cfg.Diffusion["schedule"] == "cosine"


def test_dotted_overrides_reach_every_depth():
    cfg = load("UNet: {type: U}\n", "UNet.dim", "64", "Diffusion.schedule_param.num_timesteps", "100")
    assert cfg.UNet["dim"] == 64
    assert cfg.Diffusion["schedule_param"] == {"num_timesteps": 100, "cosine_s": 0.008, "zero_terminal_snr": True}
    assert cfg.provenance["Diffusion.schedule_param.num_timesteps"] == "command line"


def test_override_may_name_an_argument_that_the_section_leaves_out():
    cfg = load("", "Diffusion.epsilon", "1e-10")
    assert cfg.Diffusion["epsilon"] == 1e-10


def test_override_with_a_mapping_counts_as_a_line_of_the_file():
    cfg = load("", "UNet", "{type: U, dim: 8}")
    assert (cfg.UNet["type"], cfg.UNet["dim"], cfg.UNet["num_heads"]) == ("U", 8, 8)


@pytest.mark.parametrize(("key", "word", "value"), [
    ("seed", "7", 7), ("num_steps", "1e3", 1000), ("guide_scale", "null", None), ("guide_scale", "-1.5", -1.5),
    ("resolution", "[64, 32]", [64, 32]), ("use_fp16", "no", False), ("batched_guidance", "auto", "auto"),
    ("batched_guidance", "true", True), ("batch_sizes", "{16: 2}", {"1": 256, "4": 4, "8": 4, "16": 2}),
    ("negative_prompt", "blurry: very #1", "blurry: very #1"), ("negative_prompt", "2024", "2024"),
    ("negative_prompt", "", ""), ("negative_prompt", "'null'", "null"), ("test_list_path", "a b.txt", "a b.txt"),
    ("test_model", "null", None), ("vldm_cfg", "", ""), ("Pretrain", "null", None), ("sample_fps", "3", 3),
])
def test_overrides_are_typed(key, word, value):
    assert load("", key, word)[key] == value


@pytest.mark.parametrize(("text", "overrides", "words"), [
    ("resolutoin: [64, 64]", (), ["run.yaml", "resolutoin", "did you mean 'resolution'"]),
    ("", ("sed", "7"), ["command line", "'sed'", "did you mean 'seed'"]),
    ("", ("seed",), ["'seed' has no value"]),
    ("", ("UNet.", "7"), ["'UNet.' is no key"]),
    ("UNet: {type: U, dim: 4}", ("UNet.dym", "5"), ["U"]),
    ("UNet: {type: UNetSD_T2VBase}", ("UNet.dym", "5"), ["UNet.dym", "did you mean 'dim'"]),
    ("", ("Diffusion.schedule_param.steps", "5"), ["Diffusion.schedule_param.steps", "num_timesteps"]),
    ("", ("seed.x", "5"), ["'seed' is 8888, not a section"]),
    ("UNet: {type: U}", ("UNet.dim", "wide"), ["UNet.dim", "320", "'wide'"]),
    ("seed: abc", (), ["run.yaml", "'seed' must be an integer of at least 0, not 'abc'"]),
    ("resolution: abc", (), ["run.yaml", "'resolution' must be a list of 2 integers of at least 8, not 'abc'"]),
    ("resolution: [64]", (), ["a list of 2 integers"]),
    ("resolution: [100, 64]", (), ["run.yaml", "[100, 64]", "nearest good size is [96, 64]"]),
    ("", ("resolution", "[449, 255]"), ["command line", "nearest good size is [448, 256]"]),
    ("max_frames: 0", (), ["run.yaml", "'max_frames' must be an integer of at least 1, not 0"]),
    ("", ("max_frames", "0"), ["command line", "'max_frames'"]),
    ("", ("num_steps", "ten"), ["'num_steps' must be an integer"]),
    ("", ("num_steps", "1.5"), ["'num_steps' must be an integer"]),
    ("", ("use_ema", "3"), ["'use_ema' must be true or false or null"]),
    ("precision: fp64", (), ["'auto' or 'fp32'"]),
    ("seed: true", (), ["'seed' must be an integer"]),
    ("UNet: 5", (), ["'UNet' must be a section or null"]),
    ("vid_dataset: {length: 5}", (), ["run.yaml: section 'vid_dataset' lacks 'type'", "DATASETS"]),
    ("UNet: {type: U", (), ["run.yaml, line", "not valid YAML"]),
    ("just words", (), ["run.yaml", "key: value"]),
    ("_BASE: gone.yaml", (), ["run.yaml", "_BASE", "gone.yaml"]),
    ("_BASE: 5", (), ["run.yaml", "_BASE"]),
    ("_BASE: run.yaml", (), ["circular _BASE: run.yaml -> run.yaml"]),
])
def test_bad_input_gets_its_line(text, overrides, words):
    message = refusal(text, *overrides)
    for word in words:
        assert word in message


def test_circle_of_includes_is_named():
    write(a="_BASE: b.yaml\n", b="_BASE_RUN: a.yaml\n")
    with pytest.raises(UserError, match=r"circular _BASE: a.yaml -> b.yaml -> a.yaml"):
        load_config("a.yaml")


@pytest.mark.parametrize("name", ["gone.yaml", "gone/gone.yaml", "."])
def test_missing_file_is_named(name):
    with pytest.raises(UserError, match=r"no YAML file"):
        load_config(name)


def test_file_that_is_no_text(folder):
    (folder / "run.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match=r"run.yaml: not a YAML file"):
        load_config("run.yaml")


def test_no_file_given():
    with pytest.raises(UserError, match=r"--cfg"):
        load_config(None)


def test_working_directory_may_lead_the_path(folder, monkeypatch):
    write(run="seed: 4\n")
    assert load_config(f"{folder.name}/run.yaml").seed == 4


def test_base_file_of_the_working_directory(folder):
    (folder / "configs").mkdir()
    (folder / "configs" / "base.yaml").write_text("ENABLE: true\nseed: 6\n")
    assert load("").provenance["seed"] == "configs/base.yaml"
    assert load("seed: 7").seed == 7


def test_keys_without_effect_are_accepted_and_noted(caplog):
    with caplog.at_level(logging.INFO):
        load("betas: [0.9, 0.999]\nmisc_size: 384\n")
    assert "betas, misc_size" in caplog.text


def test_needed_key_without_value_is_named():
    cfg = load("")
    with pytest.raises(UserError, match=r"run.yaml: key 'test_list_path' is missing \(list file"):
        _ = cfg.test_list_path
    assert getattr(cfg, "test_list_path", None) is None
    assert not hasattr(cfg, "no_such_key")


def test_attributes_are_keys():
    cfg = load("seed: 1")
    cfg.seed = 2
    assert cfg["seed"] == 2
    for twin in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):  # noqa: S301
        assert twin == cfg
        assert twin.provenance == cfg.provenance
        assert twin.UNet.origins == cfg.UNet.origins


def test_printed_configuration_reads_back():
    cfg = load("lr: 1e-5\nUNet: {type: U, lora_alpha: , 5: x}\ncustom: {a: {b: [1, {c: 'x # y'}]}}\n",
               "negative_prompt", "a: #1", "seed", "7")
    printed = cfg.describe()
    assert "seed: 7  # command line" in printed.splitlines()
    assert "lr: 1.0e-05  # run.yaml" in printed.splitlines()
    assert yaml.load(printed, Loader=Loader) == cfg.plain()
    write(again=printed)
    again = load_config("again.yaml").plain()
    assert again | {"cfg_file": cfg.cfg_file, "opts": cfg.opts} == cfg.plain()


def test_plain_configuration_is_json():
    plain = load("UNet: {type: U}").plain()
    assert json.loads(json.dumps(plain)) == plain
    assert type(plain["UNet"]) is dict


def test_foreign_defaults_fall_away_and_wrong_keys_name_their_file():
    class Narrow:
        def __init__(self, dim: int, width: int = 1):
            self.dim, self.width = dim, width

    MODEL.register("NarrowForTest")(Narrow)
    try:
        built = MODEL.build(load("UNet: {type: NarrowForTest, width: 3}").UNet)
        assert (built.dim, built.width) == (320, 3)
        with pytest.raises(UserError, match=r"run.yaml: MODEL NarrowForTest: unknown key 'widht'.*'width'"):
            MODEL.build(load("UNet: {type: NarrowForTest, widht: 3}").UNet)
    finally:
        del MODEL._entries["NarrowForTest"]


TEXTS = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=20)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
                      max_leaves=8)


@given(VALUES)
@example("0E0")
@example({"1e-5": 1e-5})
def test_values_survive_their_text(value):
    assert parse_word(to_text(value)) == value

"""The golden cases kept here replay, and the replayer says so when one does not."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import replay
from tests.goldens.reader import GOLDENS, uniform, weight_rule
from tests.replays import handlers

CASES = sorted(GOLDENS.glob("*/*.json"))


@pytest.fixture(scope="module")
def known():
    return handlers()


def write_case(folder: Path, topic: str, case: dict, expected: dict) -> Path:
    """A case of our own making, laid out as the golden ones are."""
    path = folder / topic / f"{case['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(case))
    np.savez(path.with_suffix(".npz"), **expected)
    return path


def sinusoid_case(name: str = "own_sinusoid", width: int = 12) -> tuple[dict, dict]:
    """Kind `function` with a width and values that no golden case has; figures from the formula."""
    values = np.array([3.0, 41.5, 700.25])
    frequencies = 10000.0 ** (-np.arange(width // 2) / (width // 2))
    angles = values[:, None] * frequencies
    case = {"name": name, "kind": "function", "component": "sinusoidal_embedding",
            "inputs": {"t": {"values": values.tolist(), "dtype": "float32"}},
            "calls": {"own": {"positional": ["timesteps", "dim"], "args": {"timesteps": "t", "dim": width}}}}
    return case, {"own/out": np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)}


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_kept_case_replays(path, known):
    result = replay.replay(path, known)
    assert result.outcome == "ok", str(result)


def test_case_from_anywhere_with_other_figures_replays(tmp_path, capsys):
    path = write_case(tmp_path / "elsewhere", "vgen-unets-core", *sinusoid_case())
    assert replay.main([str(path)]) == 0
    assert "own_sinusoid" in capsys.readouterr().out


def test_module_of_another_configuration_replays(tmp_path, known):
    shape, key = [2, 6, 9, 7], "own/x"
    weight, bias = (torch.from_numpy(uniform(name, size, *weight_rule(name, size)))
                    for name, size in (("op.weight", [6, 6, 3, 3]), ("op.bias", [6])))
    out = torch.nn.functional.conv2d(torch.from_numpy(uniform(key, shape)), weight, bias, stride=2, padding=(2, 1))
    case = {"name": "own_downsample", "kind": "module", "component": "Downsample",
            "config": {"channels": 6, "use_conv": True, "dims": 2, "out_channels": 6, "padding": [2, 1]},
            "inputs": {"x": {"shape": shape, "key": key}}, "calls": {"own": {"args": {"x": "x"}}}}
    result = replay.replay(write_case(tmp_path, "vgen-unets-core", case, {"own/out": out.numpy()}), known)
    assert result.outcome == "ok", str(result)


def test_wrong_figure_fails_with_exit_code_1(tmp_path, capsys):
    case, expected = sinusoid_case()
    expected["own/out"][1, 2] += 2e-4
    right = write_case(tmp_path, "vgen-unets-core", *sinusoid_case("right"))
    wrong = write_case(tmp_path, "vgen-unets-core", case, expected)
    assert replay.main([str(right), str(wrong)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "ok" in lines[0] and "FAIL" in lines[1] and "own/out 2.0e-04" in lines[1]
    assert lines[2].startswith("2 cases: 1 ok") and "1 FAIL" in lines[2]


@pytest.mark.parametrize("spoil", [
    lambda expected: {"own/out": expected["own/out"][:, :-1]},
    lambda expected: {"own/out": np.full_like(expected["own/out"], np.nan)},
    lambda expected: expected | {"own/unheard_of": np.zeros(3)},
], ids=["shape", "nan", "an output that nothing replays"])
def test_figures_that_do_not_match_fail(tmp_path, known, spoil):
    case, expected = sinusoid_case()
    assert replay.replay(write_case(tmp_path, "vgen-unets-core", case, spoil(expected)), known).outcome == "FAIL"


def test_golden_network_with_other_weights_fails(tmp_path, known):
    case, expected = (json.loads((GOLDENS / "vgen-unets-core/block_upsample.json").read_text()),
                      dict(np.load(GOLDENS / "vgen-unets-core/block_upsample.npz")))
    case["inputs"]["x"]["key"] = "another input"
    assert replay.replay(write_case(tmp_path, "vgen-unets-core", case, expected), known).outcome == "FAIL"


def test_unknown_kind_topic_and_component_are_left_out(tmp_path, capsys):
    case, expected = sinusoid_case()
    paths = [
        write_case(tmp_path, "vgen-unets-core", case | {"name": "kind", "kind": "juggling"}, expected),
        write_case(tmp_path, "unheard-of", case | {"name": "topic"}, expected),
        write_case(tmp_path, "vgen-unets-core", case | {"name": "component", "component": "UNetSD_Nothing",
                                                        "kind": "module", "registry": "MODEL", "config": {}}, expected),
    ]
    assert replay.main([str(path) for path in paths]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all("left out: " in line for line in lines[:3]) and "3 left out" in lines[3]
    assert "juggling" in lines[0] and "UNetSD_Nothing" in lines[2]


def test_missing_and_broken_files_fail_and_the_rest_is_replayed(tmp_path, capsys):
    broken = tmp_path / "vgen-unets-core" / "broken.json"
    good = write_case(tmp_path, "vgen-unets-core", *sinusoid_case())
    broken.write_text("{")
    assert replay.main([str(tmp_path / "absent.json"), str(broken), str(good)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "FAIL" in lines[0] and "FAIL" in lines[1] and "ok" in lines[2]


def test_module_runs_from_the_command_line(tmp_path):
    path = write_case(tmp_path, "vgen-unets-core", *sinusoid_case())
    done = subprocess.run([sys.executable, "-m", "tests.replay", str(path)], capture_output=True, text=True,
                          cwd=Path(replay.__file__).parents[1])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("1 cases: 1 ok")

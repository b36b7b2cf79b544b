"""The speed of training updates: work is counted per setting, and the report relates them to the first."""
import pytest

from tools.benchmarks import training_speed


@pytest.fixture(scope="module")
def figures(tiny, tmp_path_factory):
    file = tiny.training(tmp_path_factory.mktemp("speed"), "t2v", cache_latents=4)
    return training_speed.compare(file, {"kept": ["cache_latents", "4"], "encoded": ["cache_latents", "0"],
                                         "recomputed": ["cache_latents", "4", "UNet.use_checkpoint", "true"]}, rounds=1)


def test_kept_latents_and_kept_activations_save_work(figures):
    assert figures["kept"]["flops"] < figures["encoded"]["flops"]
    assert figures["kept"]["flops"] < figures["recomputed"]["flops"]


def test_settings_are_timed_beside_the_first(figures):
    assert figures["kept"]["ratio"] == 1
    assert all(each["seconds"] > 0 for each in figures.values())


def test_the_report_names_times_work_and_rate():
    text = training_speed.report({"a": {"seconds": 0.5, "ratio": 1.0, "flops": 4e9},
                                  "b": {"seconds": 1.0, "ratio": 2.0, "flops": 6e9}}, rate=16e9)

    assert "16.0 GFLOP/s" in text
    assert "0.500 s   1.00 times       4.0 GFLOP     8.0 GFLOP/s   50.0%" in text
    assert "1.000 s   2.00 times" in text

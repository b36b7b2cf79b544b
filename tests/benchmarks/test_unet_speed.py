"""The speed comparison: both networks compute the same, ours with less work, and the report says so."""
import pytest

from tools.benchmarks import unet_speed


@pytest.fixture(scope="module")
def figures():
    return unet_speed.compare(unet_speed.TINY, frames=4, size=8, repeats=1)


def test_both_networks_give_the_same_output(figures):
    assert figures["difference"] < 1e-5


def test_ours_takes_fewer_operations(figures):
    assert figures["flops_ours"] < figures["flops_diffusers"]


def test_the_report_names_times_work_and_ratio(figures):
    text = unet_speed.report(figures | {"ours": 2.0, "diffusers": 3.0, "ratio": 1.5, "flops_ours": 4e9,
                                        "matmul_rate": 8e9}, frames=4, size=8)

    assert "4 frames of 8x8 latents" in text and "8.0 GFLOP/s" in text
    assert "2.000 s       4.0 GFLOP   25.0%" in text and "ratio diffusers / ours 1.500" in text

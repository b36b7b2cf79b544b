"""The comparison of a consistency model with its teacher."""
from types import SimpleNamespace

import pytest
import torch

from tests.engines import tiny as tasks
from tests.engines.test_consistency import few_steps
from tools.benchmarks import few_steps as benchmark
from tools.benchmarks.few_steps import compare, rounded
from tools.benchmarks.small_world import FRESH_SEED
from tools.datasets.procedural import ProceduralVideoDataset
from tools.engines.consistency import ConsistencyModel
from tools.engines.latent_diffusion import LatentDiffusion

WORLD = {"type": "ProceduralVideoDataset", "length": 100, "resolution": [64, 64], "vit_resolution": [32, 32]}


@pytest.fixture
def calls(monkeypatch):
    """What both were asked for; the teacher's clips are the world's own, slowly made, the student's are grey."""
    dataset = ProceduralVideoDataset(**{key: value for key, value in WORLD.items() if key != "type"}, seed=FRESH_SEED,
                                     max_frames=16)
    asked, clock = [], [0.0]

    def generate(self, items, generators, progress=None):
        student = isinstance(self, ConsistencyModel)
        steps = self.cfg.num_inference_steps if student else self.cfg.ddim_timesteps
        asked.append((steps, [item.caption for item in items], [torch.randn(2, generator=g) for g in generators]))
        self.denoise(None, None)
        return [torch.zeros(16, 3, 64, 64) if student else dataset[item.line - 1]["video"] for item in items]

    def denoise(self, *_):
        clock[0] += 0.25 if isinstance(self, ConsistencyModel) else 2.0

    monkeypatch.setattr(LatentDiffusion, "generate", generate)
    monkeypatch.setattr(LatentDiffusion, "denoise", denoise)
    monkeypatch.setattr(ConsistencyModel, "denoise", denoise)
    monkeypatch.setattr(benchmark, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    return asked


def test_prompts_and_noise_are_shared_and_the_figures_follow_from_the_clips(tiny, tmp_path, calls):
    world = {"resolution": [64, 64], "vid_dataset": WORLD}
    teacher = tasks.resolve(tiny.sampling(tmp_path, "t2v", ["a"], **world))
    student = tasks.resolve(few_steps(tiny, tmp_path, "t2v", ["a"], **world))
    figures = rounded(compare(teacher, student, steps=[1, 4], teacher_steps=50, clips=3, batch=2, seed=FRESH_SEED))
    # A first use of each that does not count, then chunks of two clips and of one.
    assert [steps for steps, _, _ in calls] == [50, 1, 4] * 3
    for first, *others in (calls[i:i + 3] for i in range(0, 9, 3)):
        assert all(captions == first[1] for _, captions, _ in others)
        assert all(torch.equal(torch.stack(drawn), torch.stack(first[2])) for _, _, drawn in others)
    assert figures["teacher"]["all"] == 1 and figures["teacher"]["clips"] == 3
    assert figures["student_4"]["num_inference_steps"] == 4
    assert figures["student_4"]["points_lost"]["color"] == 100
    assert figures["student_1"]["times_as_fast"] == figures["student_1"]["denoising_times_as_fast"] == 8
    assert figures["teacher"]["denoising_seconds"] == pytest.approx(2 * 2.0 / 3, abs=1e-4)

"""What a consistency model keeps of its teacher, and how much faster it is, on fresh prompts of the small world.

    python -m tools.benchmarks.few_steps --teacher configs/tiny/t2v_mini_infer.yaml \\
        --student configs/tiny/lcm_infer.yaml

Both make the same clips from the same noise, in turns in one process, so that what else the machine does hits both.
Accuracies are shares of clips whose attribute is as the caption asks, measured from pixels by geometry. Seconds are
per clip: of everything from the text to the pixels, and of denoising alone.
"""
import argparse
import functools
import json
import sys
import tempfile
import time
from pathlib import Path

from tools.benchmarks.small_world import FRESH_SEED, fresh_items, generators_of


class Contestant:
    """A built engine with what it has made so far.

    Args:
        cfg: sampling configuration.
        changes: keys that are set before every use; several contestants may share one engine.
        engine: built already; None builds one.
    """

    def __init__(self, cfg, changes: dict, engine=None):
        from tools.registry import ENGINE

        self.changes = changes
        if engine is None:
            cfg.update(changes)
            engine = ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)
            engine.check()
            engine.build()
        self.engine, self.judgements = engine, []
        self.seconds = {"whole": 0.0, "denoising": 0.0}

    def make(self, items: list, seed: int) -> None:
        """Make the clips of some items, judge them and count the seconds."""
        from tools.media import to_uint8
        from tools.metrics.attributes import judge

        cfg = self.engine.cfg
        cfg.update(self.changes)
        denoise = type(self.engine).denoise
        self.engine.denoise = self._timed("denoising", functools.partial(denoise, self.engine))
        videos = self._timed("whole", self.engine.generate)(items, generators_of(items, seed))
        self.judgements += [judge(to_uint8(video, cfg.mean, cfg.std), item.caption)
                            for video, item in zip(videos, items, strict=True)]

    def _timed(self, name: str, function):
        def timed(*arguments, **options):
            began = time.perf_counter()
            result = function(*arguments, **options)
            self.seconds[name] += time.perf_counter() - began
            return result
        return timed

    def forget(self) -> None:
        """Start counting anew, after a first use that loads and compiles."""
        self.judgements, self.seconds = [], dict.fromkeys(self.seconds, 0.0)

    def figures(self) -> dict:
        """Accuracies and seconds per clip."""
        from tools.metrics.attributes import accuracies

        clips = len(self.judgements)
        return self.changes | accuracies(self.judgements) | {
            "seconds_per_clip": self.seconds["whole"] / clips, "denoising_seconds": self.seconds["denoising"] / clips}


def compare(teacher, student, steps: list[int], teacher_steps: int, clips: int, batch: int, seed: int) -> dict:
    """Figures of the teacher and of the student at every number of steps.

    Args:
        teacher, student: sampling configurations.
        steps: numbers of steps of the student.
        teacher_steps: DDIM steps of the teacher.
        clips: fresh prompts. batch: clips made together. seed: of captions and noise.
    """
    first = Contestant(student, {"num_inference_steps": steps[0]})
    students = {n: Contestant(student, {"num_inference_steps": n}, first.engine) for n in steps}
    contestants = {"teacher": Contestant(teacher, {"ddim_timesteps": teacher_steps}), **students}
    done = 0
    with tempfile.TemporaryDirectory() as folder:
        for items, _ in fresh_items(student, clips, seed, batch, Path(folder)):
            if not done:
                for contestant in contestants.values():
                    contestant.make(items, seed)
                    contestant.forget()
            for contestant in contestants.values():
                contestant.make(items, seed)
            done += len(items)
            print(f"{done}/{clips}", file=sys.stderr, flush=True)
    original = contestants["teacher"].figures()
    return {"teacher": original} | {f"student_{n}": _against(students[n].figures(), original) for n in steps}


def _against(figures: dict, teacher: dict) -> dict:
    """A student's figures with how far they are from the teacher's: points of accuracy lost, times as fast."""
    from tools.metrics.attributes import ATTRIBUTES

    lost = {name: 100 * (teacher[name] - figures[name]) for name in (*ATTRIBUTES, "all")}
    mean = sum(lost[name] for name in ATTRIBUTES) / len(ATTRIBUTES)
    return figures | {"points_lost": lost | {"mean": mean},
                      "times_as_fast": teacher["seconds_per_clip"] / figures["seconds_per_clip"],
                      "denoising_times_as_fast": teacher["denoising_seconds"] / figures["denoising_seconds"]}


def rounded(value):
    """Nested figures with four decimals."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmarks.few_steps", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="sampling configuration of the teacher")
    parser.add_argument("--student", required=True, help="sampling configuration of the consistency model")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8], help="steps of the student")
    parser.add_argument("--teacher-steps", type=int, default=50, help="DDIM steps of the teacher")
    parser.add_argument("--clips", type=int, default=100, help="how many fresh prompts")
    parser.add_argument("--batch", type=int, default=4, help="clips made together")
    parser.add_argument("--seed", type=int, default=FRESH_SEED, help="of captions, first frames and noise")
    parser.add_argument("--set", nargs="*", default=[], help="key value pairs for both, as for inference.py")
    arguments = parser.parse_args(argv)

    from tools.config import load_config
    from tools.registry import load_components

    load_components()
    teacher, student = (load_config(file, arguments.set) for file in (arguments.teacher, arguments.student))
    figures = compare(teacher, student, arguments.steps, arguments.teacher_steps, arguments.clips, arguments.batch,
                      arguments.seed)
    print(json.dumps(rounded(figures), indent=1))


if __name__ == "__main__":
    from tools.cli import run_main
    run_main(lambda: main(sys.argv[1:]))

"""What training by a reward has achieved in the small world, and what one update of it costs.

    python -m tools.benchmarks.instructvideo claim --lora models/tiny/instructvideo_lora.safetensors --captions 100
    python -m tools.benchmarks.instructvideo cost

`claim` samples fresh captions that the training run does not see, by the base and by the base with the LoRA, from the
same noise, and compares: the reward, the share of the gap to its maximum that is closed, the accuracy of every
attribute read by geometry, the diversity. `cost` measures one update with and without recomputing activations.
"""
import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

CFG = "configs/tiny/instructvideo.yaml"
FRESH_SEED = 40_000  # no training run or held-out list uses it
MIB = 2**20


def unseen_captions(world, seed: int, whole=None) -> Iterator[str]:
    """Captions of the `whole` world (None: the whole vocabulary) with a word that the training world lacks; any where
    it lacks none."""
    from tools.world.scene import sample_truth
    from tools.world.vocabulary import EVERYTHING, caption_of

    whole = whole or EVERYTHING
    words = {"shape": "shapes", "color": "colors", "background": "backgrounds", "motion": "motions"}
    restricted = any(set(getattr(world, names)) < set(getattr(whole, names)) for names in words.values())
    for index in itertools.count():
        truth = sample_truth(seed, index, whole)
        seen = all(getattr(truth, word) in getattr(world, names) for word, names in words.items())
        if not (restricted and seen):
            yield caption_of(truth)


def measure(engine, captions: list[str], samples: int, seed: int) -> dict[str, float]:
    """Reward, diversity and accuracies of `samples` videos of each caption."""
    import torch

    from tools.datasets.lists import Item
    from tools.media import to_uint8
    from tools.metrics.attributes import accuracies, judge

    rewards, spreads, judgements = [], [], []
    for number, caption in enumerate(captions):
        generators = [torch.Generator().manual_seed(seed + number * samples + i) for i in range(samples)]
        videos = engine.generate([Item(number + 1, caption)] * samples, generators)
        reward, spread = engine.judge(torch.stack(videos), caption)
        rewards.append(float(reward))
        spreads.append(float(spread))
        judgements += [judge(to_uint8(video, engine.cfg.mean, engine.cfg.std), caption) for video in videos]
        print(f"{number + 1}/{len(captions)}", file=sys.stderr, flush=True)
    means = {"reward": sum(rewards) / len(rewards), "diversity": sum(spreads) / len(spreads)}
    return means | accuracies(judgements)


def claim(cfg, lora: str, captions: int, samples: int, seed: int) -> dict:
    """Figures of the base, of the base with the LoRA, and what lies between them."""
    import torch

    from tools.models import lora_files
    from tools.registry import DATASETS, ENGINE

    engine = ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)
    engine.build()
    engine.model.eval().requires_grad_(False)
    world = DATASETS.build(cfg.vid_reward_dataset).world
    whole = DATASETS.build(cfg.vid_dataset).world
    chosen = list(itertools.islice(unseen_captions(world, seed, whole), captions))
    with torch.no_grad():
        base = measure(engine, chosen, samples, seed)
        lora_files.load_pairs(engine.model, lora_files.load(lora, engine.model))
        tuned = measure(engine, chosen, samples, seed)
    maximum = getattr(engine.reward, "maximum", None)
    figures = {"base": base, "tuned": tuned, "maximum": maximum,
               "points_lost": {name: 100 * (base[name] - tuned[name]) for name in
                               ("shape", "color", "background", "motion")}}
    if maximum is not None:
        figures["gap_closed"] = (tuned["reward"] - base["reward"]) / (maximum - base["reward"])
    return figures


def cost(cfg, repeats: int) -> dict:
    """Seconds and bytes of one update, with and without `grad_checkpointing`, and their ratios (with / without)."""
    found = {}
    for name, recompute in (("recomputed", True), ("kept", False)):
        cfg.grad_checkpointing = recompute
        found[name] = one_update(cfg, repeats)
    found["ratio"] = {key: found["recomputed"][key] / found["kept"][key] for key in found["kept"]}
    return found


def one_update(cfg, repeats: int) -> dict[str, float]:
    """Median seconds of forward and backward pass, and the most bytes that their tensors took at a time."""
    import statistics

    import torch

    from tools.memory import LiveBytes
    from tools.registry import ENGINE

    engine = ENGINE.build({"type": cfg.TASK_TYPE}, cfg=cfg)
    engine.build()
    engine.model.train()
    dataset, batch_size = engine.dataset()
    batch = engine.to_device(torch.utils.data.default_collate([dataset[i] for i in range(batch_size)]))
    batch = {"latents": engine.encode(batch["video"]), "caption": batch["caption"]}

    def update() -> float:
        begun = time.perf_counter()
        engine.batch_loss(batch)[0].backward()
        engine.model.zero_grad(set_to_none=True)
        if engine.runtime.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    seconds = statistics.median(update() for _ in range(repeats + 1))
    if engine.runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        update()
        return {"seconds": seconds, "mib": (torch.cuda.max_memory_allocated() - before) / MIB}
    with LiveBytes() as live:
        update()
    return {"seconds": seconds, "mib": live.peak / MIB}


def main(argv: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmarks.instructvideo", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("claim", "cost"))
    parser.add_argument("--cfg", default=CFG, help="training configuration (default %(default)s)")
    parser.add_argument("--lora", help="claim: LoRA file of the training run")
    parser.add_argument("--captions", type=int, default=100, help="claim: how many fresh captions")
    parser.add_argument("--samples", type=int, default=2, help="claim: videos of each")
    parser.add_argument("--seed", type=int, default=FRESH_SEED, help="claim: of captions and noise")
    parser.add_argument("--repeats", type=int, default=2, help="cost: updates that are timed")
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file as well")
    parser.add_argument("overrides", nargs="*", help="key value pairs, as for train_net.py")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.what == "claim" and not arguments.lora:
        parser.error("claim needs --lora")

    from tools.config import load_config
    from tools.registry import load_components

    cfg = load_config(arguments.cfg, arguments.overrides)
    load_components(cfg.imports)
    if arguments.what == "claim":
        figures = claim(cfg, arguments.lora, arguments.captions, arguments.samples, arguments.seed)
    else:
        figures = cost(cfg, arguments.repeats)
    text = json.dumps(figures, indent=1)
    print(text)
    if arguments.json:
        Path(arguments.json).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    from tools.cli import run_main
    run_main(lambda: main(sys.argv[1:]))

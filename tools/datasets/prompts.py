"""Prompts of a YAML file in ConsistI2V's form, or of the command line, as items of a list.

    seeds: random                      # one of 0..100000 for each prompt; or a number, or a list of numbers; -1: any
    prompts: [timelapse at the snow land, ...]
    n_prompts: [""]                    # negative prompts
    path_to_first_frames: [a.jpg, ...]

A single seed, negative prompt or picture serves all prompts.
"""
import random

from tools.datasets.lists import Item
from tools.errors import UserError, nearest
from tools.yaml_files import read_yaml

KEYS = ("seeds", "prompts", "n_prompts", "path_to_first_frames")
RANDOM_SEEDS = 100000
ANY_SEED = 2**31 - 1


def read_prompt_config(file: str) -> list[Item]:
    """Items of a prompt file.

    Raises:
        UserError: the file is missing or no YAML, has no prompt, an unknown key, or lists of other lengths.
    """
    content = read_yaml(file)
    for key in content:
        if key not in KEYS:
            raise UserError(f"{file}: unknown key '{key}'{nearest(key, KEYS)}; it takes {', '.join(KEYS)}")
    prompts = content.get("prompts") or []
    if not isinstance(prompts, list) or not prompts:
        raise UserError(f"{file}: 'prompts' must be a list with at least one prompt")
    return make_items(prompts, content.get("n_prompts"), content.get("path_to_first_frames"),
                      content.get("seeds", "random"), file)


def make_items(prompts: list[str], negatives=None, pictures=None, seeds="random", where: str = "prompts") -> list[Item]:
    """Items numbered from 1.

    Args:
        prompts: the captions.
        negatives, pictures, seeds: one value, or a list of one value or of one for each prompt; None for none.
        where: the file, for messages.

    Raises:
        UserError: a list of another length, a seed that is none.
    """
    negatives = _spread("n_prompts", negatives, len(prompts), where)
    pictures = _spread("path_to_first_frames", pictures, len(prompts), where)
    seeds = [_seed(seed, where) for seed in _spread("seeds", seeds, len(prompts), where)]
    return [Item(line, str(prompt), path=picture, seed=seed, negative=negative)
            for line, (prompt, negative, picture, seed)
            in enumerate(zip(prompts, negatives, pictures, seeds, strict=True), start=1)]


def _spread(key: str, value, count: int, where: str) -> list:
    values = value if isinstance(value, list) else [value]
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise UserError(f"{where}: {key} has {len(values)} entries for {count} prompts; give one for each "
                        "or one for all")
    return values


def _seed(seed, where: str) -> int | None:
    if seed is None:
        return None
    if seed == "random":
        return random.SystemRandom().randint(0, RANDOM_SEEDS)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < -1:
        raise UserError(f"{where}: seeds must be whole numbers, -1 or 'random', not {seed!r}")
    return random.SystemRandom().randint(0, ANY_SEED) if seed == -1 else seed

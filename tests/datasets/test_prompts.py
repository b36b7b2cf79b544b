"""Prompts from a YAML file in ConsistI2V's form."""
import pytest
import yaml

from tools.datasets.prompts import read_prompt_config
from tools.errors import UserError

PROMPTS = {"prompts": ["snow", "sea"], "path_to_first_frames": ["a.jpg", "b.jpg"]}


def read(tmp_path, **content) -> list:
    file = tmp_path / "prompts.yaml"
    file.write_text(yaml.safe_dump(PROMPTS | content))
    return read_prompt_config(str(file))


def test_one_value_serves_all_and_lists_go_by_position(tmp_path):
    items = read(tmp_path, seeds=7, n_prompts=["blurry"])
    assert [(item.line, item.caption, item.path, item.seed, item.negative) for item in items] == [
        (1, "snow", "a.jpg", 7, "blurry"), (2, "sea", "b.jpg", 7, "blurry")]
    assert [item.seed for item in read(tmp_path, seeds=[3, 4])] == [3, 4]


def test_random_seeds_are_drawn_for_each_prompt(tmp_path):
    seeds = [item.seed for _ in range(20) for item in read(tmp_path, seeds="random")]
    assert len(set(seeds)) > 30 and min(seeds) >= 0 and max(seeds) <= 100000
    assert read(tmp_path, seeds=-1)[0].seed >= 0
    assert read(tmp_path)[0].seed is not None


@pytest.mark.parametrize(("content", "words"), [
    ({"n_prompts": ["", "", ""]}, "n_prompts has 3 entries for 2 prompts"),
    ({"seeds": "rnd"}, "seeds must be whole numbers, -1 or 'random', not 'rnd'"),
    ({"path_to_first_frame": "a.jpg"}, r"unknown key 'path_to_first_frame' \(did you mean 'path_to_first_frames'"),
    ({"prompts": []}, "'prompts' must be a list"),
])
def test_mistakes_name_file_and_key(tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        read(tmp_path, **content)

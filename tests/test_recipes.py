"""Recipes: stages in order, their own keys and those of the command line, and what is found before anything runs."""
import sys

import pytest

from tools.errors import UserError
from tools.recipes import ROOT, read_recipe, run_recipe


@pytest.fixture
def recipe(tmp_path):
    """A recipe of a training and a sampling."""
    (tmp_path / "train.yaml").write_text("TASK_TYPE: train_t2v_entrance\nlr: 0.1\n")
    (tmp_path / "sample.yaml").write_text("TASK_TYPE: inference_text2video_entrance\ntest_list_path: x\n"
                                          "test_model: y\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(f"stages:\n  learn: {{cfg: {tmp_path / 'train.yaml'}, num_steps: 5, resolution: [64, 64]}}\n"
                    f"  show: {{cfg: {tmp_path / 'sample.yaml'}}}\n")
    return path


def test_stages_run_in_order_each_by_its_script_with_its_keys(recipe, capsys):
    commands = []
    run_recipe(str(recipe), ["seed", "7"], call=lambda command: commands.append(command) or 0)
    folder = recipe.parent
    assert commands == [
        [sys.executable, str(ROOT / "train_net.py"), "--cfg", str(folder / "train.yaml"), "num_steps", "5",
         "resolution", "[64, 64]", "seed", "7"],
        [sys.executable, str(ROOT / "inference.py"), "--cfg", str(folder / "sample.yaml"), "seed", "7"]]
    assert capsys.readouterr().out.splitlines() == ["stage 1 of 2: learn", "stage 2 of 2: show"]


def test_a_failed_stage_ends_the_recipe_which_can_go_on_from_it(recipe):
    commands = []
    with pytest.raises(UserError, match=r"stage 'learn' ended with exit code 2; .* --first learn"):
        run_recipe(str(recipe), call=lambda command: commands.append(command) or 2)
    assert len(commands) == 1
    run_recipe(str(recipe), first="show", call=lambda command: commands.append(command) or 0)
    assert "inference.py" in commands[1][1] and len(commands) == 2


@pytest.mark.parametrize(("content", "words"), [
    ("seed: 7\n", ["a recipe has 'stages'"]),
    ("stages: {}\n", ["a recipe has 'stages'"]),
    ("stages: {a: {cfg: x.yaml}}\nseed: 7\n", ["unknown key 'seed'"]),
    ("stages: {a: x.yaml}\n", ["stage 'a' must be a section"]),
    ("stages: {a: {cfg: gone.yaml}}\n", ["stage 'a'", "gone.yaml"]),
])
def test_recipes_that_make_no_sense_are_refused(tmp_path, content, words):
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(UserError) as refused:
        run_recipe(str(tmp_path / "recipe.yaml"), call=lambda command: pytest.fail("ran"))
    assert all(word in str(refused.value) for word in words)


def test_a_wrong_key_of_the_last_stage_is_found_before_the_first_one_runs(recipe):
    recipe.write_text(recipe.read_text().replace("sample.yaml}", "sample.yaml, sed: 7}"))
    with pytest.raises(UserError, match=r"stage 'show': .*'sed'"):
        run_recipe(str(recipe), call=lambda command: pytest.fail("ran"))


def test_an_unknown_first_stage_is_refused(recipe):
    with pytest.raises(UserError, match="did you mean 'learn'"):
        run_recipe(str(recipe), first="lern", call=lambda command: pytest.fail("ran"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("**/*recipe*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_here_resolves(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert all(len(stage.command()) >= 4 for stage in read_recipe(str(path)))

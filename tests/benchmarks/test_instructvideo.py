"""The measuring script of training by a reward: captions that training did not see."""
import itertools

from tools.benchmarks.instructvideo import unseen_captions
from tools.world.vocabulary import World, parse_caption


def test_captions_have_a_word_that_training_lacks():
    world = World(shapes=("circle", "square"), motions=("growing",))
    captions = list(itertools.islice(unseen_captions(world, 5), 50))
    asked = [parse_caption(caption) for caption in captions]
    assert all(a.shape not in world.shapes or a.motion not in world.motions for a in asked)
    assert {a.shape for a in asked} > set(world.shapes)


def test_captions_stay_within_the_world_that_the_base_knows():
    whole = World(shapes=("circle", "square", "triangle"), motions=("moving left",))
    captions = list(itertools.islice(unseen_captions(World(shapes=("circle",)), 5, whole), 30))
    asked = [parse_caption(caption) for caption in captions]
    assert {a.shape for a in asked} == {"square", "triangle"} and {a.motion for a in asked} == {"moving left"}


def test_captions_are_any_where_training_saw_every_word():
    assert len(set(itertools.islice(unseen_captions(World(), 5), 40))) > 30

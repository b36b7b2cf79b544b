"""Learned words: what replaces a placeholder, what may be one, and the files that hold them."""
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tools import checkpoint
from tools.embedders.textual_inversion import (
    PROGRESS,
    EmbeddingManager,
    embedding_file,
    read_vectors,
    require_replaced,
)
from tools.embedders.tokens import tokenize
from tools.errors import UserError

WIDTH = 6


@pytest.fixture(scope="module")
def table() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(49408, WIDTH).requires_grad_(False)


def manager_of(table: nn.Embedding, **options) -> EmbeddingManager:
    embedder = SimpleNamespace(model=SimpleNamespace(token_embedding=table))
    return EmbeddingManager(embedder, **{"token_dim": WIDTH, "initializer_words": ["dog"], **options})


def test_only_the_vector_receives_a_gradient_and_only_where_it_stands(table):
    manager = manager_of(table)
    tokens = tokenize(["a * runs", "a dog runs"], 12)
    out = manager(tokens, table(tokens))
    assert torch.equal(out[1], table(tokens)[1]) and torch.equal(out[0, 2], manager.string_to_param_dict["*"][0])
    out.sum().backward()
    assert torch.equal(manager.string_to_param_dict["*"].grad, torch.ones(1, WIDTH))
    assert [name for name, p in manager.named_parameters() if p.requires_grad] == ["string_to_param_dict.*"]


def test_it_starts_from_its_word_and_a_second_placeholder_from_noise(table):
    manager = manager_of(table, placeholder_strings=["*", "@"])
    assert torch.equal(manager.string_to_param_dict["*"][0], table.weight[1929])
    assert 0 <= float(manager.string_to_param_dict["@"].detach().min()) <= float(
        manager.string_to_param_dict["@"].detach().max()) < 1


def test_several_vectors_shift_what_follows_and_the_end_token_with_it(table):
    manager = manager_of(table, num_vectors_per_token=3)
    tokens = tokenize(["a * runs"], 12)
    before, end = tokens.clone(), int(tokens.argmax())
    out = manager(tokens, table(tokens))
    assert tokens[0, 2:5].tolist() == [265] * 3 and int(tokens.argmax()) == end + 2
    assert torch.equal(out[0, 2:5], manager.string_to_param_dict["*"])
    assert torch.equal(out[0, 5:], table(before)[0, 3:10])


def test_progress_is_counted_in_training_alone(table):
    manager = manager_of(table, num_vectors_per_token=2, progressive_words=True)
    manager.progressive_counter = PROGRESS - 1
    manager.eval()(tokenize(["a *"], 8), table(tokenize(["a *"], 8)))
    assert manager.progressive_counter == PROGRESS - 1
    tokens = tokenize(["a *"], 8)
    manager.train()(tokens, table(tokens))
    assert manager.progressive_counter == PROGRESS and tokens[0].tolist().count(265) == 2


@pytest.mark.parametrize(("options", "words"), [
    ({"placeholder_strings": ["my dog"]}, ["'my dog' is 2 tokens"]),
    ({"placeholder_strings": ["<new1>"]}, ["4 tokens"]),
    ({"placeholder_strings": ["cat"]}, ["'cat' is already a word"]),
    ({"placeholder_strings": ["sks"], "initializer_words": ["sks"]}, ["'sks' is already a word"]),
    ({"placeholder_strings": [""]}, ["0 tokens"]),
    ({"placeholder_strings": ["."]}, ["has a dot"]),
    ({"token_dim": 1024}, ["token_dim 1024", "set token_dim 6"]),
    ({"per_image_tokens": True}, ["per_image_tokens"]),
])
def test_what_cannot_be_a_placeholder_is_refused(table, options, words):
    with pytest.raises(UserError) as refused:
        manager_of(table, **options)
    assert all(word in str(refused.value) for word in words)


def test_rare_tokens_may_be_placeholders(table):
    assert manager_of(table, placeholder_strings=["sks"]).string_to_token_dict == {"sks": 48136}


@pytest.mark.parametrize("caption", ["a *.", "(*)", "* and *'s bone"])
def test_a_placeholder_that_is_no_token_of_its_own_is_reported(caption):
    with pytest.raises(UserError, match=r"list, line 3: .*put blanks around it"):
        require_replaced(["a * on the road", caption], ["*"], "list, line 3")


def test_words_that_contain_a_placeholder_are_none():
    require_replaced(["a sks on two desks", "no placeholder at all", "a * , *"], ["*", "sks"], "captions")


def test_a_file_gives_back_the_vectors_in_the_published_layout(table, tmp_path):
    manager = manager_of(table, placeholder_strings=["*", "@"])
    path = embedding_file(tmp_path, manager.string_to_token_dict, 30)
    assert path.name == "text_embedding_of_*_@_0000030.pth"
    checkpoint.save_file(manager.content(), path)
    content = checkpoint.load_file(path)
    assert {key: int(value) for key, value in content["string_to_token"].items()} == {"*": 265, "@": 287}
    assert isinstance(content["string_to_param"], nn.ParameterDict)
    other = manager_of(table, placeholder_strings=["@"])
    other.load(str(path))
    assert torch.equal(other.string_to_param_dict["@"], manager.string_to_param_dict["@"])


def test_files_of_other_placeholders_sizes_and_kinds_are_refused(table, tmp_path):
    path = tmp_path / "words.pth"
    checkpoint.save_file(manager_of(table).content(), path)
    with pytest.raises(UserError, match="no placeholder '@'"):
        manager_of(table, placeholder_strings=["@"]).load(str(path))
    with pytest.raises(UserError, match="num_vectors_per_token is 1 there"):
        manager_of(table, num_vectors_per_token=2).load(str(path))
    checkpoint.save_file({"state_dict": {"a": torch.zeros(1)}, "step": 1}, path)
    with pytest.raises(UserError, match="no text embedding file"):
        read_vectors(str(path))

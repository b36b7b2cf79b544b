"""List files: what their lines mean, and where a wrong one stands."""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.datasets.lists import NAME_BYTES, Item, clean_name, read_pairs, read_prompts
from tools.errors import UserError


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "list.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_pairs_keep_their_line_numbers_through_comments_and_blanks(write):
    path = write("## a comment\n a.mp4 ||| one, two. \r\n\n# b.mp4|||no\ndir/c d.png|||\n")
    assert read_pairs(path) == [Item(2, "one, two.", "a.mp4"), Item(5, "", "dir/c d.png")]


def test_pairs_take_a_seed_only_when_asked(write):
    path = write("a.png|||a cat|12\nb.png|||a | b\n")
    assert [(item.caption, item.seed) for item in read_pairs(path)] == [("a cat", 12), ("a | b", None)]
    assert [item.caption for item in read_pairs(path, seeds=False)] == ["a cat|12", "a | b"]


def test_prompts_take_a_seed(write):
    assert read_prompts(write("Batman turns.|11\nschnee auf bäumen\n|3\n")) == [
        Item(1, "Batman turns.", seed=11), Item(2, "schnee auf bäumen"), Item(3, "", seed=3)]


def test_byte_order_mark_is_no_part_of_the_first_line(write):
    assert read_prompts(write(b"\xef\xbb\xbfa cat\n")) == [Item(1, "a cat")]


@pytest.mark.parametrize("text", ["a.mp4", "a.mp4||caption", "a|||b|||c", "|||caption", "  |||caption"])
def test_wrong_pair_names_file_and_line(write, text):
    with pytest.raises(UserError, match=r"list\.txt', line 3: expected path\|\|\|caption"):
        read_pairs(write(f"# x\na.mp4|||fine\n{text}\n"))


@pytest.mark.parametrize("text", ["a.png|||caption", "a cat|seven", "a cat|", "a cat|1.5", "a cat|-1"])
def test_wrong_prompt_names_file_and_line(write, text):
    with pytest.raises(UserError, match=r"list\.txt', line 2: expected"):
        read_prompts(write(f"fine\n{text}\n"))


@pytest.mark.parametrize("read", [read_pairs, read_prompts])
def test_missing_empty_and_binary_lists_name_the_file(write, read, tmp_path):
    with pytest.raises(UserError, match=r"no list file .*absent\.txt"):
        read(tmp_path / "absent.txt")
    with pytest.raises(UserError, match="no list file"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"list\.txt' is empty"):
        read(write("\n# only a comment\n  \n"))
    with pytest.raises(UserError, match="not UTF-8 text"):
        read(write(b"caf\xe9|||caf\xe9"))


@pytest.mark.parametrize(("caption", "name"), [
    ("A frog (green) floats.", "A_frog_green_floats"),
    ("a *\tdog", "a__dog"),
    ("Bär: 熊/../x", "Bär_熊x"),
    ("", ""),
])
def test_clean_name(caption, name):
    assert clean_name(caption) == name


def test_clean_name_keeps_what_it_is_told():
    assert clean_name("a * dog!", keep="*") == "a_*_dog"


@given(st.text(max_size=400))
def test_clean_name_is_short_and_has_no_separator(caption):
    name = clean_name(caption)
    assert len(name.encode()) <= NAME_BYTES
    assert not set(name) & set("/\\. \n\0")


def test_long_captions_that_differ_late_get_different_names():
    assert clean_name("x" * 300 + "a") != clean_name("x" * 300 + "b")

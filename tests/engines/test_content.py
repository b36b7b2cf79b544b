"""Motion and appearance of clips: what still, fast and changing clips measure, and the table of sampling."""
import numpy as np
import pytest
import torch

from tools.engines.content import (
    MOST_MOTION,
    appearance_of,
    appearance_table,
    frame_differences,
    frame_similarities,
    frame_vectors,
    motion_of,
)


def square_moving(step: int, frames: int = 6, side: int = 32) -> torch.Tensor:
    """[1, F, 3, side, side]: a white square of 8 pixels on black that goes `step` pixels to the right per frame."""
    video = torch.zeros(1, frames, 3, side, side)
    for i in range(frames):
        video[0, i, :, 8:16, 1 + i * step:9 + i * step] = 1
    return video


def test_faster_clips_differ_more_from_frame_to_frame_and_still_ones_not():
    rates = torch.cat([frame_differences(square_moving(step)) for step in (0, 1, 2, 4)])
    # Every pixel of way uncovers 8 pixels and covers 8 others, of 32 * 32.
    torch.testing.assert_close(rates, torch.tensor([0, 1, 2, 4]).view(4, 1).expand(4, 5) * 16 / 1024)


def test_motion_is_told_in_whole_numbers_up_to_a_limit():
    told = motion_of(torch.tensor([[0.0, 0.0123, 5.0]]), 10000)
    assert told.tolist() == [[0, 123, MOST_MOTION]] and told.dtype == torch.int64


def test_similarity_is_one_with_itself_and_zero_with_what_has_nothing_in_common():
    vectors = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [5.0, 0.0]]])
    assert frame_similarities(vectors)[0].tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_appearance_spans_the_range_between_alike_and_changed():
    similarities = torch.tensor([[[1.0, 0.85, 0.4], [0.85, 1.0, 0.85], [0.4, 0.85, 1.0]]])
    told = appearance_of(similarities, full_change=0.3, columns=3)
    torch.testing.assert_close(told, torch.tensor([[[1.0, 0.5, 0.0], [0.5, 1.0, 0.5], [0.0, 0.5, 1.0]]]))
    wider = appearance_of(similarities, full_change=0.3, columns=5)
    torch.testing.assert_close(wider[0, 0], torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0])
def test_the_table_is_the_originals_at_its_number_of_frames(factor):
    place = np.arange(32)
    expected = 1 - factor * np.abs(place[:, None] - place) / 31
    np.testing.assert_allclose(appearance_table(factor, 32, 32).numpy(), expected, atol=1e-6)


def test_the_table_of_other_lengths_samples_the_same_course():
    fewer, whole = appearance_table(0.8, 16, 31), appearance_table(0.8, 31, 31)
    torch.testing.assert_close(fewer, whole[::2])
    assert appearance_table(0.8, 1, 32).tolist() == [[1.0] * 32]


class MeanColour:
    """An image encoder whose vector is the mean colour."""

    def __init__(self):
        self.sizes = []

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(image.shape))
        return image.mean(dim=(2, 3))


def test_the_encoder_sees_the_middle_square_of_every_frame_normalised():
    video = torch.zeros(2, 5, 3, 8, 24)
    video[..., 8:16] = torch.linspace(0, 1, 10).view(2, 5, 1, 1, 1)
    embedder = MeanColour()
    vectors = frame_vectors(embedder, video, [0.5] * 3, [0.25] * 3, (16, 16), chunk=4)
    expected = (torch.linspace(0, 1, 10).view(2, 5, 1).expand(2, 5, 3) - 0.5) / 0.25
    torch.testing.assert_close(vectors, expected)
    assert {size[1:] for size in embedder.sizes} == {(3, 16, 16)} and sum(size[0] for size in embedder.sizes) == 10

"""Videos in pieces: the same numbers whatever the piece, in the right place."""
import pytest
import torch

from tests.autoencoders.examples import small_autoencoder
from tools.autoencoders.video import decode_video, encode_video, frame_chunks


class Recorder:
    """Stands for an autoencoder: averages 2x2 pixels, and notes how many images each call saw."""

    def __init__(self):
        self.sizes = []

    def encode_first_stage(self, x, scale_factor, generator):
        self.sizes.append(len(x))
        return scale_factor * torch.nn.functional.avg_pool2d(x, 2)

    def decode(self, z):
        self.sizes.append(len(z))
        return z.repeat_interleave(2, -1).repeat_interleave(2, -2)


@pytest.mark.parametrize(("count", "size", "pieces"), [
    (16, 4, [4, 4, 4, 4]), (16, 32, [16]), (5, 2, [3, 2]), (7, 4, [7]), (1, 1, [1]), (10, 3, [4, 4, 2]),
])
def test_pieces_follow_the_original_cut(count, size, pieces):
    assert [len(piece) for piece in frame_chunks(torch.zeros(count, 1), size)] == pieces


def test_piece_of_nothing_is_a_programming_error():
    with pytest.raises(ValueError, match="at least one"):
        frame_chunks(torch.zeros(3, 1), 0)


def test_every_frame_stays_in_its_video_and_place():
    video = torch.arange(2 * 3).reshape(2, 3, 1, 1, 1).expand(2, 3, 3, 4, 6).float()
    recorder = Recorder()

    latents = encode_video(recorder, video, scale_factor=0.5, chunk_size=2)
    decoded = decode_video(recorder, latents, scale_factor=0.5, decoder_bs=6)

    assert latents.shape == (2, 3, 3, 2, 3)
    assert latents[1, :, 2].unique().tolist() == [2.5]
    assert torch.equal(decoded, video.transpose(1, 2))
    assert recorder.sizes == [2, 2, 2, 6]


@torch.no_grad()
def test_piece_size_does_not_change_a_decoded_video():
    model = small_autoencoder()
    latents = torch.randn(1, 4, 6, 4, 4, generator=torch.Generator().manual_seed(0))

    whole = decode_video(model, latents, scale_factor=0.18215, decoder_bs=6)
    single = decode_video(model, latents, scale_factor=0.18215, decoder_bs=1)

    assert whole.shape == (1, 3, 6, 8, 8)
    torch.testing.assert_close(whole, single, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_encoded_video_repeats_with_the_generator():
    model = small_autoencoder()
    video = torch.rand(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    first, second = (encode_video(model, video, 0.18215, 2, torch.Generator().manual_seed(9)) for _ in range(2))

    assert first.shape == (2, 4, 3, 4, 4)
    assert torch.equal(first, second)

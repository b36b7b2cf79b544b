"""Training batches whose content depends on the seed and the position alone, so that a run can stop anywhere."""
import contextlib
import random
import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler


class SeededItems(Dataset):
    """View of a dataset by position in an endless stream.

    Whatever an item draws (crops, clip starts) comes from generators seeded by (seed, position), and the generators of
    the process are left as they were: neither the number of workers nor a restart changes an item.

    Args:
        dataset: has `__len__` and `__getitem__`.
        seed: of the whole stream.
        shuffle: a new permutation every epoch; False keeps the order of the list.
    """

    def __init__(self, dataset: Dataset, seed: int, shuffle: bool):
        self.dataset, self.seed, self.shuffle = dataset, seed, shuffle
        self._epoch, self._order = -1, None

    def __getitem__(self, position: int):
        epoch, offset = divmod(position, len(self.dataset))
        index = self._permutation(epoch)[offset] if self.shuffle else offset
        with _seeded(f"{self.seed}/{position}"):
            return self.dataset[int(index)]

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            order = np.arange(len(self.dataset))
            random.Random(f"{self.seed}/{epoch}").shuffle(order)
            self._epoch, self._order = epoch, order
        return self._order


@contextlib.contextmanager
def _seeded(key: str) -> Iterator[None]:
    """Generators of the process seeded by `key` inside the block, as they were after it."""
    seed = zlib.crc32(key.encode())
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    # Not torch.manual_seed: it would also seed every GPU, which data does not use, at every item.
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class PositionSampler(Sampler[int]):
    """Positions of one rank, without end, from the `start`-th on."""

    def __init__(self, start: int, rank: int, world_size: int):
        self.start, self.rank, self.world_size = start, rank, world_size

    def __iter__(self) -> Iterator[int]:
        position = self.start
        while True:
            yield position * self.world_size + self.rank
            position += 1


def batches(dataset: Dataset, *, batch_size: int, seed: int, shuffle: bool, done: int, rank: int, world_size: int,
            num_workers: int, prefetch_factor: int | None, pin_memory: bool) -> Iterator[dict]:
    """Endless batches of one rank.

    Args:
        dataset: finite; permuted anew every epoch when `shuffle`.
        done: number of batches this rank has consumed before (where a resumed run goes on).
    """
    loader = DataLoader(
        SeededItems(dataset, seed, shuffle), batch_size=batch_size,
        sampler=PositionSampler(done * batch_size, rank, world_size), num_workers=num_workers,
        prefetch_factor=prefetch_factor if num_workers else None, persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        # The loader draws a base seed when iterated; it must not come from the generator that training draws from.
        generator=torch.Generator().manual_seed(seed))
    return iter(loader)

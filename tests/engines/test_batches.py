"""Batches depend on the seed and the position alone."""
import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tools.engines.batches import batches


class Draws(Dataset):
    """Items that draw from every generator a dataset may use."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict:
        return {"index": index, "python": random.random(), "numpy": float(np.random.rand()),
                "torch": float(torch.rand(()))}


def taken(count: int, *, batch_size: int = 2, done: int = 0, rank: int = 0, world_size: int = 1, seed: int = 1,
          shuffle: bool = True, num_workers: int = 0) -> list[tuple]:
    """The items of the first `count` batches, flat."""
    source = batches(Draws(), batch_size=batch_size, seed=seed, shuffle=shuffle, done=done, rank=rank,
                     world_size=world_size, num_workers=num_workers, prefetch_factor=2, pin_memory=False)
    rows = [zip(*(column.tolist() for column in batch.values()), strict=True)
            for batch in (next(source) for _ in range(count))]
    return [item for row in rows for item in row]


def test_every_epoch_holds_every_item_in_another_order():
    order = [item[0] for item in taken(5, batch_size=4)]
    epochs = [order[k:k + 5] for k in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_the_lists_order_is_kept_on_request():
    assert [item[0] for item in taken(4, shuffle=False)] == [0, 1, 2, 3, 4, 0, 1, 2]


def test_a_restart_goes_on_with_the_same_items_and_draws():
    assert taken(6)[8:] == taken(2, done=4)


def test_items_repeat_with_other_draws():
    items = taken(5, shuffle=False)
    assert items[0][0] == items[5][0]
    assert items[0][1:] != items[5][1:]


def test_ranks_share_the_stream():
    both = [taken(2, rank=rank, world_size=2, batch_size=1) for rank in range(2)]
    assert [both[0][0], both[1][0], both[0][1], both[1][1]] == taken(4, batch_size=1)


def test_workers_change_nothing():
    assert taken(4, num_workers=2) == taken(4)


def test_seeds_differ():
    assert taken(3, seed=1) != taken(3, seed=2)


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(()).item()])
def test_the_generators_of_the_process_do_not_notice(draw):
    def first(with_data: bool) -> float:
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
        if with_data:
            taken(2)
        return draw()

    assert first(True) == first(False)

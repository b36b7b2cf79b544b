"""What datasets over list files share: reading the lists, and going on when a file cannot be read."""
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.data import Dataset

from tools.datasets import transforms as defaults
from tools.datasets.failures import Failures
from tools.datasets.lists import read_pairs
from tools.errors import UserError

log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """One item: the file, its name in the list, its caption."""

    file: Path
    key: str
    caption: str


class ListedDataset(Dataset):
    """Items of `path|||caption` lists; a subclass says in `load` what an item is.

    A file that cannot be read is reported once and counted, and another item takes its place. Which one, and all that
    is drawn for it, follows from one draw of torch's generator per item: neither the other items nor the number of
    workers matter.

    Args:
        data_list: list files.
        data_dir_list: one folder for each, to which its paths are relative.
        resolution: [width, height] of the pixels; used where `transforms` is not given.
        vit_resolution: [width, height] of the CLIP picture; used where `vit_transforms` is not given.
        transforms: list of F PIL images -> float32 [F, 3, H, W].
        vit_transforms: PIL image -> float32 [3, h', w'].

    Raises:
        UserError: a list is missing, empty or in the wrong form; the numbers of lists and folders differ; nothing in
            the lists can be read.
    """

    def __init__(self, data_list: Sequence[str], data_dir_list: Sequence[str], resolution: Sequence[int],
                 vit_resolution: Sequence[int], transforms: Callable | None, vit_transforms: Callable | None):
        if len(data_list) != len(data_dir_list):
            raise UserError(f"data_list names {len(data_list)} lists and data_dir_list {len(data_dir_list)} folders; "
                            "give one folder for each list")
        if not data_list:
            raise UserError("data_list names no list file")
        self.transforms = transforms or defaults.train_transforms(resolution, (0.5,) * 3, (0.5,) * 3)
        self.vit_transforms = vit_transforms or defaults.vit_transforms(resolution, vit_resolution, defaults.CLIP_MEAN,
                                                                        defaults.CLIP_STD)
        self.data_list = list(data_list)
        self.entries = [Entry(Path(folder) / item.path, item.path, item.caption)
                        for file, folder in zip(data_list, data_dir_list, strict=True)
                        for item in read_pairs(file, seeds=False)]
        self._files = list(dict.fromkeys(entry.file for entry in self.entries))
        self._number = {file: number for number, file in enumerate(self._files)}
        self._failures = Failures(len(self._files), log)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict:
        seed = int(torch.randint(2**62, ()))
        return self._first_readable(self._candidates(index, seed), seed)

    def load(self, entry: Entry, generator: torch.Generator) -> dict:
        """The item; whatever it draws comes from `generator`. UserError where its file cannot be read."""
        raise NotImplementedError

    @property
    def failures(self) -> list[str]:
        """Files found unreadable so far, by any worker."""
        return [str(self._files[number]) for number in self._failures.numbers()]

    def require_readable(self) -> None:
        """Read items in order up to the first good one; subclasses call this last in their constructor.

        Raises:
            UserError: there is none.
        """
        self._first_readable(range(len(self)), seed=0)

    def _candidates(self, index: int, seed: int) -> Iterator[int]:
        """The item itself, then all in an order fixed by `seed`."""
        yield index
        yield from torch.randperm(len(self), generator=torch.Generator().manual_seed(seed)).tolist()

    def _first_readable(self, candidates: Iterable[int], seed: int) -> dict:
        for entry in map(self.entries.__getitem__, candidates):
            if self._number[entry.file] in self._failures:
                continue
            try:
                return self.load(entry, torch.Generator().manual_seed(seed))
            except UserError as error:
                self._failures.report(self._number[entry.file], error)
        raise UserError(f"none of the {len(self._files)} files of {', '.join(self.data_list)} can be read, '"
                        f"{self._files[0]}' for one; the log has the reasons (is data_dir_list right?)")

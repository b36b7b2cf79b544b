"""The sampling loop: requests of a list, shared over the ranks, each to a video with a sidecar."""
import functools
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from tools import checkpoint, runtime
from tools.datasets.lists import Item
from tools.errors import BadItem, UserError
from tools.media import to_uint8, write_video

log = logging.getLogger(__name__)

MAX_SEED = 2**63 - 1  # of torch's generators


@dataclass(frozen=True)
class Request:
    """One video to make.

    Attributes:
        item: line of the list it comes from.
        index: number of the request in the list: every line counts `round` times, skipped ones too, as in the
            original, whose file names carry it.
        seed: of this request's noise.
    """

    item: Item
    index: int
    seed: int

    def generator(self) -> torch.Generator:
        """Fresh CPU generator; the request's noise depends on nothing else."""
        return torch.Generator().manual_seed(self.seed)


class Sampling:
    """Runs the requests of one engine.

    The engine says which items there are (`items`), what a request's file is called (`output_name`) and makes the
    videos (`generate`).

    Args:
        engine: the method; not built yet, so that bad lists are refused before any weight is read.
    """

    def __init__(self, engine):
        self.engine, self.cfg, self.runtime = engine, engine.cfg, engine.runtime

    @property
    def folder(self) -> Path:
        """Where videos go: `{log_dir}/{list name}`."""
        return Path(self.cfg.log_dir) / self.engine.list_name

    def run(self) -> None:
        """Make every video of the list that falls to this rank."""
        runtime.start_logging(self.runtime, None)
        requests = self.requests()
        self.engine.check()
        self.engine.build()
        runtime.start_logging(self.runtime, self.folder / self.engine.log_file(self.runtime.rank))
        if self.cfg.seeding == "sequential":
            runtime.seed_everything(self.cfg.seed + self.runtime.rank)
        log.info("%d videos to make in %s", len(requests), self.folder)
        size, failed = self.cfg.batch_size, 0
        with tqdm(total=len(requests), desc="videos", unit="video", disable=not self.runtime.is_main) as bar:
            for start in range(0, len(requests), size):
                chosen = requests[start:start + size]
                with tqdm(total=1, desc=chosen[0].item.caption[:40], unit="step", leave=False,
                          disable=not self.runtime.is_main) as steps:
                    failed += self._attempt(chosen, functools.partial(_show, steps))
                bar.update(len(chosen))
        self.runtime.barrier()
        if failed == len(requests) > 0 and self.runtime.world_size == 1:
            raise UserError(f"none of the {failed} videos could be made; the errors above say why")
        if self.runtime.is_main:
            self.engine.sampled(self)
        log.info("done: %s%s", self.folder, f"; {failed} of {len(requests)} could not be made" if failed else "")

    def requests(self) -> list[Request]:
        """This rank's share of the expanded list, without what an interrupted run has made when `resume` is set."""
        own = self.listed[self.runtime.rank::self.runtime.world_size]
        return [r for r in own if not (self.cfg.resume and self._path(r).with_suffix(".json").exists())]

    def outputs(self) -> list[Path]:
        """Paths of all videos of the list, those of the other ranks and of an interrupted run included."""
        ranks = self.runtime.world_size
        return [self._path(request, number % ranks) for number, request in enumerate(self.listed)]

    @functools.cached_property
    def listed(self) -> list[Request]:
        """All requests of the list that can be made; the others are reported.

        Raises:
            UserError: there are none.
        """
        found, refused = [], []
        for request in self._expanded():
            try:
                found.append(self.engine.resolved(request))
            except UserError as error:
                refused.append(error)
        if not found:
            raise UserError(f"{refused[0]}{f' (and {len(refused) - 1} more)' if refused[1:] else ''}")
        for error in refused:
            log.error("left out: %s", error)
        return found

    def _expanded(self) -> list[Request]:
        """Every line with a caption, `round` times."""
        cfg = self.cfg
        requests = []
        for item in self.engine.items():
            if not item.caption:
                log.info("line %d has no caption, skipped", item.line)
                continue
            for r in range(cfg.round):
                index = (item.line - 1) * cfg.round + r
                seed = cfg.seed + index if item.seed is None else item.seed + r
                if seed > MAX_SEED:
                    raise UserError(f"list file '{cfg.test_list_path}', line {item.line}: seed {seed} is too large; "
                                    f"seeds end at {MAX_SEED}")
                requests.append(Request(item, index, seed))
        if not requests:
            raise UserError(f"list file '{cfg.test_list_path}' has no line with a caption")
        return requests

    def _path(self, request: Request, rank: int | None = None) -> Path:
        rank = self.runtime.rank if rank is None else rank
        return self.folder / self.engine.output_name(request, rank, self.runtime.world_size)

    def _attempt(self, requests: list[Request], progress: Callable[[int, int], None]) -> int:
        """Make some videos together, one by one where one of them is at fault; returns how many failed."""
        try:
            self.make(requests, progress)
        except BadItem as error:
            if len(requests) > 1:
                return sum(self._attempt([request], progress) for request in requests)
            log.error("left out: '%s': %s", requests[0].item.caption, error)
            return 1
        return 0

    def make(self, requests: list[Request], progress: Callable[[int, int], None]) -> list[Path]:
        """Make and write the videos of some requests together.

        Args:
            requests: what to make.
            progress: called with (steps done, steps in all).

        Returns:
            Paths of the videos; a sidecar lies beside each.
        """
        sequential = self.cfg.seeding == "sequential"
        if sequential and (seed := self.engine.stream_seed(requests[0])) is not None:
            runtime.seed_everything(seed)
        generators = [None] * len(requests) if sequential else [r.generator() for r in requests]
        videos = self.engine.generate([r.item for r in requests], generators, progress)
        return [self._write(request, video) for request, video in zip(requests, videos, strict=True)]

    def _write(self, request: Request, video: torch.Tensor) -> Path:
        path = self._path(request)
        written = write_video(path, to_uint8(video, self.cfg.mean, self.cfg.std), self.cfg.output_fps)
        checkpoint.save_text(json.dumps(self._sidecar(request), indent=1, default=str, ensure_ascii=False),
                             path.with_suffix(".json"))
        return written

    def _sidecar(self, request: Request) -> dict:
        """All it takes to make the video again: a list of this one line, this seed and this configuration.

        There is no seed where one stream serves the whole list.
        """
        seed = None if self.cfg.seeding == "sequential" else request.seed
        return {"prompt": request.item.caption, "seed": seed, "index": request.index,
                "rank": self.runtime.rank, "item": asdict(request.item), "weights": self.engine.weight_files,
                "torch": torch.__version__, "config": self.cfg}


def _show(bar: tqdm, done: int, total: int) -> None:
    bar.total, bar.n = total, done
    bar.refresh()

"""Replay golden cases: `python -m tests.replay CASE.json...`

Builds what each case describes, calls it, and compares every output with the figures of the original. A case is found
by the topic (the name of the folder that holds it) and its kind alone, so that any case of those formats replays from
any path. One line per case: its name, the worst relative error, and `ok`, `FAIL` or `left out: reason`. The exit code
is 1 when a case failed.
"""
import argparse
import logging
import math
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from tests.goldens.reader import load_case, relative_error
from tests.replays import LeftOut, handlers, not_built

TOLERANCE = 1e-4


@dataclass
class Result:
    """What became of one case.

    Attributes:
        errors: relative error of every output that was compared.
        left_out: reason for every output that was not.
        failure: why the case failed for another reason than a figure.
        skipped: reason why the whole case was left out.
    """

    name: str
    errors: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failure: str = ""
    skipped: str = ""
    tolerance: float = TOLERANCE

    @property
    def worst(self) -> float:
        return max(self.errors.values(), default=0.0)

    @property
    def outcome(self) -> str:
        if self.failure or self.worst >= self.tolerance:
            return "FAIL"
        return "left out" if self.skipped else "ok"

    def __str__(self) -> str:
        if self.skipped:
            return f"{self.name:44} {'-':>8}  left out: {self.skipped}"
        words = self.failure or self._wrong_outputs()
        if self.left_out:
            reasons = "; ".join(sorted(set(self.left_out.values())))
            words += f"{'; ' if words else ''}{len(self.left_out)} outputs left out: {reasons}"
        counted = f"{len(self.errors)} outputs"
        return f"{self.name:44} {self.worst:8.1e}  {self.outcome}  ({counted}{'; ' if words else ''}{words})"

    def _wrong_outputs(self) -> str:
        wrong = [f"{name} {error:.1e}" for name, error in self.errors.items() if error >= self.tolerance]
        return ", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")


def difference(out, expected) -> float:
    """Relative error of two arrays; of anything else 0 when equal and infinity when not."""
    if isinstance(expected, np.ndarray | torch.Tensor | float):
        return relative_error(out, expected)
    return 0.0 if out == expected else math.inf


def replay(path: Path, known: dict, tolerance: float = TOLERANCE) -> Result:
    """Replay the case at `path` with the handlers `known`; never raises for what is wrong with the case."""
    result = Result(path.stem, tolerance=tolerance)
    try:
        case, expected = load_case(path)
        topic, kind = path.resolve().parent.name, case_kind(case)
        if topic not in {replayed for replayed, _ in known}:
            raise LeftOut(f"no case of topic '{topic}' is replayed yet")
        if (topic, kind) not in known:
            raise not_built(kind)
        for name, out, wanted in known[topic, kind](case, expected, path):
            if isinstance(out, LeftOut):
                result.left_out[name] = str(out)
            else:
                result.errors[name] = difference(out, wanted)
        _check_complete(result, expected)
    except LeftOut as reason:
        result.skipped = str(reason)
    except Exception as error:  # noqa: BLE001 - a crash of one case is its failure; the others are still replayed
        result.failure = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        logging.debug("%s\n%s", path, traceback.format_exc())
    return result


def case_kind(case: dict) -> str:
    """What a case's JSON says about how it is replayed; one of sample files says nothing but which there are."""
    return case.get("kind") or case.get("procedure") or case.get("component") or ("files" if "files" in case else "")


def _check_complete(result: Result, expected: dict) -> None:
    """An array that no handler spoke of is a failure, so that nothing is passed over in silence."""
    spoken_of = result.errors.keys() | result.left_out.keys()
    whole = spoken_of | {name[:i] for name in spoken_of for i, letter in enumerate(name) if letter == "/"}
    if missing := [name for name in expected if name not in whole]:
        result.failure = f"{len(missing)} outputs not replayed, first '{missing[0]}'"
    elif not result.errors:
        result.skipped = "; ".join(sorted(set(result.left_out.values()))) or "it has no outputs"


def main(arguments: Iterable[str] | None = None) -> int:
    """Replay the cases named on the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.replay", description=__doc__.split("\n\n")[1])
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASE.json")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE,
                        help="relative error that fails (default %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="tracebacks of cases that failed with an exception")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.ERROR, format="%(message)s")
    known = handlers()
    results = []
    for path in options.cases:
        results.append(replay(path, known, options.tolerance))
        print(results[-1], flush=True)
    counts = {outcome: sum(r.outcome == outcome for r in results) for outcome in ("ok", "FAIL", "left out")}
    worst = max((r.worst for r in results if r.outcome == "ok"), default=0.0)
    print(f"{len(results)} cases: {counts['ok']} ok (worst relative error {worst:.1e}), {counts['FAIL']} FAIL, "
          f"{counts['left out']} left out")
    return 1 if counts["FAIL"] else 0


if __name__ == "__main__":
    sys.exit(main())

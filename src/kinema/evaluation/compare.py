"""How much sources differ: each from the first, clip by clip where their clips belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kinema.evaluation.evaluate import Evaluation
from kinema.evaluation.measure import distances_of
from kinema.metrics.protocol import Result
from kinema.metrics.resampling import difference_interval, paired_test
from kinema.report.markdown import Difference

__all__ = ["differences", "refuse_other_protocols"]


def refuse_other_protocols(results: Sequence[Result]) -> None:
    """Raise ValueError where results were measured in different ways, that names what differs."""
    if not results:
        raise ValueError("there are no results in these files: make them with kinema evaluate --out")
    first = results[0]
    for other in results[1:]:
        if other.protocol.hash != first.protocol.hash:
            names = [
                name
                for name in first.protocol.__dataclass_fields__
                if getattr(first.protocol, name) != getattr(other.protocol, name)
            ]
            was, is_ = (getattr(result.protocol, names[0]) for result in (first, other))
            raise ValueError(
                f"{first.source} and {other.source} were measured by different protocols ({names[0]}: {was} and "
                f"{is_}): measure them anew by one"
            )


def differences(found: Sequence[Evaluation], reference: Evaluation | None) -> list[Difference]:
    """Each source less the first one, by every measure: of distances by halves, of clips' measures by pairs of seeds.

    Measures of single clips are compared where clips belong together: of the same seeds and conditions, or predictions
    of the same files.
    """
    first, *others = found
    rows: list[Difference] = []
    for other in others:
        if reference is not None:
            tables = other.rows.features, first.rows.features, reference.rows.features
            groups = other.rows.groups, first.rows.groups, reference.rows.groups
            for names, of, _, _ in distances_of(first.result.protocol.features["name"]):
                if any(math.isnan(one.result.numbers[names[0]].value) for one in (first, other)):
                    continue
                # `of` takes the reference first
                apart = difference_interval(lambda x, real, of=of: of(real, x), *tables, groups)
                ends = np.stack([np.atleast_1d(end) for end in apart], 1).tolist()
                for name, (value, low, high) in zip(names, ends, strict=True):
                    rows.append(Difference(name, other.result.source, first.result.source, value, low, high, math.nan))
        if first.result.kind == other.result.kind == "generated" or first.result.protocol.paired:
            for name, values in other.rows.each.items():
                pairs = np.stack([values, first.rows.each.get(name, np.full(len(values), np.nan))])
                there = np.isfinite(pairs).all(0)
                if there.sum() >= 2 and np.ptp(pairs[:, there]) > 0:
                    test = paired_test(*pairs[:, there], groups=first.rows.groups[there])
                    names = name, other.result.source, first.result.source
                    rows.append(Difference(*names, test.value, test.low, test.high, test.p))
    return rows

"""river's detectors with their defaults on the curves of a folder: alarms on healthy steps, and faults found.

Faults, places and counting are those of detectors.rs and faults.rs. Prints one JSON object.
"""

import json
import lzma
import pathlib
import sys

import river
from river import drift

WARM_UP, ONE_ALARM, EACH, BEFORE, AFTER, WITHIN = 2_000, 200, 8, 4_000, 400, 100
FAULTS = {"ramp_0.001": lambda n: 0.001 * n, "step_0.05": lambda n: 0.05, "step_0.3": lambda n: 0.3}
DETECTORS = {
    "adwin": lambda: drift.ADWIN(),
    "page-hinkley": lambda: drift.PageHinkley(),
}


def alarms(make, values):
    detector, count, following = make(), 0, WARM_UP
    for n, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected and n >= following:
            count, following = count + 1, n + ONE_ALARM
    return count


def delays(make, values, adds):
    room = len(values) - 10_000 - AFTER
    for k in range(EACH):
        place = 10_000 + (2 * k + 1) * room // (2 * EACH)
        detector = make()
        for value in values[place - BEFORE : place]:
            detector.update(value)
        delay = None
        for n in range(1, AFTER + 1):
            detector.update(values[place + n - 1] + adds(n))
            if detector.drift_detected:
                delay = n
                break
        yield delay


def main():
    curves = []
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.loss.xz")):
        curves.append([float(line) for line in lzma.open(path, "rt")])
    steps, figures = sum(len(values) - WARM_UP for values in curves), {"version": river.__version__}
    for name, make in DETECTORS.items():
        figures[f"{name}_alarms_per_million"] = sum(alarms(make, values) for values in curves) * 1e6 / steps
        for fault, adds in FAULTS.items():
            found = [delay for values in curves for delay in delays(make, values, adds)]
            found.sort(key=lambda delay: AFTER + 1 if delay is None else delay)
            within = sum(delay is not None and delay <= WITHIN for delay in found)
            figures[f"{name}_{fault}_found_within_100_share"] = within / len(found)
            figures[f"{name}_{fault}_delay_median_steps"] = found[len(found) // 2]
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

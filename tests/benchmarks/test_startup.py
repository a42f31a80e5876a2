"""How long help takes, beside what LightningCLI's own import takes, in one run: `make bench`."""

import statistics
import subprocess
import sys
import time

import pytest

ROUNDS = 5


def seconds(*command):
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


@pytest.mark.parametrize("verb", ["", "fit", "test"])
def test_help(benchmark, verb):
    imports = []

    def beside():
        imports.append(seconds("-c", "import lightning.pytorch.cli"))
        return (), {}

    def ours():
        return seconds("-m", "gradgrad", *verb.split(), "--help")

    benchmark.pedantic(ours, setup=beside, rounds=ROUNDS)
    ratio = benchmark.stats.stats.median / statistics.median(imports)
    benchmark.extra_info["ratio to `import lightning.pytorch.cli`"] = round(ratio, 3)
    print(f"\ngradgrad {verb} --help: {ratio:.2f} times `import lightning.pytorch.cli` (goal: at most 1.3)")

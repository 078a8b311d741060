"""What the experiments' tests share: a small laboratory, a cache of its own, one process."""

import json
import math

import pytest

from dgm.data import uci_digits
from experiments import laboratory, out_of_distribution, results, stability


@pytest.fixture(scope="session")
def lab():
    """A laboratory with the UCI digits and 20 samples a number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laboratory, "load_mnist", lambda *args, **kwargs: uci_digits())
        missing = None, "no network in a test"
        patch.setattr(out_of_distribution, "fashion_mnist", lambda n: missing)
        yield laboratory.open_laboratory(20)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache for each test module, so that none is filled by, or fills, that of real runs."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laboratory, "CACHE", folder)
        yield folder


class OneProcess:
    """Stands for a ProcessPoolExecutor and does its jobs here, one after the other."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    map = staticmethod(map)


@pytest.fixture(scope="module")
def one_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stability, "ProcessPoolExecutor", OneProcess)
        for name in ("OMP_NUM_THREADS", "TQDM_DISABLE"):  # put back afterwards
            patch.setenv(name, "1")
        yield


@pytest.fixture(scope="session")
def finite():
    """Return whether a result, as it comes back from JSON, has more than 5 numbers, all finite."""

    def check(result):
        values = [value for _, value in results.leaves(json.loads(json.dumps(result)))]
        return len(values) > 5 and all(math.isfinite(value) for value in values)

    return check

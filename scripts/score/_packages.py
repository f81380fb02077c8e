"""Packages that a program may import: what LiveCodeBench's environment has of those that contests are solved with.

Its uv.lock has numpy, scipy, sympy, networkx, pandas, numba and regex, and what they need: so has this one, in the
versions of `envs/`. Torch and what serves language models, which it has, too, are left out; sortedcontainers it lacks,
though LeetCode and AtCoder have it. A program that imports what is not here ends in `runtime_error`. Nothing can be
written, so that numba compiles at each run and refuses `cache=True`.
"""

import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # The rules read here whose versions can move a verdict; none is imported, for that takes seconds.
    import dateutil  # noqa: F401
    import llvmlite  # noqa: F401
    import mpmath  # noqa: F401
    import networkx  # noqa: F401
    import numba  # noqa: F401
    import numpy  # noqa: F401
    import pandas  # noqa: F401
    import pytz  # noqa: F401
    import regex  # noqa: F401
    import scipy  # noqa: F401
    import sympy  # noqa: F401
    import tzdata  # noqa: F401

NAMES = ("numpy", "scipy", "sympy", "mpmath", "networkx", "regex", "numba", "llvmlite")
NAMES += ("pandas", "dateutil", "pytz", "tzdata")


def site_packages() -> Path:
    """Where the packages lie, among all others."""
    return Path(importlib.util.find_spec("numpy").origin).parents[1]


@functools.cache
def folders() -> tuple[Path, ...]:
    """The folder of each package, and that of the shared libraries which it brings along."""
    packages = [Path(importlib.util.find_spec(name).origin).parent for name in NAMES]
    libraries = [path.with_name(f"{path.name}.libs") for path in packages]
    return (*packages, *(path for path in libraries if path.is_dir()))

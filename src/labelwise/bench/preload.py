"""Everything heavy that a run needs, imported once in the process that runs are forked from.

Imported anew, these modules take a core 4 to 9 seconds a run. Only modules are imported: a pool of
threads that was used before a fork does not work after it.
"""

from __future__ import annotations

import importlib
import pkgutil
from contextlib import suppress

import labelwise

MODULES = (
    "torch._dynamo",  # torch's optimisers import it when the first is made
    "torch._inductor",
    "lightning_fabric.strategies.ddp",
    "lightning_fabric.plugins.precision",
    "lightning_fabric.loggers",
    "sklearn.datasets",
    "sklearn.isotonic",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.mixture",
    "sklearn.neural_network",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.stats",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "jinja2",
    "matplotlib.cm",
)


def own_modules() -> list[str]:
    """Every module of ours that a run may look for; commands and tables are not among them."""
    found = (item.name for item in pkgutil.walk_packages(labelwise.__path__, "labelwise."))
    no_part = ("labelwise.cli", "labelwise.bench")
    return ["labelwise.bench.worker", *(name for name in found if not name.startswith(no_part))]


for _name in (*MODULES, *own_modules()):
    with suppress(ImportError):  # some are private to one version of a package
        importlib.import_module(_name)

"""FedStill: one large teacher becomes many small students, each fitted to the device that runs it.

    import fedstill

    run = fedstill.simulate({"federation.num_nodes": 4})
    run.nodes[0].accuracy
    run.artefact("node-0000").predict(samples)

Everything here is imported when it is first asked for: `import fedstill` takes no torch, no Flower and
no Ray, and an artefact runs on the base install.

In a checkout `fedstill/` holds links to the folders beside it; a wheel holds the folders. Flower's
app bundles take no links, so there the folders beside this one are made part of the package.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedstill.common import errors as errors
    from fedstill.common.codecs import CODECS as CODECS
    from fedstill.common.config import Config as Config
    from fedstill.common.datasets import DATASETS as DATASETS
    from fedstill.common.errors import ArtefactError as ArtefactError
    from fedstill.common.errors import ConfigError as ConfigError
    from fedstill.common.errors import DataError as DataError
    from fedstill.common.errors import FedStillError as FedStillError
    from fedstill.common.errors import RunError as RunError
    from fedstill.common.errors import UsageError as UsageError
    from fedstill.common.losses import FEATURE_LOSSES as FEATURE_LOSSES
    from fedstill.common.losses import LOSSES as LOSSES
    from fedstill.common.models import MODELS as MODELS
    from fedstill.common.partitioners import PARTITIONERS as PARTITIONERS
    from fedstill.common.prediction import OpenArtefact as OpenArtefact
    from fedstill.common.prediction import open_artefact as open_artefact
    from fedstill.common.runtimes import RUNTIMES as RUNTIMES
    from fedstill.server.aggregators import AGGREGATORS as AGGREGATORS
    from fedstill.server.api import Run as Run
    from fedstill.server.api import compare as compare
    from fedstill.server.api import compress as compress
    from fedstill.server.api import plan as plan
    from fedstill.server.api import read_run as read_run
    from fedstill.server.api import simulate as simulate
    from fedstill.server.federation.strategy import FedDistill as FedDistill
    from fedstill.server.run import events as events
    from fedstill.server.schemes import SCHEMES as SCHEMES

__version__ = "0.1.0"
"""The only one in code; pyproject.toml, which Flower reads, says the same."""

if not Path(__path__[0], "common").is_dir():
    __path__.append(str(Path(__path__[0]).parent))

_HOMES = {
    "fedstill.common": ("errors",),
    "fedstill.common.codecs": ("CODECS",),
    "fedstill.common.config": ("Config",),
    "fedstill.common.datasets": ("DATASETS",),
    "fedstill.common.errors": (
        "ArtefactError",
        "ConfigError",
        "DataError",
        "FedStillError",
        "RunError",
        "UsageError",
    ),
    "fedstill.common.losses": ("FEATURE_LOSSES", "LOSSES"),
    "fedstill.common.models": ("MODELS",),
    "fedstill.common.partitioners": ("PARTITIONERS",),
    "fedstill.common.prediction": ("OpenArtefact", "open_artefact"),
    "fedstill.common.runtimes": ("RUNTIMES",),
    "fedstill.server.aggregators": ("AGGREGATORS",),
    "fedstill.server.api": ("Run", "compare", "compress", "plan", "read_run", "simulate"),
    "fedstill.server.federation.strategy": ("FedDistill",),
    "fedstill.server.run": ("events",),
    "fedstill.server.schemes": ("SCHEMES",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    *sorted(_HOME_OF),
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Imports a public name; raises `UsageError` with the command that brings what lacks."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fedstill' has no attribute {name!r}")
    home = _HOME_OF[name]
    try:
        module = import_module(home)
        found = getattr(module, name, None) or import_module(f"{home}.{name}")
    except ModuleNotFoundError as error:
        from fedstill.common.installation import explain_missing

        hint = explain_missing(error, extra="server" if home.startswith("fedstill.server") else "node")
        raise (hint or error) from None
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})

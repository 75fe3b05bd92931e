"""FedStill: one large teacher becomes many small students, each fitted to the device that runs it.

In a checkout `fedstill/` holds links to the folders beside it; a wheel holds the folders. Flower's
app bundles take no links, so there the folders beside this one are made part of the package.
"""

from pathlib import Path

__version__ = "0.1.0"
"""The only one in code; pyproject.toml, which Flower reads, says the same."""

if not Path(__path__[0], "common").is_dir():
    __path__.append(str(Path(__path__[0]).parent))

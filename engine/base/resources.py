"""Files that come with Persona Studio: characters, assets, the licence.

They lie at the top of the source tree. In an installed package they lie in
`engine/resources` (see `force-include` in pyproject.toml).
"""

from importlib.resources import files
from pathlib import Path

PACKAGES = Path(str(files("engine"))).parent  # where `python -m engine` finds the engine


def resource(name: str) -> Path:
    """A file or folder that comes with the program, e.g. "characters" or "assets/icon.png"."""
    installed = PACKAGES / "engine" / "resources" / name
    return installed if installed.exists() else PACKAGES / name

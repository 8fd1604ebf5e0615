"""Where things are: everything that is read or written is anchored at one folder.

In a checkout that folder is the repository, whatever the kernel's working directory. An installed
package reads its checkpoints from itself and writes below the current folder.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent


def root() -> Path:
    """The folder that relative paths are anchored at."""
    return _CHECKOUT if (_CHECKOUT / "pyproject.toml").is_file() else Path.cwd()


def anchored(path: str | Path) -> Path:
    """``path`` itself where it is absolute, else below :func:`root`."""
    return root() / Path(path).expanduser()


def models() -> Path:
    """The folder of the embedded checkpoints."""
    checkout = _CHECKOUT / "models"
    return checkout if checkout.is_dir() else _PACKAGE / "_share" / "models"


def shown(path: str | Path) -> str:
    """``path`` as a reader is told it: relative to :func:`root` where it lies below."""
    path = Path(path)
    return str(path.relative_to(root())) if path.is_relative_to(root()) else str(path)

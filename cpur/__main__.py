"""``python -m cpur``."""

from cpur.cli import main

if __name__ == "__main__":
    main()

"""``python -m laddernet`` is the ``laddernet`` command."""

from laddernet.cli import main

if __name__ == "__main__":
    main()

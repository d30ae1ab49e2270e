"""``python -m geomfast``: the command line."""

from geomfast.cli.main import main

if __name__ == "__main__":
    main()

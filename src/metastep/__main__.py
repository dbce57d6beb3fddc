"""`python -m metastep`: the command line."""

from metastep.cli import main

if __name__ == "__main__":
    main()

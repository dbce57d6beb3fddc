"""`python -m metastep`: the command line."""

from metastep_lab.cli import main

if __name__ == "__main__":
    main()

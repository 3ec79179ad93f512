"""`python -m prunetune ...` is the command `prunetune ...`."""

from prunetune.cli import main

if __name__ == "__main__":
    main()

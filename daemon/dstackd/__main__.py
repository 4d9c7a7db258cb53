"""`python -m dstackd` is the same program as the `dstackd` script."""

from dstackd.cli import main

if __name__ == "__main__":
    main()

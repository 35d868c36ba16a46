"""The command `moe-offload`, apart from the packages: to be interrupted while they are loading is no error either."""

import sys


def main() -> int:
    try:
        from offload.cli import main as run
    except KeyboardInterrupt:
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())

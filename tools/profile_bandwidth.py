"""Measures what this machine's memory, links and kernels deliver: `moe-offload profile` as a script.

python -m tools.profile_bandwidth --quick
"""

import sys

from offload.cli import main

if __name__ == "__main__":
    sys.exit(main(["profile", *sys.argv[1:]]))

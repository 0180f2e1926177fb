"""Drover's command. Without a subcommand it serves."""

import sys

from gateway.cli import main

if __name__ == "__main__":
    sys.exit(main())

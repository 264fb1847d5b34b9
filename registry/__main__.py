"""`python -m registry` is `adapters`."""

from registry.cli import main

main()

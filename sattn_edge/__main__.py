"""`python -m sattn_edge` is `sattn`."""

from sattn_edge.cli import main

main()

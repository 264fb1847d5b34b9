"""The room a server sets aside for adapters: how much, and the command that says so."""

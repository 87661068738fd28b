"""Many files, one command: what is to be done, and doing it."""

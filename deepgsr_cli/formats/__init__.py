"""File formats in and out; nothing else parses bytes."""

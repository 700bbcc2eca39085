"""The commands, one file each: a table of contents that returns its result to whoever calls it in Python."""

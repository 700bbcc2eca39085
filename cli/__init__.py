"""The command line: from typed words to options, help pages, presets. Imports no torch."""

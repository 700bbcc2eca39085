"""The report of runs: one HTML file that needs nothing else. Each section is one file in sections/."""

"""The sections of a report, a file each: TITLE, and build(subject), "" where there is nothing to show."""

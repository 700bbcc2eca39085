"""The run folder: what one training leaves behind, and the sinks that write and show it."""

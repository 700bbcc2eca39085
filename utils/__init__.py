"""Everything around the loop: the command line, the run folder, checkpoints and the views of a run."""

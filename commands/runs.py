"""The command `runs`."""

import sys
from typing import Any

from fire.decorators import SetParseFn

from cli.resolve import resolve


@SetParseFn(str)
def runs(*words: Any, **flags: Any) -> list[dict[str, Any]]:
    """List all runs: how they stand, what they reached, where they differ; or compare some, with their curves.

    Finished runs that differ in the seed alone are one row: mean, standard deviation, count. Two such rows are told
    apart only where they differ by more than the noise of the seeds. Words name runs to compare: folders, their names
    in --checkpoint-dir, or last.

    Returns:
        A dict for each row.

    Examples:
        python main.py runs
        python main.py runs --where="lr<0.01" --sort=-val_accuracy
        python main.py runs --csv
        python main.py runs RUN1 RUN2 --curves-file=curves.png
    """
    opt = resolve("runs", flags)
    from runs import compare, layout, noise, selection, table
    from sweeps import results

    compare.check_options(opt, words)
    found = compare.read(words, opt.checkpoint_dir) if words else table.read_all(opt.checkpoint_dir)
    rows = selection.chosen(table.grouped(found), opt.where, opt.sort)
    against = noise.against_first(rows) if words else noise.against_best(rows)
    records = compare.records(rows, against) if words else layout.records(rows, against)
    if opt.csv or opt.json:
        print(layout.to_csv(records) if opt.csv else layout.to_json(records))
    else:
        print((compare if words else layout).to_text(rows, against, layout.terminal_width()))
        for line in () if words else results.lines(opt.checkpoint_dir):
            print(line)
    if words and rows:
        from runs import curves

        for line in curves.draw(rows, opt):
            print(line, file=sys.stderr if opt.csv or opt.json else sys.stdout)
    return records

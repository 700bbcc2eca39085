"""The command `report`."""

from pathlib import Path
from typing import Any

from fire.decorators import SetParseFn

from cli.resolve import resolve
from runs import history
from utils import files
from utils.text import counted, printable


@SetParseFn(str)
def report(*folders: Any, **flags: Any) -> Path:
    """Write a page on one or more runs: one HTML file that needs nothing else, and no internet.

    Names of run folders, paths, or last. Several runs are compared; those that differ in the seed alone are one line.

    Returns:
        The file.

    Examples:
        python main.py report last
        python main.py report RUN OTHER_RUN --report-file=compared.html
        python main.py report RUN --no-gallery
    """
    opt = resolve("report", flags)
    histories = history.find(folders, opt.checkpoint_dir)
    place = histories[0].folder if len(histories) == 1 else Path()
    path = Path(opt.report_file or place / "report.html")
    files.check_writable(path, "--report-file")
    if opt.gallery:
        files.check_writable(path.with_name("wrong_labels.csv"), "--report-file")

    from report import page, subject

    about = subject.make(histories, opt)
    text, count = page.build(about)
    with files.atomic_write(path) as file:
        file.write(text)
    if about.judged:
        from report import findings

        for line in findings.write(about.judged, path.parent):
            print(line)
    if about.why_not:
        print(f"without what shows single images: {about.why_not}")
    print(f"{printable(path)}: {len(text.encode()) / 1000:.0f} KB, {counted(count, 'section')}; open it in a browser")
    return path

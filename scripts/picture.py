"""Draws docs/demo.svg and rehearse.svg: the terminal output of nfpatch on the neuralforecast 1.7.4 of `make demo`.

Run by `make picture`, in the environment that it shows.
"""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tests" / "rehearsals" / "scripts" / "train.py"
# The patch whose diff is in the README; all that 1.7.4 needs would fill several screens.
PATCH = "tft-static-encoder"
# Picture -> the commands that it shows, each with its exit code
PICTURES = {
    "demo.svg": ((0, "status", PATCH), (0, "apply", PATCH), (0, "verify", PATCH), (0, "revert", PATCH)),
    "rehearse.svg": ((1, "rehearse", SCRIPT.name), (0, "rehearse", "--source", "patched", SCRIPT.name)),
}
WIDTH = 112  # columns
MOST_LINES = 30

# Rich's own frame, without the fonts that it would load from the network.
FRAME = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font: {char_height}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace;
  line-height: {line_height}px;
}}
.{unique_id}-title {{ font: {char_height}px system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def printed_by(command: list[str], exit_code: int, folder: str) -> str:
    """The output of a command on a terminal in this folder, with colours and without the progress display."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, env=environment, cwd=folder, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        printed = b""
        try:
            while chunk := os.read(ours, 65536):
                printed += chunk
        except OSError:  # on Linux: the other end is closed
            pass
        _, complaints = process.communicate()
    if process.returncode != exit_code:
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}\n{complaints.decode()}")
    return printed.decode().replace("\r\n", "\n")


def draw(name: str) -> None:
    """Runs the commands of a picture and draws what they print, without blank lines, with paths of the repository."""
    with open(os.devnull, "w") as nowhere, tempfile.TemporaryDirectory(prefix="nfpatch-picture-") as folder:
        shutil.copy(SCRIPT, folder)  # a training writes its logs next to it
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True, color_system="truecolor")
        for exit_code, *command in PICTURES[name]:
            console.print(Text("$ nfpatch " + " ".join(command), style="bold"))
            printed = printed_by([str(Path(sys.prefix, "bin", "nfpatch")), *command], exit_code, folder)
            shown = [line for line in printed.replace(f"{ROOT}{os.sep}", "").splitlines() if line.strip()]
            is_last = (exit_code, *command) == PICTURES[name][-1]
            console.print(Text.from_ansi("\n".join([*shown, *([] if is_last else [""])])))
    lines = console.export_text(clear=False).count("\n")
    if lines > MOST_LINES:
        sys.exit(f"{name} has {lines} lines, and {MOST_LINES} are as many as a reader looks at: show less")
    picture = ROOT / "docs" / name
    picture.write_text(console.export_svg(title="nfpatch", code_format=FRAME, unique_id="nfpatch"), encoding="utf-8")
    print(f"{picture.relative_to(ROOT)}: {lines} lines, {picture.stat().st_size} bytes")


if __name__ == "__main__":
    for picture in PICTURES:
        draw(picture)

"""Draw docs/demo.svg and rehearse.svg: what nfpatch prints on a terminal, on the neuralforecast 1.7.4 of `make demo`.

`make picture` runs it, in the environment that it shows.
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
# One patch, because all that 1.7.4 needs would fill several screens: the one whose diff is in the README.
PATCH = "tft-static-encoder"
# The commands of each picture, with their exit codes.
PICTURES = {
    "demo.svg": ((0, "status", PATCH), (0, "apply", PATCH), (0, "verify", PATCH), (0, "revert", PATCH)),
    "rehearse.svg": ((1, "rehearse", SCRIPT.name), (0, "rehearse", "--source", "patched", SCRIPT.name)),
}
WIDTH = 112  # columns
MOST_LINES = 30

# Rich's own frame, without the fonts that it would load from elsewhere.
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


def run_on_terminal(command: list[str], exit_code: int, folder: str) -> str:
    """Run a command in this folder and return what it prints on a terminal, with its colours, without its progress."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, env=environment, cwd=folder, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        printed = b""
        try:
            while chunk := os.read(ours, 65536):
                printed += chunk
        except OSError:  # Linux: the other end is closed
            pass
        _, errors = process.communicate()
    if process.returncode != exit_code:
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}\n{errors.decode()}")
    return printed.decode().replace("\r\n", "\n")


def draw(name: str) -> None:
    """Run the commands of a picture and draw what they print, without blank lines, with paths below the repository."""
    with open(os.devnull, "w") as nowhere, tempfile.TemporaryDirectory(prefix="nfpatch-picture-") as folder:
        shutil.copy(SCRIPT, folder)  # a training writes its logs there
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True, color_system="truecolor")
        for exit_code, *command in PICTURES[name]:
            console.print(Text("$ nfpatch " + " ".join(command), style="bold"))
            printed = run_on_terminal([str(Path(sys.prefix, "bin", "nfpatch")), *command], exit_code, folder)
            shown = [line for line in printed.replace(f"{ROOT}{os.sep}", "").splitlines() if line.strip()]
            is_last = (exit_code, *command) == PICTURES[name][-1]
            console.print(Text.from_ansi("\n".join([*shown, *([] if is_last else [""])])))
    lines = console.export_text(clear=False).count("\n")
    if lines > MOST_LINES:
        sys.exit(f"{name} has {lines} lines, more than {MOST_LINES}: show less")
    picture = ROOT / "docs" / name
    picture.write_text(console.export_svg(title="nfpatch", code_format=FRAME, unique_id="nfpatch"), encoding="utf-8")
    print(f"{picture.relative_to(ROOT)}: {lines} lines, {picture.stat().st_size} bytes")


if __name__ == "__main__":
    for picture in PICTURES:
        draw(picture)

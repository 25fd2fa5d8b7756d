"""Draws docs/demo.svg: what nfpatch prints on a terminal, on the real neuralforecast 1.7.4 of `make demo`.

Run by `make picture`, in the environment that it shows.
"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "demo.svg"
# The proof of all patches would fill several screens.
MISSION = ("nbeatsx-unused-out", "tft-static-encoder")
COMMANDS = (("status",), ("apply", *MISSION), ("verify", *MISSION), ("revert", *MISSION))
WIDTH = 112  # columns; what `status` prints fits without a break

# Rich's own frame, but for the fonts that it would load from elsewhere.
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


def printed_by(command: list[str]) -> str:
    """What a command prints on a terminal, colours included; its progress, which comes and goes, is left out."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, env=environment, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        printed = b""
        try:
            while chunk := os.read(ours, 65536):
                printed += chunk
        except OSError:  # how Linux tells that the other end is closed
            pass
        _, complaints = process.communicate()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}\n{complaints.decode()}")
    return printed.decode().replace("\r\n", "\n")


def main() -> None:
    """Runs the commands and draws what they print, with paths relative to the repository."""
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True, color_system="truecolor")
        for command in COMMANDS:
            console.print(Text("$ nfpatch " + " ".join(command), style="bold"))
            printed = printed_by([str(Path(sys.prefix, "bin", "nfpatch")), *command])
            console.print(Text.from_ansi(printed.replace(f"{ROOT}{os.sep}", "")))
    PICTURE.write_text(console.export_svg(title="nfpatch", code_format=FRAME, unique_id="nfpatch"), encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()

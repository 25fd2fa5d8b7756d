#!/usr/bin/env bash
# The main job on real input: a fresh neuralforecast 1.7.4 is patched, proved and restored. With the argument
# "picture" it is drawn as docs/demo.svg, and a rehearsal as docs/rehearse.svg.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=.demo
python="$environment/bin/python"
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$environment/bin/$1" "${@:2}"; }

say "1/3 An environment with a real neuralforecast 1.7.4 and torch 2.13.0 in $environment (some minutes, once)"
if [ ! -e "$environment/ready" ] || [ scripts/training-env.txt -nt "$environment/ready" ]; then
    rm -rf "$environment"
    "${PYTHON:-python3}" -m venv "$environment"
    "$python" -m pip install -r scripts/training-env.txt
    touch "$environment/ready"
fi

say "2/3 nfpatch into it, and neuralforecast 1.7.4 as released"
"$python" -m pip install --quiet --force-reinstall --no-deps neuralforecast==1.7.4
"$python" -m pip install --quiet .

say "3/3 The main job"
if [ "${1-}" = picture ]; then
    exec "$python" scripts/picture.py
fi
show nfpatch status
# Without names, the same patches and proves all that 1.7.4 needs; the proof then takes minutes.
mission=(nbeatsx-unused-out tft-static-encoder)
show nfpatch apply "${mission[@]}" --dry-run
show nfpatch apply "${mission[@]}"
show nfpatch verify "${mission[@]}"
show nfpatch revert
show nfpatch status

say "Done: the environment is as released again. The proof above is the point; 'make test' runs the tests."

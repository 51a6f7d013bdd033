#!/usr/bin/env bash
# Makes or completes .venv in the project root; a second run installs nothing. Works from any directory.
#
#   bash launch/setup.sh                   the build that fits this machine: CUDA where there is an NVIDIA GPU, else CPU
#   bash launch/setup.sh cpu|cuda          that build
#   bash launch/setup.sh cpu --torch 2.11  another triple of torch, FBGEMM and TorchRec (sharded_emb/versions.py)
#   bash launch/setup.sh --no-dev          without what tests need; --dev brings it back
#
# What an earlier run chose stays chosen. Packages come from wherever pip is set up to look. Exit codes: 0 complete,
# 2 a wrong argument, 1 anything else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' launch/setup.sh; }
refuse() { printf 'setup: %s\n\n' "$1" >&2; usage >&2; exit 2; }
fail() { printf 'setup: %s\n' "$1" >&2; exit 1; }

device="" torch="" dev=""
while (($#)); do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        cpu | cuda) device=$1 ;;
        --dev | --no-dev) dev=${1#--} ;;
        --torch) [[ $# -ge 2 ]] || refuse "--torch: want a version such as 2.13, got nothing"; torch=$2; shift ;;
        *) refuse "unknown argument '$1'" ;;
    esac
    shift
done

stamp=.venv/complete
# what an earlier run chose stays chosen, so that quickstart and test do not undo `setup.sh cpu --torch 2.11`
if [[ -f $stamp ]]; then
    read -r had_device had_torch had_dev _ <"$stamp" || true
    device=${device:-${had_device:-}} torch=${torch:-${had_torch:-}}
    if [[ ${had_dev:-} == no-dev ]]; then dev=${dev:-no-dev}; fi
fi
if [[ -z $device ]]; then
    device=cpu
    if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then device=cuda; fi
fi
torch=${torch:-2.13} dev=${dev:-dev}

# the folder is part of it: the editable install of a .venv that was moved or copied points to the old place
wanted="$device $torch $dev $( (cat pyproject.toml sharded_emb/versions.py launch/setup.sh; pwd -P) | cksum | tr ' ' -)"
complete() { [[ -x .venv/bin/python && -f $stamp && $(<"$stamp") == "$wanted" ]]; }
if complete; then exit 0; fi

# two scripts started at once: the second waits here, then finds the work done
if command -v flock >/dev/null; then
    exec 9<>pyproject.toml
    flock 9
    if complete; then exit 0; fi
fi

new_enough='import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))'
find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null && "$name" -c "$new_enough" 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    fail "want Python 3.11 or newer with venv, found $(python3 --version 2>&1 || echo none); install one (Debian,\
 Ubuntu: apt-get install python3 python3-venv)"
}

# a .venv whose making was interrupted has a python and no pip
usable() { .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# before anything is touched: a wrong --torch must not cost a complete .venv
if usable; then python=.venv/bin/python; else python=$(find_python); fi
requirements=$("$python" -I sharded_emb/versions.py "$device" "$torch") || exit 2
{ read -r -a full; read -r -a alone; } <<<"$requirements"

rm -f "$stamp"
if ! usable; then "$python" -m venv --clear .venv; fi
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }

echo "setup: installing ${full[0]} ${alone[*]} and the project's requirements into .venv (some minutes, once)" >&2
# both FBGEMM builds install into one folder: the other one has to be gone first, and what it overwrote put back
if [[ $device == cpu ]]; then other=fbgemm-gpu; else other=fbgemm-gpu-cpu; fi
if .venv/bin/python -m pip show --quiet "$other" 2>/dev/null; then pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu; fi
# or pip reports, as an error, the fbgemm-gpu that a torchrec of another triple asks for
had_torchrec=$(.venv/bin/python -m pip show torchrec 2>/dev/null | sed -n 's/^Version: //p' || true)
if [[ -n $had_torchrec && torchrec==$had_torchrec != "${alone[1]}" ]]; then pip uninstall -y torchrec; fi
# pip takes a CPU build of the wanted release for good enough and would keep it
if [[ $device == cuda ]] && .venv/bin/python -m pip show torch 2>/dev/null | grep -q '^Version:.*+cpu'; then
    pip uninstall -y torch
fi
pip install "${full[@]}"
# without dependencies: torchrec asks for the CUDA fbgemm-gpu even on a CPU, which overwrites the CPU build
pip install --no-deps "${alone[@]}"
if [[ $dev == dev ]]; then pip install -e ".[dev]"; else pip install -e .; fi
# the wheel's copy of conf/ comes with an editable install as well, where it would only age
rm -rf .venv/lib/python3*/site-packages/sharded_emb

.venv/bin/python -c 'from sharded_emb import versions; versions.check()' ||
    fail "the installed versions do not fit together (above)"
if [[ $device == cuda ]]; then
    .venv/bin/python -c 'import sys, torch; sys.exit(torch.version.cuda is None)' ||
        fail "want a CUDA build of torch, got a CPU build: that is what pip's index offers here; point pip at an index\
 with CUDA builds (PIP_INDEX_URL), or run: bash launch/setup.sh cpu"
fi
said=$(.venv/bin/python -c 'import fbgemm_gpu, torchrec' 2>&1) ||
    fail "the installed torch, FBGEMM and TorchRec do not import (${said##*$'\n'}); remove .venv and run this again"
echo "$wanted" >"$stamp"

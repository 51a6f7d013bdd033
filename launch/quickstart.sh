#!/usr/bin/env bash
# From nothing to a result: makes .venv if there is none, generates a small behaviour log, prepares it, trains on it,
# evaluates, and shows the result beside counting baselines. Works from any directory.
#
#   bash launch/quickstart.sh
#   bash launch/quickstart.sh epochs=3 model.dropout=0.1
#   bash launch/quickstart.sh experiment=sasrec_ml100k dataset.raw=PATH
#
# Arguments are Hydra overrides, and --config-dir FOLDER. Paths are relative to the project root. The dataset goes to
# data/EXPERIMENT (or data=FOLDER) and is reused while it is there; overwrite=true prepares it again. The run goes to
# runs/EXPERIMENT-YYYYMMDD-HHMMSS (or run=FOLDER). The exit code is that of the first command that failed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' launch/quickstart.sh; }
refuse() { printf 'quickstart: %s\n\n' "$1" >&2; usage >&2; exit 2; }

experiment=quickstart data="" run="" options=() overrides=() dataset=() overwrite=() resume=() device=()
while (($#)); do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        --config-dir) [[ $# -ge 2 ]] || refuse "--config-dir: want a folder, got nothing"; options+=("$1" "$2"); shift ;;
        --config-dir=*) options+=("$1") ;;
        -*) refuse "unknown argument '$1'" ;;
        experiment=*) experiment=${1#*=} ;;
        data=*) data=${1#*=} ;;
        run=*) run=${1#*=} ;;
        overwrite=*) overwrite=("$1") ;;
        resume=*) resume=("$1") ;;
        dataset=* | dataset.* | +dataset.* | ++dataset.* | "~dataset."*) dataset+=("$1"); overrides+=("$1") ;;
        device=*) device=("$1"); overrides+=("$1") ;;
        *=* | "~"*) overrides+=("$1") ;;
        *) refuse "want KEY=VALUE, got '$1'" ;;
    esac
    shift
done
data=${data:-data/$experiment}
run=${run:-runs/$experiment-$(date +%Y%m%d-%H%M%S)}
# all of it to both, so that a typo in a key of the training is found before anything is prepared
# (bash 4.3 and older call an empty array unset)
both=(${options[@]+"${options[@]}"} "experiment=$experiment" "data=$data" ${overrides[@]+"${overrides[@]}"})

bash launch/setup.sh
python=.venv/bin/python

# what is neither true nor false, prepare refuses
if [[ -f $data/manifest.yaml && ${overwrite[*]:-overwrite=false} =~ ^overwrite=([Ff]alse|FALSE|[Nn]o|[Oo]ff|0)$ ]]; then
    echo "quickstart: the dataset folder $data is there and is reused as it is"
    if ((${#dataset[@]})); then
        echo "quickstart: ${dataset[*]} changes nothing in it; prepare it again with overwrite=true, or give another data="
    fi
else
    "$python" -m sharded_emb.prepare "${both[@]}" ${overwrite[@]+"${overwrite[@]}"}
fi
"$python" -m sharded_emb.train "${both[@]}" "run=$run" ${resume[@]+"${resume[@]}"}
"$python" -m sharded_emb.evaluate "run=$run" baselines=true ${device[@]+"${device[@]}"}
echo "quickstart: the run is in $run"

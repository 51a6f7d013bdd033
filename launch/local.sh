#!/usr/bin/env bash
# Starts a command under torchrun, on this machine alone. Works from any directory; makes .venv if there is none.
#
#   bash launch/local.sh train experiment=sasrec_beauty data=data/beauty      one process per GPU, two without any
#   bash launch/local.sh -n 4 train experiment=sasrec_beauty sharding=row_wise
#   bash launch/local.sh --numa node train experiment=sasrec_beauty      each rank on the CPUs that its GPU hangs from
#
# --numa is torchrun's --numa-binding (node, socket, exclusive or core-complex), for GPUs and with numactl installed.
# COMMAND is one that runs on many ranks: train, evaluate, export or explore. What follows it goes to it as it is. Paths are
# relative to the project root. Every rank computes with the threads that the key threads_per_rank=N gives it, 1 unless
# given; OMP_NUM_THREADS, 1 unless set, is not that key. The exit code is torchrun's (1 for whatever a rank ends with),
# or 2 for a wrong argument.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' launch/local.sh; }
refuse() { printf 'local: %s\n\n' "$1" >&2; usage >&2; exit 2; }

ranks=""
numa=()
while (($#)); do
    case "$1" in
        -h | --help) usage; exit 0 ;;
        -n)
            [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || refuse "-n: want a number of processes, got '${2:-}'"
            ranks=$2
            shift 2
            ;;
        --numa)
            [[ ${2:-} =~ ^(node|socket|exclusive|core-complex)$ ]] ||
                refuse "--numa: want node, socket, exclusive or core-complex, got '${2:-}'"
            numa=(--numa-binding "$2")
            shift 2
            ;;
        -*) refuse "unknown argument '$1'" ;;
        *) break ;;
    esac
done
(($#)) || refuse "want a COMMAND, got nothing"
command=$1
shift
case "$command" in
    train | evaluate | export | explore) [[ -f sharded_emb/$command.py ]] || refuse "$command is not there yet" ;;
    *) refuse "want train, evaluate, export or explore, got '$command'; other commands are one process: python -m sharded_emb.COMMAND" ;;
esac

bash launch/setup.sh
python=.venv/bin/python
read -r build _ <.venv/complete
if ((${#numa[@]})); then
    [[ $build == cuda ]] || refuse "--numa: want GPUs to bind ranks by, got the CPU build; leave --numa out"
    command -v numactl >/dev/null || refuse "--numa: want the command numactl, got none; install the package numactl"
fi
if [[ -z $ranks ]]; then
    # torch counts, not nvidia-smi: it knows CUDA_VISIBLE_DEVICES
    if [[ $build == cuda ]]; then ranks=$("$python" -c 'import torch; print(torch.cuda.device_count() or 2)'); fi
    ranks=${ranks:-2}
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # only what is counted before threads_per_rank=N sets the threads
exec "$python" -m torch.distributed.run --standalone --nproc-per-node "$ranks" ${numa[@]+"${numa[@]}"} \
    -m "sharded_emb.$command" "$@"

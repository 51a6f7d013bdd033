#!/usr/bin/env bash
# Starts a command on several hosts under torchrun: the same line on each of them, in any order. Works from any directory.
#
#   HOSTS=2 RENDEZVOUS=host-0:29400 bash launch/multi_node.sh train experiment=sasrec_beauty data=/shared/beauty run=/shared/runs/a
#
# It reads these variables, and no others:
#
#   HOSTS        how many hosts, or SMALLEST:LARGEST: then a run goes on with those that are left, and with more that come
#   RENDEZVOUS   HOST:PORT where all of them meet: a name or address of one of them, and what ends with it is the run
#   RANKS        processes on each host; unless set one per GPU, two without any
#   JOB          what hosts of one run call it, where several runs meet at one HOST:PORT; sharded_emb unless set
#   RESTARTS     how often ranks are started anew after a failure or with other hosts; 3 unless set
#   LAST_CALL    seconds that SMALLEST hosts wait for more before they begin, and begin anew; 30 unless set
#   NUMA         binds each rank to the CPUs that its GPU hangs from: node, socket, exclusive or core-complex, which is
#                torchrun's --numa-binding and wants numactl; not bound unless set
#   INTERFACE    the network interface that hosts talk over, such as eth1; the system's choice unless set
#
# COMMAND is train or evaluate. What follows it goes to it as it is; train needs run=FOLDER on a file system that all
# hosts share, and goes on with what is there (resume=true). The exit code is torchrun's (1 for whatever a rank ends
# with), or 2 for a wrong argument.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' launch/multi_node.sh; }
refuse() { printf 'multi_node: %s\n\n' "$1" >&2; usage >&2; exit 2; }

if [[ ${1:-} == -h || ${1:-} == --help ]]; then usage; exit 0; fi
(($#)) || refuse "want a COMMAND, got nothing"
command=$1
shift
case "$command" in
    train | evaluate) ;;
    *) refuse "want train or evaluate, got '$command'; other commands are one process: python -m sharded_emb.COMMAND" ;;
esac
[[ ${HOSTS:-} =~ ^[1-9][0-9]*(:[1-9][0-9]*)?$ ]] || refuse "HOSTS: want a number of hosts or SMALLEST:LARGEST, got '${HOSTS:-}'"
((${HOSTS%:*} <= ${HOSTS#*:})) || refuse "HOSTS: want SMALLEST:LARGEST, got '$HOSTS'"
[[ ${RENDEZVOUS:-} =~ ^[^:]+:[0-9]+$ ]] || refuse "RENDEZVOUS: want HOST:PORT, got '${RENDEZVOUS:-}'"
port=${RENDEZVOUS##*:}
((${#port} <= 5 && 10#$port >= 1 && 10#$port <= 65535)) ||
    refuse "RENDEZVOUS: want a port from 1 to 65535, got '$RENDEZVOUS'"
[[ ${RANKS:-1} =~ ^[1-9][0-9]*$ ]] || refuse "RANKS: want a number of processes, got '$RANKS'"
[[ ${NUMA:-node} =~ ^(node|socket|exclusive|core-complex)$ ]] ||
    refuse "NUMA: want node, socket, exclusive or core-complex, got '$NUMA'"
[[ ${RESTARTS:-3} =~ ^[0-9]+$ ]] || refuse "RESTARTS: want a number, got '$RESTARTS'"
[[ ${LAST_CALL:-30} =~ ^[1-9][0-9]*$ ]] || refuse "LAST_CALL: want seconds, 1 or more, got '$LAST_CALL'"
more=()
if [[ $command == train ]]; then
    [[ " $*" == *" run="* ]] || refuse "train: want run=FOLDER on a file system that all hosts share, got none"
    if [[ " $*" != *" resume="* ]]; then more=(resume=true); fi # ranks that are started anew go on
fi

bash launch/setup.sh
python=.venv/bin/python
options=()
read -r build _ <.venv/complete
if [[ -n ${NUMA:-} ]]; then
    [[ $build == cuda ]] || refuse "NUMA: want GPUs to bind ranks by, got the CPU build; leave NUMA unset"
    command -v numactl >/dev/null || refuse "NUMA: want the command numactl, got none; install the package numactl"
    options=(--numa-binding "$NUMA")
fi
ranks=${RANKS:-}
if [[ -z $ranks ]]; then
    if [[ $build == cuda ]]; then ranks=$("$python" -c 'import torch; print(torch.cuda.device_count() or 2)'); fi
    ranks=${ranks:-2}
fi
# only one host can open a port at this address; what a host is called is no help where names are not resolved alike
if "$python" -c 'import socket, sys; socket.socket().bind((sys.argv[1], 0))' "${RENDEZVOUS%:*}" 2>/dev/null; then
    meeting=1
else
    meeting=0
fi
options+=(--rdzv-backend c10d --rdzv-endpoint "$RENDEZVOUS" --rdzv-id "${JOB:-sharded_emb}")
options+=(--rdzv-conf "is_host=$meeting,last_call_timeout=${LAST_CALL:-30}")
if [[ -n ${INTERFACE:-} ]]; then
    export GLOO_SOCKET_IFNAME=$INTERFACE NCCL_SOCKET_IFNAME=$INTERFACE
    asked='import fcntl, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    print(socket.inet_ntoa(fcntl.ioctl(udp, 0x8915, struct.pack("256s", sys.argv[1].encode()))[20:24]))'
    address=$("$python" -c "$asked" "$INTERFACE" 2>/dev/null) ||
        refuse "INTERFACE: want a network interface of this host with an address, got '$INTERFACE'"
    options+=(--local-addr "$address")
fi
# a store anew for each start: in the one that torchrun keeps, ranks would read where the others were before
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export OMP_NUM_THREADS=1 # only what is counted before threads_per_rank=N sets the threads
exec "$python" -m torch.distributed.run --nnodes "$HOSTS" --nproc-per-node "$ranks" --max-restarts "${RESTARTS:-3}" \
    "${options[@]}" -m "sharded_emb.$command" "$@" ${more[@]+"${more[@]}"}

#!/usr/bin/env bash
# Trains with two ranks on two machines, which are network namespaces of this one, each with a dora daemon of its own; cuts the network
# between them in the middle, and goes on with the same command. Compares the bytes with those of one process. Needs root, and `ip`.
#
#   scripts/two-machines.sh [KEY=VALUE ...]     keys of the run, such as SHARDING=optimizer
#
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" = 0 ] || die "network namespaces need root"
[ -x bin/difflow ] || die "build first: make build"
# shellcheck source=/dev/null
. bin/env.sh
id=$$ port=16013 file=data/experiments/two-machines-$$.yml out=runs/two-machines-$$
keys=(--set STEPS=8 --set WARMUP_STEPS=2 --set ANNEAL_STEPS=4 --set MICRO_BATCH=2 --set ACCUMULATION=4 --set CHECKPOINT_EVERY=2 --set THREADS=1
    --set PAGE=false --set SAMPLES=2 --set SAMPLES_FINAL=2 --set EVAL_DOCUMENTS=4 --set EVAL_GAPS=4 --set RUNS="../../$out")
for key in "$@"; do keys+=(--set "$key"); done
pids=()

on() { # MACHINE COMMAND...
    ip netns exec "difflow-$id-$1" "${@:2}"
}

down() {
    [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    pids=()
}

clean() {
    down
    # Whatever a daemon that lost its coordinator has left.
    for machine in a b; do
        ip netns pids "difflow-$id-$machine" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
        ip netns del "difflow-$id-$machine" 2>/dev/null || true
    done
    rm -f "$file"
}
trap clean EXIT

up() { # a daemon on each machine, and dora's coordinator on the first
    on a dora coordinator --interface 10.90.0.1 --port $port --store memory >"$out/coordinator.log" 2>&1 &
    pids+=($!)
    sleep 1
    local daemon=(dora daemon --coordinator-addr 10.90.0.1 --coordinator-port $port)
    on a "${daemon[@]}" --machine-id a --local-listen-port 15391 --zenoh-listen 10.90.0.1:15456 --zenoh-connect tcp/10.90.0.2:15457 \
        >"$out/daemon-a.log" 2>&1 &
    pids+=($!)
    on b "${daemon[@]}" --machine-id b --local-listen-port 15392 --zenoh-listen 10.90.0.2:15457 --zenoh-connect tcp/10.90.0.1:15456 \
        >"$out/daemon-b.log" 2>&1 &
    pids+=($!)
    sleep 4
}

trainers() { # that still run
    for machine in a b; do
        ip netns pids "difflow-$id-$machine" | xargs -r -I{} ps -o comm= -p {} | grep -x difflow-trainer || true
    done
}

start() { # the dataflow; returns when it ends
    (cd data/experiments && on a env DORA_COORDINATOR_ADDR=10.90.0.1 DORA_COORDINATOR_PORT=$port dora start "$(basename "$file")" --attach)
}

mkdir -p "$out"
for machine in a b; do
    ip netns add "difflow-$id-$machine"
done
ip link add name eth0 netns "difflow-$id-a" type veth peer name eth0 netns "difflow-$id-b"
for machine in a:1 b:2; do
    ip -n "difflow-$id-${machine%:*}" addr add "10.90.0.${machine#*:}/24" dev eth0
    ip -n "difflow-$id-${machine%:*}" link set eth0 up
    ip -n "difflow-$id-${machine%:*}" link set lo up
done

say "one process"
bin/difflow run data/experiments/tiny-diffusion.yml "${keys[@]}" --set RUN=one >"$out/one.log" 2>&1 || die "it failed: $out/one.log"

say "two machines, and the network is cut"
# Ten seconds without word from the other machine end the run.
ranks=(--ranks 2 --machines a,b --set RENDEZVOUS=10.90.0.1:29500 --set RUN=two --set GROUP_TIMEOUT=10)
bin/difflow expand data/experiments/tiny-diffusion.yml "${keys[@]}" "${ranks[@]}" --set SLOW_DOWN_SECONDS=2 >"$file"
up
start >"$out/cut.log" 2>&1 &
started=$!
until [ -e "$out/two/checkpoints/step-00000002" ]; do
    kill -0 $started 2>/dev/null || die "the run ended too early: $out/cut.log"
    sleep 0.2
done
ip -n "difflow-$id-a" link set eth0 down
cut=$SECONDS
while trainers | grep -q .; do
    [ $((SECONDS - cut)) -lt 60 ] || die "a rank is still there a minute after the network was cut"
    sleep 0.5
done
say "no rank is left $((SECONDS - cut)) s after the cut (GROUP_TIMEOUT 10)"
grep -hao "rank [01] of 2 [^;]*" "$out"/*.log data/experiments/out/*/log_trainer*.* 2>/dev/null | sort -u | head -4 || true
kill $started 2>/dev/null || true
down
for machine in a b; do ip netns pids "difflow-$id-$machine" | xargs -r kill -9; done
ip -n "difflow-$id-a" link set eth0 up

say "the same command again"
bin/difflow expand data/experiments/tiny-diffusion.yml "${keys[@]}" "${ranks[@]}" >"$file"
up
start >"$out/again.log" 2>&1 || die "it failed: $out/again.log"
for name in model optimizer; do
    sha256sum "$out"/*/checkpoints/step-00000008/$name.safetensors
    cmp "$out"/{one,two}/checkpoints/step-00000008/$name.safetensors || die "other bytes"
done
say "the same bytes"

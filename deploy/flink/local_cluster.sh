#!/usr/bin/env bash
# A Flink cluster on this machine, on loopback only: deploy/flink/local_cluster.sh start|stop
#
# Starts a JobManager, and TASK_MANAGERS (2) TaskManagers with SLOTS (2) slots and a pool of Python workers each, then
# prints the command that runs the job there. Where some of them run already, `start` starts those that have ended.
# Needs Linux, Java 17 and, the first time, Maven.
# CLUSTER (local/flink) is the folder for configuration, logs and process ids. REST_PORT (8081), RPC_PORT (6123) and
# POOL_PORT (50000) set the ports. JOB_SERVER_JAR names Beam's job server with Flink in it; by default it is built once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

CLUSTER=${CLUSTER:-$PWD/local/flink}
TASK_MANAGERS=${TASK_MANAGERS:-2} SLOTS=${SLOTS:-2}
REST_PORT=${REST_PORT:-8081} RPC_PORT=${RPC_PORT:-6123} POOL_PORT=${POOL_PORT:-50000}
JOB_SERVER_JAR=${JOB_SERVER_JAR:-$PWD/local/flink-job-server.jar}
# Packages that Flink 1.19 accesses by reflection on Java 17.
OPENS=()
for package in java.base/{java.lang,java.lang.invoke,java.math,java.net,java.io,java.nio,java.text,java.time,java.util} \
  java.base/{java.util.concurrent,java.util.concurrent.atomic,sun.nio.ch,sun.net.util}; do
  OPENS+=("--add-opens=$package=ALL-UNNAMED")
done

say() { printf '%s\n' "$*" >&2; }

build_job_server() {
  [[ ! -e $JOB_SERVER_JAR ]] || return 0
  command -v mvn >/dev/null || { say "Maven is missing (Debian, Ubuntu: apt install maven); or set JOB_SERVER_JAR."; exit 2; }
  say "Building Beam's job server for Flink with Maven: downloads about 150 MB, once"
  local build
  build=$(mktemp -d)
  cp deploy/flink/job-server.xml "$build/pom.xml"
  mvn --quiet --batch-mode --file "$build/pom.xml" package >&2
  mkdir -p "$(dirname "$JOB_SERVER_JAR")"
  mv "$build/target/flink-job-server-1.jar" "$JOB_SERVER_JAR"
  rm -r "$build"
}

configuration() {
  # Flink's start scripts would compute the memory sizes; TaskManagerRunner itself needs all of them.
  cat <<EOF
jobmanager.rpc.address: localhost
jobmanager.rpc.port: $RPC_PORT
jobmanager.bind-host: localhost
rest.address: localhost
rest.bind-address: localhost
rest.port: $REST_PORT
io.tmp.dirs: $CLUSTER/tmp
cluster.evenly-spread-out-slots: true
# A count of attempts would end a long job in the end. What fails each time fails more often than this.
restart-strategy.type: failure-rate
restart-strategy.failure-rate.max-failures-per-interval: 10
restart-strategy.failure-rate.failure-rate-interval: 1 h
restart-strategy.failure-rate.delay: 5 s
heartbeat.interval: 1000
heartbeat.timeout: 10000
taskmanager.host: localhost
taskmanager.bind-host: localhost
taskmanager.numberOfTaskSlots: $SLOTS
taskmanager.cpu.cores: $SLOTS.0
taskmanager.memory.task.heap.size: 512m
taskmanager.memory.task.off-heap.size: 0m
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 128m
taskmanager.memory.managed.size: 128m
taskmanager.memory.network.min: 64m
taskmanager.memory.network.max: 64m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 192m
taskmanager.memory.jvm-overhead.max: 192m
EOF
}

# Settings that the configuration does not hold.
settings() { printf 'TASK_MANAGERS=%s POOL_PORT=%s JOB_SERVER_JAR=%s\n' "$TASK_MANAGERS" "$POOL_PORT" "$JOB_SERVER_JAR"; }

# is_alive NAME: whether the process that was started under this name runs. Each has the folder in its command.
is_alive() {
  local pid
  [[ -e $CLUSTER/$1.pid ]] || return 1
  pid=$(<"$CLUSTER/$1.pid")
  grep --quiet --fixed-strings --text -e "$CLUSTER" -e local_cluster.sh "/proc/$pid/cmdline" 2>/dev/null
}

names() {
  local index
  printf 'jobmanager\n'
  for ((index = 1; index <= TASK_MANAGERS; index++)); do printf 'workers-%s\ntaskmanager-%s\n' "$index" "$index"; done
}

# Starts what has this name in a session of its own, and records its process id.
launch() {
  local name=$1 index=${1##*-}
  local java=(java "${OPENS[@]}" -XX:TieredStopAtLevel=1 -cp "$JOB_SERVER_JAR")
  local runtime=org.apache.flink.runtime command=()
  case $name in
    jobmanager)
      command=("${java[@]}" -Xmx512m "$runtime.entrypoint.StandaloneSessionClusterEntrypoint" --configDir "$CLUSTER/conf") ;;
    taskmanager-*)
      # TaskManagers number their workers alike, and one that ends stops its workers by number. So each has a pool of its
      # own; as a job has one address for all pools, each TaskManager resolves the name in it in its own way.
      printf '127.0.0.1 localhost %s\n127.0.0.%s python-workers\n' "$HOSTNAME" "$index" >"$CLUSTER/$name.hosts"
      command=("${java[@]}" -Xmx640m -XX:MaxDirectMemorySize=256m "-Djdk.net.hosts.file=$CLUSTER/$name.hosts"
        "$runtime.taskexecutor.TaskManagerRunner" --configDir "$CLUSTER/conf" -D "taskmanager.resource-id=$name") ;;
    workers-*)
      # The pool starts each worker as `python`, so the project's own must come first on PATH.
      command=(env "PATH=$PWD/.venv/bin:$PATH" "PYTHONPATH=$PWD" .venv/bin/python deploy/flink/worker_pool.py
        "127.0.0.$index:$POOL_PORT" "$CLUSTER") ;;
  esac
  setsid "${command[@]}" >>"$CLUSTER/$name.log" 2>&1 </dev/null &
  printf '%s\n' $! >"$CLUSTER/$name.pid"
}

all_alive() {
  local name
  for name in $(names); do
    is_alive "$name" || { say "$name has ended:"; tail -n 3 "$CLUSTER/$name.log" >&2; return 1; }
  done
}

# ready SECONDS: whether all answer, the TaskManagers since that time of the epoch: one that has ended is known for a while.
ready() {
  .venv/bin/python - "$REST_PORT" "$TASK_MANAGERS" "$POOL_PORT" "$1" <<'EOF' 2>/dev/null
import json, socket, sys, urllib.request
rest, count, pool, since = map(int, sys.argv[1:])
with urllib.request.urlopen(f"http://localhost:{rest}/taskmanagers", timeout=5) as answer:
    managers = json.load(answer)["taskmanagers"]
known = {manager["id"] for manager in managers if manager["timeSinceLastHeartbeat"] > 1000 * since}
assert known == {f"taskmanager-{index}" for index in range(1, count + 1)}
for index in range(1, count + 1):
    socket.create_connection((f"127.0.0.{index}", pool), timeout=5).close()
EOF
}

start() {
  local name deadline since running=() missing=()
  command -v java >/dev/null || { say "Java is missing (Debian, Ubuntu: apt install default-jre-headless)."; exit 2; }
  for name in $(names); do
    if is_alive "$name"; then running+=("$name"); else missing+=("$name"); fi
  done
  mkdir -p "$CLUSTER/conf" "$CLUSTER/tmp"
  if ((${#running[@]})) && [[ $(configuration; settings) != "$(cat "$CLUSTER/conf/config.yaml" "$CLUSTER/settings")" ]]; then
    say "A cluster with other settings is running from $CLUSTER; stop it first: $0 stop"
    exit 2
  fi
  build_job_server
  configuration >"$CLUSTER/conf/config.yaml"
  settings >"$CLUSTER/settings"
  if ((${#running[@]} && ${#missing[@]})); then
    say "Starting what has ended: ${missing[*]}"
  fi
  since=$(date +%s)
  for name in "${missing[@]}"; do launch "$name"; done
  deadline=$((SECONDS + 300))
  until ready "$since"; do
    if ! all_alive || ((SECONDS > deadline)); then
      say "The cluster did not start; its logs are in $CLUSTER"
      if ((${#running[@]} == 0)); then stop; fi
      exit 1
    fi
    sleep 0.5
  done
  say "Flink is running at http://localhost:$REST_PORT: $TASK_MANAGERS TaskManagers with $SLOTS slots each. Run the job there:"
  say "  .venv/bin/python -m pipeline.main --input=... --output=... --model=... --runner=FlinkRunner \\"
  say "    --flink_master=localhost:$REST_PORT --flink_version=1.19 --flink_job_server_jar=$JOB_SERVER_JAR \\"
  say "    --environment_type=EXTERNAL --environment_config=python-workers:$POOL_PORT --parallelism=$TASK_MANAGERS"
}

stop() {
  local file name pid
  for file in "$CLUSTER"/*.pid; do
    [[ -e $file ]] || continue
    name=$(basename "$file" .pid)
    pid=$(<"$file")
    # Each has a session of its own, which includes the Python workers of a pool.
    if is_alive "$name" || ! kill -0 "$pid" 2>/dev/null; then
      kill -TERM -- "-$pid" 2>/dev/null || true
      for _ in {1..50}; do
        kill -0 -- "-$pid" 2>/dev/null || break
        sleep 0.1
      done
      kill -KILL -- "-$pid" 2>/dev/null || true
    fi
    rm -f "$file"
  done
}

case ${1:-} in
  start | stop) "$1" ;;
  build) build_job_server ;;
  packages) printf '%s\n' "${OPENS[@]}" ;;
  *)
    say "usage: $0 start|stop"
    exit 2
    ;;
esac

#!/usr/bin/env bash
# A Flink cluster on this machine, on loopback only: deploy/flink/local_cluster.sh start|stop
#
# Starts a JobManager, TASK_MANAGERS (2) TaskManagers with SLOTS (2) slots each, and one pool of Python workers for all
# of them, then prints the command that runs the job there. Needs Java 17 and, the first time, Maven.
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

configure() {
  mkdir -p "$CLUSTER/conf" "$CLUSTER/tmp"
  # Flink's start scripts would compute the memory sizes; TaskManagerRunner itself needs all of them.
  cat >"$CLUSTER/conf/config.yaml" <<EOF
jobmanager.rpc.address: localhost
jobmanager.rpc.port: $RPC_PORT
jobmanager.bind-host: localhost
rest.address: localhost
rest.bind-address: localhost
rest.port: $REST_PORT
io.tmp.dirs: $CLUSTER/tmp
cluster.evenly-spread-out-slots: true
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 3
restart-strategy.fixed-delay.delay: 5 s
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

# launch NAME COMMAND...: starts the command in a session of its own and records its process id.
launch() {
  local name=$1
  shift
  setsid "$@" >"$CLUSTER/$name.log" 2>&1 </dev/null &
  printf '%s\n' $! >"$CLUSTER/$name.pid"
}

all_alive() {
  local file
  for file in "$CLUSTER"/*.pid; do
    kill -0 "$(<"$file")" 2>/dev/null || { say "$(basename "$file" .pid) has ended:"; tail -n 3 "${file%.pid}.log" >&2; return 1; }
  done
}

ready() {
  .venv/bin/python - "$REST_PORT" "$TASK_MANAGERS" "$POOL_PORT" <<'EOF' 2>/dev/null
import json, socket, sys, urllib.request
rest, wanted, pool = sys.argv[1:]
with urllib.request.urlopen(f"http://localhost:{rest}/overview", timeout=5) as answer:
    assert json.load(answer)["taskmanagers"] == int(wanted)
socket.create_connection(("localhost", int(pool)), timeout=5).close()
EOF
}

start() {
  local index deadline
  if compgen -G "$CLUSTER/*.pid" >/dev/null; then
    say "A cluster is already running from $CLUSTER; stop it first: $0 stop"
    exit 2
  fi
  command -v java >/dev/null || { say "Java is missing (Debian, Ubuntu: apt install default-jre-headless)."; exit 2; }
  build_job_server
  configure
  local java=(java "${OPENS[@]}" -XX:TieredStopAtLevel=1 -cp "$JOB_SERVER_JAR")
  local runtime=org.apache.flink.runtime
  launch jobmanager "${java[@]}" -Xmx512m "$runtime.entrypoint.StandaloneSessionClusterEntrypoint" \
    --configDir "$CLUSTER/conf"
  for ((index = 1; index <= TASK_MANAGERS; index++)); do
    launch "taskmanager-$index" "${java[@]}" -Xmx640m -XX:MaxDirectMemorySize=256m \
      "$runtime.taskexecutor.TaskManagerRunner" --configDir "$CLUSTER/conf" -D "taskmanager.resource-id=taskmanager-$index"
  done
  # The pool starts each worker as `python`, so the project's own must come first on PATH.
  PATH="$PWD/.venv/bin:$PATH" PYTHONPATH="$PWD" launch workers \
    .venv/bin/python -m apache_beam.runners.worker.worker_pool_main --service_port="$POOL_PORT"
  deadline=$((SECONDS + 120))
  until ready; do
    if ! all_alive || ((SECONDS > deadline)); then
      say "The cluster did not start; its logs are in $CLUSTER"
      stop
      exit 1
    fi
    sleep 0.5
  done
  say "Flink is running at http://localhost:$REST_PORT: $TASK_MANAGERS TaskManagers with $SLOTS slots each. Run the job there:"
  say "  .venv/bin/python -m pipeline.main --input=... --output=... --model=... --runner=FlinkRunner \\"
  say "    --flink_master=localhost:$REST_PORT --flink_version=1.19 --flink_job_server_jar=$JOB_SERVER_JAR \\"
  say "    --environment_type=EXTERNAL --environment_config=localhost:$POOL_PORT --parallelism=$TASK_MANAGERS"
}

stop() {
  local file pid
  for file in "$CLUSTER"/*.pid; do
    [[ -e $file ]] || continue
    pid=$(<"$file")
    # Each has a session of its own, which includes the Python workers of a pool.
    kill -TERM -- "-$pid" 2>/dev/null || true
    for _ in {1..50}; do
      kill -0 -- "-$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL -- "-$pid" 2>/dev/null || true
    rm "$file"
  done
}

case ${1:-} in
  start | stop) "$1" ;;
  build) build_job_server ;;
  *)
    say "usage: $0 start|stop"
    exit 2
    ;;
esac

# shellcheck shell=bash disable=SC2154 # the variables are set by who sources it
# Processes and ports of a cluster of programs, for cluster.sh and embedded.sh to source. They set
#   dir           where PROGRAM.pid (process id and start time, as /proc/PID/stat has it) and PROGRAM.log lie
#   programs      all of them, in the order of stopping
#   ready_within  seconds
#   stop_within   seconds until SIGKILL
# and define "say".

# --- processes ------------------------------------------------------------------------------------

# The time at which a process began: with the id it names one process, the id alone does not.
start_time_of() {
    local line
    local -a fields
    read -r line <"/proc/$1/stat" 2>/dev/null || return 1
    read -ra fields <<<"${line##*) }" # the command's name before it may hold anything
    [[ ${fields[0]} != Z ]] || return 1
    echo "${fields[19]}"
}

# The id of the running process of a program, or nothing.
pid_of() {
    local pid began now
    [[ -f $dir/$1.pid ]] || return 0
    read -r pid began <"$dir/$1.pid" || return 0
    now=$(start_time_of "$pid" 2>/dev/null) || return 0
    [[ $now != "$began" ]] || echo "$pid"
}

# Starts a program in a session of its own. It writes its process id itself, before it becomes the program,
# so that no moment exists at which it runs and "stop" does not know of it.
launch() {
    local program=$1 bin=$2
    shift 2
    # shellcheck disable=SC2016 # for the inner shell
    setsid bash -c '
        read -r line </proc/$$/stat
        read -ra fields <<<"${line##*) }"
        echo "$$ ${fields[19]}" >"$1.pid.new" && mv "$1.pid.new" "$1.pid"
        exec "${@:2}"
    ' launch "$dir/$program" "$bin/$program" "$@" >"$dir/$program.log" 2>&1 </dev/null &
    until [[ -f $dir/$program.pid ]] || ! kill -0 $! 2>/dev/null; do
        sleep 0.01
    done
}

stop() {
    local program pid deadline
    for program in "${programs[@]}"; do
        pid=$(pid_of "$program")
        if [[ $pid ]]; then
            kill -TERM "$pid" 2>/dev/null || true
            kill -CONT "$pid" 2>/dev/null || true # one that a test has paused
            deadline=$((SECONDS + stop_within))
            while [[ $(pid_of "$program") ]]; do
                if ((SECONDS >= deadline)); then
                    kill -KILL "$pid" 2>/dev/null || true
                fi
                sleep 0.02
            done
        fi
        rm -f "$dir/$program.pid" "$dir/$program.pid.new"
    done
}

# --- ports ----------------------------------------------------------------------------------------

listens() {
    (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# A port below the range from which the kernel takes those of clients. Another process may take it before its
# program does: "start" then tries again with others.
free_port() {
    local port
    while :; do
        port=$((RANDOM % 12000 + 20000))
        if ! listens "$port"; then
            echo "$port"
            return
        fi
    done
}

# await PROGRAM COMMAND…: until the command succeeds; fails at once where the program has ended.
await() {
    local program=$1 deadline=$((SECONDS + ready_within))
    shift
    until "$@" >/dev/null 2>&1; do
        if [[ ! $(pid_of "$program") ]]; then
            say "$program has ended; the end of $dir/$program.log:"
            tail -n 5 "$dir/$program.log" >&2
            return 1
        fi
        if ((SECONDS >= deadline)); then
            say "$program is not ready after $ready_within s; see $dir/$program.log"
            return 1
        fi
        sleep 0.05
    done
}

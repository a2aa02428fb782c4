# What the examples share, sourced by them: a folder to work in (their first argument, else a temporary one), one server
# at a time on PORT, and nothing of either left running or lying about at the end. Sets folder and url.
url="http://127.0.0.1:$PORT"
server=""
temporary=""

stop_server() {
    if [[ -n $server ]]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
        server=""
    fi
}

clean_up() {
    status=$?
    trap - EXIT INT TERM
    stop_server
    if [[ -n $temporary ]]; then rm -rf "$temporary"; fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [[ $# -gt 0 ]]; then
    folder=$1
    mkdir -p "$folder"
else
    temporary=$(mktemp -d)
    folder=$temporary
fi

# wait_for_server LOG: after a server was started in the background; returns when it answers.
wait_for_server() {
    local log=$1
    server=$!
    until curl -sf -o /dev/null "$url/health"; do
        if ! kill -0 "$server" 2>/dev/null; then
            server=""
            echo "the server did not start:" >&2
            cat "$log" >&2
            return 1
        fi
        sleep 0.1
    done
    # Something else may listen on the port, and ours may be about to say so.
    grep -q "Application startup complete" "$log" || { echo "port $PORT belongs to another server" >&2; return 1; }
}

# redis over a local socket: nanoseconds a request by redis-benchmark, twenty clients; `pipelined`: sixteen requests at a time.
dir=$(mktemp -d)
redis-server --port 0 --unixsocket "$dir/socket" --dir "$dir" --save "" --appendonly no --logfile "$dir/log" &
until redis-cli -s "$dir/socket" ping >/dev/null 2>&1; do sleep 0.1; done
# name, redis-benchmark's options
measure() {
	name=$1
	shift
	rate=$(redis-benchmark -s "$dir/socket" -c 20 --csv "$@" | sed -n 's/^"[A-Z_]*[^"]*","\([0-9]*\).*/\1/p' | tail -1)
	echo "RESULT $name $((1000000000 / rate))"
}
measure redis_set -n 5000 -r 1000 -t set
measure redis_get -n 5000 -r 1000 -t get
measure redis_pipelined -n 40000 -r 1000 -P 16 -t set
redis-cli -s "$dir/socket" shutdown nosave
wait

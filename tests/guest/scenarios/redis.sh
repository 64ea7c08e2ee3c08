# redis over a local socket: commands, a benchmark, a snapshot and a rewritten log by children, and everything back after a restart.
dir=$(mktemp -d) || exit 1
cd "$dir" || exit 1
cli="redis-cli -s $dir/socket"

start() {
	redis-server --port 0 --unixsocket "$dir/socket" --dir "$dir" --save "" --appendonly yes --appendfsync no \
		--logfile "$dir/log" --enable-debug-command yes &
	server=$!
	until [ "$($cli ping 2>/dev/null)" = PONG ]; do
		kill -0 $server 2>/dev/null || { cat "$dir/log"; exit 1; }
		sleep 0.1
	done
}
info() {
	$cli info persistence | tr -d '\r' | sed -n "s/^$1://p"
}
until_idle() {
	until [ "$(info rdb_bgsave_in_progress)$(info aof_rewrite_in_progress)$(info aof_rewrite_scheduled)" = 000 ]; do
		sleep 0.1
	done
}

start
$cli set greeting "hello" && $cli get greeting && $cli incrby counter 41 && $cli incr counter
$cli rpush list a b c d && $cli lrange list 1 2 && $cli hset hash one 1 two 2 && $cli hgetall hash
$cli zadd sorted 3 three 1 one 2 two && $cli zrange sorted 0 -1 && $cli get missing && $cli lpush greeting x
$cli eval 'local n = 0 for i = 1, 1000 do n = n + i redis.call("set", "key:" .. i, i * i) end return n' 0
$cli get key:777
seq 1 500 | sed 's/.*/set piped:& value-&/' | $cli --pipe | tail -1
redis-benchmark -s "$dir/socket" -n 2000 -c 10 -r 100 -t set,get,incr,lpush,hset,mset --csv | cut -d, -f1
redis-benchmark -s "$dir/socket" -n 2000 -P 16 -c 4 -q -t ping_inline >/dev/null && echo "benchmark: $?"
until_idle
$cli bgsave && until_idle && info rdb_last_bgsave_status
$cli bgrewriteaof && $cli set late "while rewriting" && until_idle && info aof_last_bgrewrite_status
$cli dbsize
digest=$($cli debug digest)
$cli shutdown
wait $server && echo "server: $?"
start
[ "$($cli debug digest)" = "$digest" ] && echo "the same after a restart"
$cli get late && $cli get piped:500
kill -TERM $server
wait $server && echo "server: $?"
cd / && rm -r "$dir" && echo done

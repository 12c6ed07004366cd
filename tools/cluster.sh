#!/bin/sh
# Runs the members of a cluster on this machine until it is interrupted, which stops them all: for trying things out.
#
#   cluster.sh PROGRAM DIRECTORY [FLAG...]
#
# Their data and what they log goes below DIRECTORY, where a later run goes on with it. FLAGs are given to each. A member
# that ends by itself, or is killed, is told of; the others go on. MEMBERS is name:client-port:peer-port of each.
set -u

program=$1 directory=$2
shift 2
members=${MEMBERS:-a:2379:2380 b:12379:12380 c:22379:22380}

cluster='' endpoints='' pids=''
for member in $members; do
	name=${member%%:*} ports=${member#*:}
	cluster=$cluster${cluster:+,}$name=http://127.0.0.1:${ports#*:}
	endpoints=$endpoints${endpoints:+,}127.0.0.1:${ports%:*}
done

stop() {
	trap '' INT TERM
	echo "stopping"
	for pid in $pids; do kill "$pid" 2>/dev/null; done
	wait
	echo "all members have stopped; their data is in $directory"
	exit "$1"
}
trap 'stop 0' INT TERM

for member in $members; do
	name=${member%%:*} ports=${member#*:}
	client=http://127.0.0.1:${ports%:*} peer=http://127.0.0.1:${ports#*:}
	mkdir -p "$directory" || exit 1
	"$program" --name "$name" --data-dir "$directory/$name" --log-format json \
		--listen-client-urls "$client" --advertise-client-urls "$client" \
		--listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
		--initial-cluster "$cluster" "$@" >"$directory/$name.log" 2>&1 &
	pids="$pids $!"
	echo "member $name: started with process ID $!, log in $directory/$name.log"
done

# Until all serve. A member that ends before that is a mistake in the flags, or its ports are in use.
waiting=$members
while [ -n "$waiting" ]; do
	sleep 0.2
	still=''
	for member in $waiting; do
		name=${member%%:*} ports=${member#*:}
		if grep -q '"msg":"ready to serve client requests"' "$directory/$name.log"; then
			echo "member $name: serves clients at http://127.0.0.1:${ports%:*}"
		else
			still="$still${still:+ }$member"
		fi
	done
	waiting=$still
	for pid in $pids; do
		if ! kill -0 "$pid" 2>/dev/null; then
			echo "a member has ended; the last lines of each log:" >&2
			for member in $members; do tail -n 2 "$directory/${member%%:*}.log" >&2; done
			stop 1
		fi
	done
done
echo "the cluster runs; try: $program ctl --endpoints=$endpoints endpoint status -w table"
echo "Ctrl-C stops all members"

while [ -n "$pids" ]; do
	sleep 1
	left=''
	for pid in $pids; do
		if kill -0 "$pid" 2>/dev/null; then
			left="$left $pid"
		else
			echo "the member with process ID $pid has ended"
		fi
	done
	pids=$left
done
echo "no member is left"
exit 1

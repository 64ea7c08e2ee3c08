# javac of a small project: milliseconds from its start to its end.
dir=$(mktemp -d)
start=$(date +%s%N)
javac -J-Xshare:auto -d "$dir" "$1"/work/*.java || exit 1
echo "RESULT javac $((($(date +%s%N) - start) / 1000000))"

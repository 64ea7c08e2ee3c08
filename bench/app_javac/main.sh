# javac of a small project, milliseconds from its start to its end, the lesser of two.
dir=$(mktemp -d)
least=
for _ in 1 2; do
	start=$(date +%s%N)
	javac -J-Xshare:auto -d "$dir" "$1"/work/*.java || exit 1
	took=$((($(date +%s%N) - start) / 1000000))
	[ -n "$least" ] && [ "$least" -lt "$took" ] || least=$took
done
echo "RESULT javac $least"

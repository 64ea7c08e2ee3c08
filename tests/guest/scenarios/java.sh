# Compiles a program and runs it under each collector named; the last ends with the program's exit code.
set -e
source=$1
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
javac -J-Xshare:auto -d "$dir" "$source"
for collector in "$@"; do
	echo "== $collector"
	java -XX:+UnlockExperimentalVMOptions "-XX:+Use${collector}GC" -Xmx256m -cp "$dir" Work || code=$?
	echo "exit $code"
done
exit $code

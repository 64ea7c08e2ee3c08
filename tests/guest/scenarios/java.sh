# Compiles a project and runs it under each collector named (`Default`: without any option); the last ends with the program's exit code.
set -e
source=$1
shift
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
javac -J-Xshare:auto -Xlint:all -d "$dir/classes" "$source"/work/*.java
(cd "$dir/classes" && ls work)
jar -c -f "$dir/work.jar" -e work.Main -C "$dir/classes" work
for collector in "$@"; do
	echo "== $collector"
	case $collector in
	Default) options= ;;
	*) options="-XX:+UnlockExperimentalVMOptions -XX:+Use${collector}GC -Xmx128m" ;;
	esac
	code=0
	# What it says when it dies is for the reader of the test.
	java -XX:+ErrorFileToStdout $options -jar "$dir/work.jar" || code=$?
	echo "exit $code"
done
exit $code

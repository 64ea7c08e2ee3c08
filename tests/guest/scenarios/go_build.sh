# Builds a program with go and runs it.
set -e
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cp "$1" "$dir/main.go"
cd "$dir"
export GOCACHE="$dir/cache" GOPATH="$dir/path" GO111MODULE=off GOFLAGS=-mod=mod
go build -o program main.go
./program x "y z" < /dev/null

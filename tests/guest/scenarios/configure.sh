# Runs the `configure` of a source directory in a directory beside it, then make with two jobs and an installation, and shows what came out.
set -e
source=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/build"
cd "$dir/build"
export LC_ALL=C
bash "$source/configure" --prefix=/usr
cat config.h Makefile stamp
tail -1 config.log
make -j2 install DESTDIR="$dir/root" > log 2>&1 || cat log
sed "s|$dir|DIR|" log | sort
code=0
"$dir/root/bin/example" || code=$?
make -q && echo "up to date"
exit $code

# Compiles and links C and C++ programs, a library and an archive, and runs what comes out.
set -e
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > main.c <<'C'
#include <math.h>
#include <stdio.h>
int twice(int);
int thrice(int);
int main(int argc, char **argv) { printf("%d %d %.3f %s\n", twice(21), thrice(14), sqrt(2), argv[argc - 1]); return 5; }
C
echo 'int twice(int n) { return 2 * n; }' > twice.c
echo 'int thrice(int n) { return 3 * n; }' > thrice.c
gcc -O2 -Wall -c main.c twice.c
ar rcs libtwice.a twice.o
gcc -shared -fPIC -o libthrice.so thrice.c
gcc -o program main.o -L. -ltwice -lthrice -lm -Wl,-rpath,"$dir"
./program word || echo "exit $?"
cat > main.cc <<'C'
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
int main() {
	std::map<std::string, int> counts;
	for (auto word : {"a", "b", "a"}) counts[word]++;
	try { counts.at("c"); } catch (const std::out_of_range &) { std::cout << "caught " << counts["a"] << std::endl; }
}
C
g++ -O1 -std=c++17 -o cxx main.cc
./cxx
echo 'int main(void) { return undefined_name; }' > wrong.c
gcc -c wrong.c 2> errors || echo "error $? $(grep -c undefined_name errors)"

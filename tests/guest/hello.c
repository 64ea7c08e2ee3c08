/* Arguments, environment and exit code; built in every way a C program can be linked. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	const char *env = getenv("GREETING");
	printf("hello, world\n");
	for (int i = 1; i < argc; i++)
		printf("argv[%d] = %s\n", i, argv[i]);
	printf("GREETING = %s\n", env ? env : "(unset)");
	printf("%.6f %s\n", 1.0 / 3.0, argc > 2 ? "many" : "few");
	fprintf(stderr, "to stderr\n");
	return argc;
}

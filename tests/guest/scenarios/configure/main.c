#include "config.h"
#include <stdio.h>

double root(double);

int main(void)
{
	printf("%s: %d bytes, %.4f, %s\n", GREETING, SIZEOF_LONG, root(2), PACKAGE_STRING);
	return HAVE_FORK + HAVE_MMAP;
}

/* How much memory the machine has free. */
#ifndef FREE_KIB_H
#define FREE_KIB_H
#include <stdio.h>

/* MemFree of /proc/meminfo in KiB, or -1. */
static long free_kib(void)
{
	FILE *file = fopen("/proc/meminfo", "r");
	char line[128];
	long value = -1;
	while (file && fgets(line, sizeof line, file))
		if (sscanf(line, "MemFree: %ld", &value) == 1)
			break;
	if (file)
		fclose(file);
	return value;
}
#endif

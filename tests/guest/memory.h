/* Shared by the programs about memory. */
#ifndef MEMORY_H
#define MEMORY_H
#include "check.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#define P 4096ul
#define L (2ul << 20)
#define RW (PROT_READ | PROT_WRITE)

/* Whether a touch raises a signal, and which. `catch_faults` comes first. */
static sigjmp_buf fault_return;
static inline void on_fault(int signal)
{
	siglongjmp(fault_return, signal);
}
static inline void catch_faults(void)
{
	signal(SIGSEGV, on_fault);
	signal(SIGBUS, on_fault);
}
static inline int faults(volatile char *p, int write)
{
	int signal = sigsetjmp(fault_return, 1);
	if (signal)
		return signal;
	if (write)
		*p = *p;
	else
		(void)*p;
	return 0;
}

static inline char *anon(size_t len, int prot)
{
	return mmap(NULL, len, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* Words of a range that are not zero. */
static inline size_t nonzero(const char *p, size_t len)
{
	size_t count = 0;
	for (size_t i = 0; i < len; i += 8)
		count += *(const uint64_t *)(p + i) != 0;
	return count;
}

/* A number from a file of the form "Name: number kB", summed over all its lines of that name. */
static inline long field(const char *path, const char *name)
{
	char line[256];
	long sum = 0;
	FILE *file = fopen(path, "r");
	while (file && fgets(line, sizeof line, file))
		if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == ':')
			sum += atol(line + strlen(name) + 1);
	if (file)
		fclose(file);
	return sum;
}

/* For what a Linux may be built without. */
static inline int in_oxv(void)
{
	char text[256] = "";
	FILE *file = fopen("/proc/version", "r");
	if (file) {
		text[fread(text, 1, sizeof text - 1, file)] = 0;
		fclose(file);
	}
	return strstr(text, "(oxv)") != NULL;
}
#endif

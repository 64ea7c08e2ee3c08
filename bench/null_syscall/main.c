/* Guest instructions of the smallest system calls, the loop around them subtracted: the best batch of thirty. */
#include "../bench.h"

#define COUNT 1000

/* `NUMBER` is loaded, `BETWEEN` is executed, then the call is made, COUNT times. */
#define CALLS(name, number, between) \
	static uint64_t name(void) \
	{ \
		uint64_t start = counter(); \
		for (int i = 0; i < COUNT; i++) { \
			long value; \
			__asm__ volatile("mov $" #number ", %%eax\n" between " syscall" : "=a"(value)::"rcx", "r11", "memory"); \
		} \
		return counter() - start; \
	}

/* What is between number and call keeps a kernel that rewrites call sites from doing so here. */
CALLS(trapped, 110, "nop\n")
CALLS(patched, 110, "")
CALLS(vectors, 511, "")
CALLS(leaf, 39, "")

static uint64_t nothing(void)
{
	uint64_t start = counter();
	for (int i = 0; i < COUNT; i++) {
		long value;
		__asm__ volatile("mov $110, %%eax" : "=a"(value)::"rcx", "r11", "memory");
	}
	return counter() - start;
}

static void measure(const char *name, uint64_t (*calls)(void), int besides)
{
	uint64_t best = UINT64_MAX, empty = UINT64_MAX;
	for (int i = 0; i < 30; i++) {
		best = smaller(best, calls());
		empty = smaller(empty, nothing());
		/* Whoever rewrites code may need the CPU for it. */
		if (i < 5)
			sleep_ms(20);
	}
	result(name, (double)(best - empty) / COUNT - besides);
}

int main(void)
{
	measure("null_syscall_trapped", trapped, 1);
	measure("null_syscall_patched", patched, 0);
	measure("null_syscall_vectors", vectors, 0);
	measure("null_syscall_leaf", leaf, 0);
	return 0;
}

/* Ends in the way its argument names. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile int zero;

__attribute__((noinline)) static void crash_here(volatile int *where)
{
	*where = 42;
}

static void *thread_crash(void *arg)
{
	(void)arg;
	crash_here((int *)0x10);
	return NULL;
}

static void *thread_exit(void *arg)
{
	(void)arg;
	exit(9);
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "return";
	printf("about to %s\n", how);
	fflush(stdout);
	if (!strcmp(how, "exit"))
		exit(argc > 2 ? atoi(argv[2]) : 0);
	if (!strcmp(how, "_exit"))
		_exit(42);
	if (!strcmp(how, "abort"))
		abort();
	if (!strcmp(how, "null"))
		crash_here(NULL);
	if (!strcmp(how, "noncanonical"))
		crash_here((int *)0xdead000000000000);
	if (!strcmp(how, "kernel-address"))
		crash_here((int *)0xffffffff80200000);
	if (!strcmp(how, "readonly"))
		crash_here(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	if (!strcmp(how, "jump"))
		((void (*)(void))0x12345000)();
	if (!strcmp(how, "noexec")) {
		unsigned char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		*p = 0xc3;
		((void (*)(void))p)();
	}
	if (!strcmp(how, "hlt"))
		__asm__ volatile("hlt");
	if (!strcmp(how, "ud2"))
		__asm__ volatile("ud2");
	if (!strcmp(how, "int3"))
		__asm__ volatile("int3");
	if (!strcmp(how, "fpe"))
		printf("%d\n", 70 / zero);
	if (!strcmp(how, "thread-null") || !strcmp(how, "thread-exit")) {
		pthread_t t;
		pthread_create(&t, NULL, how[7] == 'n' ? thread_crash : thread_exit, NULL);
		pthread_join(t, NULL);
	}
	if (!strcmp(how, "signal")) {
		raise(atoi(argv[2]));
		printf("survived\n");
	}
	if (!strcmp(how, "overflow")) {
		volatile char *p = (char *)__builtin_frame_address(0);
		for (;; p -= 4096)
			*p = 1;
	}
	return 0;
}

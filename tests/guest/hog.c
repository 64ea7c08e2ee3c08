/* Keeps a CPU to itself in the way its argument names. Runs only in oxv: elsewhere `cli` is a fault at once. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile int over;

static void *spin(void *arg)
{
	while (!over)
		;
	return arg;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";
	pthread_t threads[5];
	printf("about to %s\n", how);
	fflush(stdout);
	if (!strcmp(how, "cli"))
		__asm__ volatile("cli\n1: jmp 1b");
	if (!strcmp(how, "cli-hlt"))
		__asm__ volatile("cli\nhlt");
	if (!strcmp(how, "popf")) {
		/* All flags 0: harmless on Linux. */
		double start = now();
		__asm__ volatile("sub $128, %%rsp\npushq $0\npopfq\nadd $128, %%rsp" ::: "memory", "cc");
		while (now() < start + 1)
			;
		usleep(1000);
		puts("survived");
		return 0;
	}
	int device = open("/dev/oxv-torture", O_WRONLY);
	for (int i = 0; i < 5; i++)
		pthread_create(&threads[i], NULL, spin, NULL);
	if (device < 0 || write(device, how, strlen(how)) < 0)
		perror(how);
	over = 1;
	for (int i = 0; i < 5; i++)
		pthread_join(threads[i], NULL);
	puts("done");
	return 0;
}

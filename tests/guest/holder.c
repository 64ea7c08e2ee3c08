/* One thread holds a mutex of the kernel on CPU 1, which the host stops meanwhile; some threads wait for the mutex, and the others must get on.
 * Runs only in oxv, under --append torture=device. Driven by lines: "go" starts the others, "stop" asks how far
 * they are, "end" ends them and releases the mutex. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int device, there[2], back[2];
static volatile int over;
static volatile long counts[4];
static long cpus;

static void pin(long cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set)) {
		perror("sched_setaffinity");
		exit(1);
	}
}

static void request(const char *text)
{
	if (write(device, text, strlen(text)) < 0) {
		perror(text);
		exit(1);
	}
}

static void *hold(void *arg)
{
	pin(1);
	request("hold");
	return arg;
}

/* Any CPU but 1. */
static void pin_elsewhere(long number)
{
	pin(cpus > 2 && number % 2 ? 2 : 0);
}

static void *want(void *arg)
{
	pin_elsewhere((long)arg);
	request("wait");
	return arg;
}

static void *ping(void *arg)
{
	char byte = 0;
	pin_elsewhere(0);
	while (!over && write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1)
		counts[0]++;
	close(there[1]);
	return arg;
}
static void *pong(void *arg)
{
	char byte;
	pin_elsewhere(1);
	while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
		;
	return arg;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static void *lock(void *arg)
{
	pin_elsewhere((long)arg);
	while (!over) {
		pthread_mutex_lock(&mutex);
		counts[1]++;
		sched_yield();
		pthread_mutex_unlock(&mutex);
	}
	return arg;
}

static void *files(void *arg)
{
	char name[] = "/tmp/holderXXXXXX", buffer[5000];
	int fd = mkstemp(name);
	pin_elsewhere(1);
	while (!over) {
		memset(buffer, (int)counts[2], sizeof buffer);
		if (pwrite(fd, buffer, sizeof buffer, counts[2] % 50 * 5000) != sizeof buffer || pread(fd, buffer, 100, 0) != 100)
			break;
		counts[2]++;
	}
	close(fd);
	return arg;
}

static void *faults(void *arg)
{
	static char memory[64 << 20];
	pin_elsewhere(0);
	for (size_t at = 0; !over; at = (at + 4096) % sizeof memory) {
		/* A store: a page that is read first and written then is replaced, of which every CPU must take note. */
		memory[at] = 1;
		counts[3]++;
	}
	return arg;
}

static void next_line(const char *wanted)
{
	char line[20];
	if (!fgets(line, sizeof line, stdin) || strcmp(line, wanted)) {
		printf("no %s", wanted);
		exit(1);
	}
}

int main(void)
{
	pthread_t holder, waiters[4], workers[6];
	void *(*work[6])(void *) = { ping, pong, lock, lock, files, faults };
	cpus = sysconf(_SC_NPROCESSORS_ONLN);
	device = open("/dev/oxv-torture", O_WRONLY);
	if (device < 0 || pipe(there) || pipe(back)) {
		perror("/dev/oxv-torture");
		return 1;
	}
	pin(0);
	setvbuf(stdout, NULL, _IONBF, 0);
	pthread_create(&holder, NULL, hold, NULL);
	usleep(300000);
	for (long i = 0; i < 4; i++)
		pthread_create(&waiters[i], NULL, want, (void *)i);
	usleep(300000);
	puts("waiting");
	next_line("go\n");
	for (long i = 0; i < 6; i++)
		pthread_create(&workers[i], NULL, work[i], (void *)i);
	puts("working");
	next_line("stop\n");
	printf("progress %ld %ld %ld %ld\n", counts[0], counts[1], counts[2], counts[3]);
	next_line("end\n");
	/* A thread that ends unmaps its stack, and every CPU must take note of that: so not before. */
	over = 1;
	request("release");
	for (int i = 0; i < 6; i++)
		pthread_join(workers[i], NULL);
	pthread_join(holder, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(waiters[i], NULL);
	puts("done");
	return 0;
}

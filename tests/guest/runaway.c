/* Real-time threads that never stop, one for each CPU: who could end them comes to run all the same, for they are given a share of the time only. On the machine that
 * runs the tests this is left out, for the sake of all others there. */
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/utsname.h>

#define RUNTIME "/proc/sys/kernel/sched_rt_runtime_us"
#define PERIOD "/proc/sys/kernel/sched_rt_period_us"

static atomic_int running;
static atomic_bool stop;

static void *runaway(void *arg)
{
	struct sched_param param = { .sched_priority = 50 };
	long refused = pthread_setschedparam(pthread_self(), SCHED_FIFO, &param);
	running++;
	while (!stop)
		;
	(void)arg;
	return (void *)refused;
}

static long get(const char *path)
{
	char text[32] = "";
	int fd = open(path, O_RDONLY);
	ssize_t length = read(fd, text, sizeof(text) - 1);
	close(fd);
	return length > 0 && text[length - 1] == '\n' ? atol(text) : -1000;
}

/* 0, or the error. */
static int set(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	int error = write(fd, text, strlen(text)) < 0 ? errno : 0;
	close(fd);
	return error;
}

/* The share can be changed, to what makes sense. */
static int knobs(void)
{
	int bad = get(RUNTIME) != 950000 || get(PERIOD) != 1000000;
	bad |= (set(RUNTIME, "1000001\n") != EINVAL || set(RUNTIME, "-2\n") != EINVAL || set(RUNTIME, "much\n") != EINVAL) << 1;
	bad |= (set(PERIOD, "949999\n") != EINVAL || set(PERIOD, "0\n") != EINVAL || set(PERIOD, "99999999999\n") != EINVAL) << 2;
	bad |= (set(RUNTIME, "-1\n") != 0 || get(RUNTIME) != -1 || set(PERIOD, "500000\n") != 0) << 3;
	bad |= (set(RUNTIME, "400000\n") != 0 || get(RUNTIME) != 400000 || get(PERIOD) != 500000) << 4;
	return bad;
}

/* So many runaways as there are CPUs, beside a thread that is not real-time and has things to do. */
static int runaways(int count)
{
	pthread_t threads[64];
	int bad = 0;
	running = 0;
	stop = 0;
	for (int i = 0; i < count; i++)
		bad |= pthread_create(&threads[i], NULL, runaway, NULL) != 0;
	while (running < count)
		usleep(1000);
	for (int i = 0; i < 20; i++)
		sched_yield();
	stop = 1;
	for (int i = 0; i < count; i++) {
		void *refused;
		pthread_join(threads[i], &refused);
		bad |= (refused != NULL) << 1;
	}
	return bad;
}

int main(void)
{
	struct utsname name;
	uname(&name);
	int is_guest = strstr(name.release, "oxv") != NULL, cpus = sysconf(_SC_NPROCESSORS_ONLN);
	CHECK(!is_guest || runaways(cpus) == 0);
	CHECK(!is_guest || knobs() == 0);
	CHECK(!is_guest || runaways(cpus) == 0);
	return DONE();
}

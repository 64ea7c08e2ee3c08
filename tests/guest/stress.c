/* Threads that wait for each other in every way there is, all at once. The arguments name the ways; output is the same however they interleave. */
#include "check.h"
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio_ext.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

static pthread_t start(void *(*f)(void *), void *arg)
{
	pthread_t t;
	int e, tries = 0;
	/* Hosts refuse threads now and then while many begin and end. */
	while ((e = pthread_create(&t, NULL, f, arg)) == EAGAIN && tries++ < 1000)
		usleep(1000);
	if (e) {
		printf("FAIL pthread_create: %s\n", strerror(e));
		exit(1);
	}
	return t;
}

static long join(pthread_t t)
{
	void *result;
	pthread_join(t, &result);
	return (long)result;
}

/* A token goes around a ring by mutex and condition variable. */
#define RING 6
static pthread_mutex_t ring_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ring_turn[RING];
static long ring_at;
static void *ring(void *arg)
{
	long me = (long)arg, seen = 0;
	for (int i = 0; i < 60; i++) {
		pthread_mutex_lock(&ring_mutex);
		while (ring_at % RING != me)
			pthread_cond_wait(&ring_turn[me], &ring_mutex);
		seen += ring_at++;
		pthread_cond_signal(&ring_turn[(me + 1) % RING]);
		pthread_mutex_unlock(&ring_mutex);
	}
	return (void *)seen;
}
static void *rings(void *arg)
{
	pthread_t t[RING];
	long sum = 0;
	for (long i = 0; i < RING; i++)
		pthread_cond_init(&ring_turn[i], NULL);
	for (long i = 0; i < RING; i++)
		t[i] = start(ring, (void *)i);
	for (int i = 0; i < RING; i++)
		sum += join(t[i]);
	(void)arg;
	return (void *)(long)(sum == 60L * RING * (60 * RING - 1) / 2);
}

/* Two threads toss a futex word, half of the waits with a time-out. */
static unsigned ball;
static void *toss(void *arg)
{
	unsigned side = (unsigned)(long)arg;
	struct timespec soon = { 0, 700000 };
	for (unsigned i = 0; i < 400; i++) {
		unsigned now;
		while ((now = __atomic_load_n(&ball, __ATOMIC_SEQ_CST)) % 2 != side)
			syscall(SYS_futex, &ball, FUTEX_WAIT_PRIVATE, now, i & 1 ? &soon : NULL);
		__atomic_add_fetch(&ball, 1, __ATOMIC_SEQ_CST);
		syscall(SYS_futex, &ball, FUTEX_WAKE_PRIVATE, INT_MAX);
	}
	return NULL;
}
static void *tosses(void *arg)
{
	pthread_t a = start(toss, (void *)0), b = start(toss, (void *)1);
	(void)arg;
	join(a);
	join(b);
	return (void *)(long)(ball == 800);
}

/* Bytes through a chain of pipes, in pieces that do not fit the buffers. */
#define CHAIN 4
#define CHAIN_BYTES 300000
static int chain_fd[CHAIN][2];
static void *relay(void *arg)
{
	long link = (long)arg;
	char buffer[3001];
	ssize_t n;
	while ((n = read(chain_fd[link][0], buffer, sizeof buffer)) > 0)
		for (ssize_t done = 0; done < n;) {
			ssize_t m = write(chain_fd[link + 1][1], buffer + done, (size_t)(n - done));
			if (m < 0)
				return (void *)1;
			done += m;
		}
	close(chain_fd[link + 1][1]);
	return (void *)(long)(n != 0);
}
static void *feed(void *arg)
{
	char buffer[7001];
	(void)arg;
	for (long sent = 0; sent < CHAIN_BYTES;) {
		size_t n = sizeof buffer;
		if (CHAIN_BYTES - sent < (long)n)
			n = (size_t)(CHAIN_BYTES - sent);
		for (size_t i = 0; i < n; i++)
			buffer[i] = (char)((sent + (long)i) % 251);
		ssize_t m = write(chain_fd[0][1], buffer, n);
		if (m < 0)
			return (void *)1;
		sent += m;
	}
	close(chain_fd[0][1]);
	return NULL;
}
static void *chains(void *arg)
{
	pthread_t t[CHAIN];
	char buffer[5000];
	long at = 0, wrong = 0;
	ssize_t n;
	(void)arg;
	for (int i = 0; i < CHAIN; i++)
		if (pipe(chain_fd[i]))
			return NULL;
	t[0] = start(feed, NULL);
	for (long i = 0; i + 1 < CHAIN; i++)
		t[i + 1] = start(relay, (void *)i);
	while ((n = read(chain_fd[CHAIN - 1][0], buffer, sizeof buffer)) > 0)
		for (ssize_t i = 0; i < n; i++)
			wrong += buffer[i] != (char)(at++ % 251);
	for (int i = 0; i < CHAIN; i++)
		wrong += join(t[i]);
	for (int i = 0; i < CHAIN; i++)
		close(chain_fd[i][0]);
	return (void *)(long)(at == CHAIN_BYTES && wrong == 0);
}

/* Many post to event counters, several wait for them by epoll. */
#define EVENTS 5
static int event_fd[EVENTS], event_poll;
static long events_seen;
static void *post(void *arg)
{
	uint64_t one = 1;
	for (int i = 0; i < 200; i++)
		if (write(event_fd[((long)arg + i) % EVENTS], &one, 8) != 8)
			return (void *)1;
	return NULL;
}
static void *gather(void *arg)
{
	(void)arg;
	while (__atomic_load_n(&events_seen, __ATOMIC_SEQ_CST) < 3 * 200) {
		struct epoll_event event;
		uint64_t count;
		/* The last posts may be taken by another thread, so nobody waits for ever. */
		if (epoll_wait(event_poll, &event, 1, 20) == 1 && read(event_fd[event.data.u32], &count, 8) == 8)
			__atomic_add_fetch(&events_seen, (long)count, __ATOMIC_SEQ_CST);
	}
	return NULL;
}
static void *polls(void *arg)
{
	pthread_t t[5];
	(void)arg;
	event_poll = epoll_create1(0);
	for (unsigned i = 0; i < EVENTS; i++) {
		struct epoll_event event = { .events = i & 1 ? EPOLLIN : EPOLLIN | EPOLLET, .data.u32 = i };
		event_fd[i] = eventfd(0, EFD_NONBLOCK);
		epoll_ctl(event_poll, EPOLL_CTL_ADD, event_fd[i], &event);
	}
	for (long i = 0; i < 5; i++)
		t[i] = start(i < 3 ? post : gather, (void *)i);
	for (int i = 0; i < 5; i++)
		join(t[i]);
	for (int i = 0; i < EVENTS; i++)
		close(event_fd[i]);
	close(event_poll);
	return (void *)(long)(events_seen == 3 * 200);
}

/* Threads interrupt each other; one takes queued signals in order. */
static volatile long handled;
static void handler(int number)
{
	(void)number;
	__atomic_add_fetch(&handled, 1, __ATOMIC_SEQ_CST);
}
static int signals_over;
static void *interrupted(void *arg)
{
	struct timespec nap = { 0, 300000 };
	(void)arg;
	while (!__atomic_load_n(&signals_over, __ATOMIC_SEQ_CST))
		nanosleep(&nap, NULL);
	return NULL;
}
static void *takes(void *arg)
{
	sigset_t set;
	long wrong = 0;
	(void)arg;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	for (int i = 0; i < 150; i++) {
		siginfo_t info;
		while (sigwaitinfo(&set, &info) != SIGRTMIN + 1)
			;
		wrong += info.si_value.sival_int != i;
	}
	return (void *)wrong;
}
static void *signals(void *arg)
{
	pthread_t sleeper = start(interrupted, NULL), taker = start(takes, NULL);
	long wrong = 0;
	(void)arg;
	for (int i = 0; i < 150; i++) {
		union sigval value = { .sival_int = i };
		while (pthread_sigqueue(taker, SIGRTMIN + 1, value))
			sched_yield();
		pthread_kill(sleeper, SIGUSR1);
	}
	wrong += join(taker);
	__atomic_store_n(&signals_over, 1, __ATOMIC_SEQ_CST);
	join(sleeper);
	/* The last ones may have become one. */
	return (void *)(long)(wrong == 0 && handled > 0 && handled <= 150);
}

/* Mappings come, change and go while other threads fault on theirs. */
static void *maps(void *arg)
{
	long id = (long)arg, wrong = 0;
	for (int round = 0; round < 25; round++) {
		size_t pages = 3 + (size_t)(round * 7 + id) % 40;
		unsigned char *p = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			return (void *)1;
		for (size_t i = 0; i < pages; i++)
			p[i * 4096 + (size_t)id] = (unsigned char)(i + (size_t)round);
		mprotect(p + 4096, 4096, PROT_READ);
		madvise(p + 2 * 4096, 4096, MADV_DONTNEED);
		mprotect(p + 4096, 4096, PROT_READ | PROT_WRITE);
		p[4096]++;
		for (size_t i = 0; i < pages; i++)
			wrong += p[i * 4096 + (size_t)id] != (i == 2 ? 0 : (unsigned char)(i + (size_t)round));
		p = mremap(p, pages * 4096, (pages + 5) * 4096, MREMAP_MAYMOVE);
		wrong += p[(size_t)id] != (unsigned char)round || p[(pages + 4) * 4096] != 0;
		munmap(p, (pages + 5) * 4096);
	}
	return (void *)wrong;
}
static void *mapping(void *arg)
{
	pthread_t t[4];
	long wrong = 0;
	(void)arg;
	for (long i = 0; i < 4; i++)
		t[i] = start(maps, (void *)(i + 8));
	for (int i = 0; i < 4; i++)
		wrong += join(t[i]);
	return (void *)(long)(wrong == 0);
}

/* Threads come and go. Each finds itself by its number, even before its maker does. */
static void *brief(void *arg)
{
	cpu_set_t all;
	long wrong = syscall(SYS_tgkill, getpid(), gettid(), 0) != 0;
	wrong += sched_getaffinity(0, sizeof all, &all) != 0 || sched_setaffinity(0, sizeof all, &all) != 0;
	sched_yield();
	return (char *)arg + 100000 * wrong;
}
static void *threads(void *arg)
{
	long sum = 0;
	(void)arg;
	for (long i = 0; i < 25; i++) {
		pthread_t t[5];
		for (long k = 0; k < 5; k++)
			t[k] = start(brief, (void *)(i * k));
		for (int k = 0; k < 5; k++)
			sum += join(t[k]);
	}
	return (void *)(long)(sum == 300 * 10);
}

/* Running threads are told to be elsewhere, at any moment. Each is in one place at a time: what it counts on its own is what it has counted. */
#define MOVED 2
static volatile int moving;
static struct {
	volatile int tid;
	volatile long count;
} moved[MOVED];
static void *moves_on(void *arg)
{
	long me = (long)arg, count = 0, wrong = 0;
	moved[me].tid = gettid();
	while (moving) {
		wrong += moved[me].count != count;
		moved[me].count = ++count;
		if (count % 1024 == 0)
			sched_yield();
	}
	return (void *)wrong;
}
static void *moves(void *arg)
{
	pthread_t t[MOVED];
	cpu_set_t all, one;
	long wrong = sched_getaffinity(0, sizeof all, &all) != 0, done = 0;
	(void)arg;
	moving = 1;
	for (long i = 0; i < MOVED; i++)
		t[i] = start(moves_on, (void *)i);
	for (unsigned cpu = 0; done < 1500; cpu = (cpu + 1) % CPU_SETSIZE) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		for (int i = 0; i < MOVED; i++)
			if (moved[i].tid)
				wrong += sched_setaffinity(moved[i].tid, sizeof one, &one) != 0;
		if (++done % 8 == 0)
			usleep(1000);
	}
	moving = 0;
	for (int i = 0; i < MOVED; i++)
		wrong += join(t[i]);
	return (void *)(long)(wrong == 0);
}

/* Children of a process with busy threads: copy on write in both directions, exit codes, pipes. */
static volatile int shared_page[1024];
static void *forks(void *arg)
{
	long wrong = 0;
	(void)arg;
	for (int i = 0; i < 12; i++) {
		int fd[2], status, value = 0;
		shared_page[0] = i;
		if (pipe(fd))
			return NULL;
		pid_t child = fork();
		if (child < 0)
			return NULL;
		if (child == 0) {
			value = shared_page[0] * 3;
			shared_page[0] = -1;
			_exit(write(fd[1], &value, sizeof value) == sizeof value ? 40 + i : 1);
		}
		close(fd[1]);
		wrong += read(fd[0], &value, sizeof value) != sizeof value || value != i * 3;
		close(fd[0]);
		wrong += waitpid(child, &status, 0) != child || status != (40 + i) << 8;
		wrong += shared_page[0] != i;
	}
	return (void *)(long)(wrong == 0);
}

/* Processes full of busy threads end in every way: by exit, by a signal, by their last thread, by another program. */
static void *busy(void *arg)
{
	static unsigned word;
	int fd[2];
	char byte;
	long way = (long)arg;
	struct timespec nap = { 0, 50000 };
	for (unsigned i = 0;; i++)
		switch (way % 7) {
		case 0:
			syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, i & 1 ? &nap : NULL);
			break;
		case 1:
			syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1);
			break;
		case 2:
			if (pipe(fd) == 0 && write(fd[1], &byte, 1) == 1 && read(fd[0], &byte, 1) == 1) {
				close(fd[0]);
				close(fd[1]);
			}
			break;
		case 3: {
			volatile char *p = mmap(NULL, 20000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			p[5000] = 1;
			munmap((void *)p, 20000);
			break;
		}
		case 4:
			nanosleep(&nap, NULL);
			break;
		case 5:
			pthread_join(start(brief, NULL), NULL);
			break;
		default:
			/* For ever: nobody writes. */
			if (pipe(fd) == 0 && read(fd[0], &byte, 1) < 0)
				return NULL;
		}
}
static void *becomes_another(void *arg)
{
	usleep(500);
	execl("/proc/self/exe", "stress", "42", NULL);
	return arg;
}
static void ends_child(int way)
{
	pthread_t t = 0;
	/* What the parent was about to write: a process whose last thread ends writes it, too. */
	__fpurge(stdout);
	for (long i = 0; i < 7; i++)
		t = start(way == 2 ? brief : busy, (void *)(i + (way == 3 ? 1 : 0)));
	usleep((unsigned)way * 300);
	switch (way) {
	case 0:
		_exit(40);
	case 1:
		raise(SIGKILL);
		break;
	case 2:
		pthread_detach(t);
		pthread_exit(NULL);
	case 3:
		start(becomes_another, NULL);
		break;
	case 4:
		abort();
	}
	for (;;)
		pause();
}
static void *ends(void *arg)
{
	static const int expected[] = { 40 << 8, SIGKILL, 0, 42 << 8, SIGABRT, SIGTERM };
	long wrong = 0;
	(void)arg;
	for (int i = 0; i < 12; i++) {
		int way = i % 6, status;
		pid_t child = fork();
		if (child < 0)
			return NULL;
		if (child == 0)
			ends_child(way);
		if (way == 5) {
			usleep(1500);
			kill(child, SIGTERM);
		}
		if (waitpid(child, &status, 0) != child || (status & 0xff7f) != expected[way]) {
			printf("way %d: status %#x\n", way, status);
			wrong++;
		}
	}
	return (void *)(long)(wrong == 0);
}

static const struct {
	const char *name;
	void *(*run)(void *);
} ways[] = {
	{ "rings", rings }, { "tosses", tosses }, { "chains", chains }, { "polls", polls },   { "signals", signals },
	{ "mapping", mapping }, { "threads", threads }, { "forks", forks }, { "ends", ends },
	{ "moves", moves },
};
#define WAYS (sizeof ways / sizeof *ways)

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = handler };
	pthread_t t[WAYS];
	if (argc == 2 && atoi(argv[1]))
		return atoi(argv[1]);
	sigset_t set;
	sigaction(SIGUSR1, &action, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	for (size_t i = 0; i < WAYS; i++) {
		t[i] = 0;
		for (int k = 1; k < argc; k++)
			if (!strcmp(argv[k], ways[i].name) || !strcmp(argv[k], "all"))
				t[i] = start(ways[i].run, NULL);
	}
	for (size_t i = 0; i < WAYS; i++)
		if (t[i]) {
			long ok = join(t[i]);
			check_(ok == 1, ways[i].name, 0);
		}
	return DONE();
}

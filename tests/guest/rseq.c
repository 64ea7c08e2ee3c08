/* Restartable sequences, and membarrier. */
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>

#define SIGNATURE 0x53053053

struct area {
	uint32_t cpu_id_start, cpu_id;
	uint64_t section;
	uint32_t flags, node_id, mm_cid, padding;
};

static struct area *mine(void)
{
	return (struct area *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static struct area own __attribute__((aligned(32)));

static long rseq(void *area, uint32_t len, int flags, uint32_t signature)
{
	return syscall(SYS_rseq, area, len, flags, signature);
}

/* Enters a critical section and stays there until it is aborted: 1. `inside` is set in the section. */
static int stay(struct area *area, volatile int *inside)
{
	int aborted = 0;
	__asm__ volatile(".pushsection sections, \"aw\"\n"
			 ".balign 32\n"
			 "3: .long 0, 0\n"
			 ".quad 1f, 2f - 1f, rseq_abort\n"
			 ".popsection\n"
			 "lea 3b(%%rip), %%rax\n"
			 "mov %%rax, 8(%[area])\n"
			 "1: movl $1, (%[inside])\n"
			 "jmp 1b\n"
			 "2: jmp 4f\n"
			 ".byte 0x0f, 0xb9, 0x3d\n"
			 ".long 0x53053053\n"
			 ".globl rseq_abort\n"
			 "rseq_abort: movl $1, %[aborted]\n"
			 "4:\n"
			 : [aborted] "+r"(aborted)
			 : [area] "r"(area), [inside] "r"(inside)
			 : "rax", "memory", "cc");
	return aborted;
}

extern char rseq_abort[];

static volatile int inside, stop, handled;

static void on_signal(int signal, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	(void)signal;
	(void)info;
	handled = 1 + (uc->uc_mcontext.gregs[REG_RIP] == (long)rseq_abort);
}

static void pin(pthread_t thread, int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	pthread_setaffinity_np(thread, sizeof set, &set);
}

static void *signals_main(void *arg)
{
	while (!inside)
		sched_yield();
	pthread_kill(*(pthread_t *)arg, SIGUSR1);
	return NULL;
}

static void *spins(void *arg)
{
	while (!stop)
		;
	return arg;
}

static void *stays(void *arg)
{
	(void)arg;
	return (void *)(long)stay(mine(), &inside);
}

static volatile int x, y, seen_x, seen_y, round_no, answered;

/* The cheap side of a store-buffering test: no barrier but the compiler's. */
static void *cheap_side(void *arg)
{
	for (int i = 1; i <= *(int *)arg; i++) {
		while (round_no != i)
			sched_yield();
		x = 1;
		__asm__ volatile("" ::: "memory");
		seen_y = y;
		__atomic_store_n(&answered, i, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

#define QUERY 0
#define GLOBAL 1
#define GLOBAL_EXPEDITED 2
#define REGISTER_GLOBAL_EXPEDITED 4
#define PRIVATE_EXPEDITED 8
#define REGISTER_PRIVATE_EXPEDITED 16
#define SYNC_CORE 32
#define REGISTER_SYNC_CORE 64
#define RSEQ 128
#define REGISTER_RSEQ 256
#define GET_REGISTRATIONS 512

static long membarrier(int command, unsigned flags, int cpu)
{
	return syscall(SYS_membarrier, command, flags, cpu);
}

static void barriers(void)
{
	pthread_t thread;
	int rounds = 300, both_missed = 0;

	CHECK((membarrier(QUERY, 0, 0) & 1023) == 1023);
	FAILS(membarrier(PRIVATE_EXPEDITED, 0, 0), EPERM);
	FAILS(membarrier(SYNC_CORE, 0, 0), EPERM);
	FAILS(membarrier(RSEQ, 0, 0), EPERM);
	FAILS(membarrier(1 << 20, 0, 0), EINVAL);
	FAILS(membarrier(GLOBAL, 1, 0), EINVAL);
	CHECK(membarrier(GET_REGISTRATIONS, 0, 0) == 0);
	CHECK(membarrier(REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0);
	CHECK(membarrier(REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0);
	CHECK(membarrier(REGISTER_SYNC_CORE, 0, 0) == 0);
	CHECK(membarrier(REGISTER_RSEQ, 0, 0) == 0);
	CHECK(membarrier(GET_REGISTRATIONS, 0, 0) == (4 | 16 | 64 | 256));
	CHECK(membarrier(GLOBAL, 0, 0) == 0);
	CHECK(membarrier(GLOBAL_EXPEDITED, 0, 0) == 0);
	CHECK(membarrier(PRIVATE_EXPEDITED, 0, 0) == 0);
	CHECK(membarrier(SYNC_CORE, 0, 0) == 0);
	CHECK(membarrier(RSEQ, 0, 0) == 0);
	CHECK(membarrier(RSEQ, 1, 0) == 0);

	pthread_create(&thread, NULL, cheap_side, &rounds);
	for (int i = 1; i <= rounds; i++) {
		x = y = 0;
		__atomic_store_n(&round_no, i, __ATOMIC_SEQ_CST);
		y = 1;
		membarrier(PRIVATE_EXPEDITED, 0, 0);
		seen_x = x;
		while (__atomic_load_n(&answered, __ATOMIC_SEQ_CST) != i)
			sched_yield();
		both_missed += !seen_x && !seen_y;
	}
	pthread_join(thread, NULL);
	CHECK(both_missed == 0);
}

/* Ends by the signal that a bad section brings. */
static void bad_section(void)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	/* Again and again: the first may come before the section. */
	struct itimerval soon = { { 0, 20000 }, { 0, 20000 } };
	sigaction(SIGALRM, &action, NULL);
	rseq(mine(), sizeof own, 1, SIGNATURE);
	rseq(&own, sizeof own, 0, SIGNATURE + 1);
	setitimer(ITIMER_REAL, &soon, NULL);
	stay(&own, &inside);
	_exit(1);
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	pthread_t self = pthread_self(), thread;
	cpu_set_t all;
	int status, wrong = 0;
	void *result;

	CHECK(__rseq_size >= 20);
	CHECK(mine()->cpu_id == mine()->cpu_id_start);
	CHECK(mine()->cpu_id < 1024);

	/* The C library's sched_getcpu reads it. */
	sched_getaffinity(0, sizeof all, &all);
	for (int turn = 0; turn < 20; turn++)
		for (int cpu = 0; cpu < 64; cpu++)
			if (CPU_ISSET(cpu, &all)) {
				pin(self, cpu);
				wrong += sched_getcpu() != cpu || mine()->cpu_id_start != (uint32_t)cpu;
			}
	CHECK(wrong == 0);
	pthread_setaffinity_np(self, sizeof all, &all);

	FAILS(rseq(mine(), sizeof own, 0, SIGNATURE), EBUSY);
	FAILS(rseq(mine(), sizeof own, 0, SIGNATURE + 1), EPERM);
	FAILS(rseq(&own, sizeof own, 0, SIGNATURE), EINVAL);
	FAILS(rseq(mine(), sizeof own, 2, SIGNATURE), EINVAL);
	FAILS(rseq(&own, sizeof own, 1, SIGNATURE), EINVAL);
	CHECK(rseq(mine(), sizeof own, 1, SIGNATURE) == 0);
	CHECK(mine()->cpu_id == (uint32_t)-1 && mine()->cpu_id_start == 0);
	FAILS(rseq(mine(), sizeof own, 1, SIGNATURE), EINVAL);
	FAILS(rseq((char *)&own + 8, sizeof own, 0, SIGNATURE), EINVAL);
	FAILS(rseq(&own, 16, 0, SIGNATURE), EINVAL);
	CHECK(rseq(mine(), sizeof own, 0, SIGNATURE) == 0);
	CHECK(mine()->cpu_id == mine()->cpu_id_start);

	/* A signal aborts the section, and returns to the abort address. */
	sigaction(SIGUSR1, &action, NULL);
	pthread_create(&thread, NULL, signals_main, &self);
	CHECK(stay(mine(), &inside) == 1);
	pthread_join(thread, NULL);
	CHECK(handled != 0);
	CHECK(mine()->section == 0);

	/* So does a thread that takes the CPU. */
	CPU_ZERO(&all);
	sched_getaffinity(0, sizeof all, &all);
	int cpu = sched_getcpu();
	pin(self, cpu);
	pthread_create(&thread, NULL, spins, NULL);
	pin(thread, cpu);
	CHECK(stay(mine(), &inside) == 1);
	stop = 1;
	pthread_join(thread, NULL);
	pthread_setaffinity_np(self, sizeof all, &all);

	barriers();

	/* And another thread's membarrier. */
	inside = 0;
	pthread_create(&thread, NULL, stays, NULL);
	while (!inside)
		sched_yield();
	CHECK(membarrier(RSEQ, 0, 0) == 0);
	pthread_join(thread, &result);
	CHECK(result == (void *)1);

	pid_t child = fork();
	if (child == 0)
		bad_section();
	waitpid(child, &status, 0);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	return DONE();
}

/* Futexes beyond plain wait and wake: owners (priority inheritance), robust lists, requeue, the calls of Linux 6.7. */
#include "check.h"
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
#define SYS_FUTEX_WAKE 454
#define SYS_FUTEX_WAIT 455
#define SYS_FUTEX_REQUEUE 456
#define SIZE_U32 2
#define PRIVATE 128

struct waitv {
	uint64_t val, uaddr;
	uint32_t flags, reserved;
};

static long futex(uint32_t *word, int op, uint32_t val, void *timeout, uint32_t *word2, uint32_t val3)
{
	long result = syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, val, timeout, word2, val3);
	return result < 0 ? -errno : result;
}

static long call(long number, long a, long b, long c, long d, long e, long f)
{
	long result = syscall(number, a, b, c, d, e, f);
	return result < 0 ? -errno : result;
}

static void say(const char *what, long result)
{
	if (result < 0)
		printf("%s: %s\n", what, strerror(-result));
	else
		printf("%s: %ld\n", what, result);
}

static uint32_t gettid_(void)
{
	return (uint32_t)syscall(SYS_gettid);
}

static uint32_t load(uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static void store(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

static void wait_for_bits(uint32_t *word, uint32_t bits)
{
	while (!(load(word) & bits))
		sched_yield();
}

/* --- owners --- */

static uint32_t one, two, step;

static void lock_errors(void)
{
	struct timespec past = { 0, 1 };
	store(&one, 0);
	say("lock a free word", futex(&one, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
	printf("it is mine: %d\n", load(&one) == gettid_());
	say("lock it again", futex(&one, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
	say("try to lock it again", futex(&one, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0));
	say("unlock it", futex(&one, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
	printf("it is free: %d\n", load(&one) == 0);
	say("unlock what is free", futex(&one, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
	say("try to lock what is free", futex(&one, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0));
	store(&one, 0x3ffffff0);
	say("lock a word whose owner does not exist", futex(&one, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
	say("unlock a word of somebody else", futex(&one, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
	store(&one, 0);
	say("unaligned", syscall(SYS_futex, (char *)&one + 1, FUTEX_LOCK_PI, 0, NULL, NULL, 0) < 0 ? -errno : 0);
	say("no such operation", futex(&one, 63, 0, NULL, NULL, 0));
	say("realtime flag on a wake", futex(&one, FUTEX_WAKE | FUTEX_CLOCK_REALTIME, 1, NULL, NULL, 0));
	say("realtime flag on a plain wait", futex(&one, FUTEX_WAIT | FUTEX_CLOCK_REALTIME, 0, &past, NULL, 0));
	say("realtime flag on a wait with bits", futex(&one, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &past, NULL, 1));
}

static void *holder(void *arg)
{
	futex(&one, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
	store(&step, 1);
	while (load(&step) != 2)
		sched_yield();
	if (arg)
		futex(&one, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
	return NULL;
}

static void held_by_another(void)
{
	pthread_t thread;
	struct timespec past = { 1, 0 };
	store(&one, 0);
	store(&step, 0);
	pthread_create(&thread, NULL, holder, "unlock");
	while (load(&step) != 1)
		sched_yield();
	say("try to lock what another has", futex(&one, FUTEX_TRYLOCK_PI, 0, NULL, NULL, 0));
	say("lock it in time", futex(&one, FUTEX_LOCK_PI, 0, &past, NULL, 0));
	say("lock it in monotonic time", futex(&one, FUTEX_LOCK_PI2, 0, &past, NULL, 0));
	store(&step, 2);
	say("lock it", futex(&one, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
	printf("it is mine: %d\n", (load(&one) & FUTEX_TID_MASK) == gettid_());
	pthread_join(thread, NULL);
	say("unlock it", futex(&one, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
	printf("it is free: %d\n", load(&one) == 0);
}

static void *ends_holding(void *arg)
{
	futex(&one, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
	store(&step, 1);
	wait_for_bits(&one, FUTEX_WAITERS);
	return arg;
}

static void owner_ends(void)
{
	pthread_t thread;
	store(&one, 0);
	store(&step, 0);
	pthread_create(&thread, NULL, ends_holding, NULL);
	while (load(&step) != 1)
		sched_yield();
	say("lock what its owner leaves", futex(&one, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
	printf("mine %d, owner died %d\n", (load(&one) & FUTEX_TID_MASK) == gettid_(), !!(load(&one) & FUTEX_OWNER_DIED));
	pthread_join(thread, NULL);
	say("unlock it", futex(&one, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
}

static void *second_then_first(void *arg)
{
	futex(&two, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
	store(&step, 1);
	say("the other locks the first", futex(&one, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
	futex(&one, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
	futex(&two, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
	return arg;
}

static void deadlock(void)
{
	pthread_t thread;
	store(&one, 0);
	store(&two, 0);
	store(&step, 0);
	futex(&one, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
	pthread_create(&thread, NULL, second_then_first, NULL);
	while (load(&step) != 1)
		sched_yield();
	wait_for_bits(&one, FUTEX_WAITERS);
	usleep(20000);
	say("lock the second, whose owner waits for the first", futex(&two, FUTEX_LOCK_PI, 0, NULL, NULL, 0));
	futex(&one, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
	pthread_join(thread, NULL);
	printf("both are free: %d\n", load(&one) == 0 && load(&two) == 0);
}

/* Everything on one CPU: an ordinary thread owns the word, a real-time one takes all the time, and a more urgent one waits for the
   word. If the owner did not inherit, it would not run before the second has ended, which waits for the third. */

static int create(pthread_t *thread, int policy, int priority, void *(*body)(void *))
{
	pthread_attr_t attr;
	struct sched_param param = { priority };
	cpu_set_t first;
	CPU_ZERO(&first);
	CPU_SET(0, &first);
	pthread_attr_init(&attr);
	pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&attr, policy);
	pthread_attr_setschedparam(&attr, &param);
	pthread_attr_setaffinity_np(&attr, sizeof first, &first);
	return pthread_create(thread, &attr, body, NULL);
}

static void *owns(void *arg)
{
	futex(&one, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
	store(&step, 1);
	while (!(load(&one) & FUTEX_WAITERS))
		;
	futex(&one, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
	return arg;
}

static void *hogs(void *arg)
{
	store(&step, 2);
	while (load(&step) != 3)
		;
	return arg;
}

static void *needs(void *arg)
{
	while (load(&step) != 2)
		usleep(1000);
	long result = futex(&one, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
	futex(&one, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
	store(&step, 3);
	return arg ? arg : (void *)result;
}

static void inheritance(void)
{
	pthread_t low, middle, high;
	void *result;
	store(&one, 0);
	store(&step, 0);
	int a = create(&low, SCHED_OTHER, 0, owns);
	while (load(&step) != 1)
		usleep(1000);
	int b = create(&high, SCHED_FIFO, 20, needs);
	int c = create(&middle, SCHED_FIFO, 10, hogs);
	pthread_join(high, &result);
	pthread_join(middle, NULL);
	pthread_join(low, NULL);
	printf("created: %d %d %d\n", a, b, c);
	say("the urgent one locked it", (long)result);
	printf("it is free: %d\n", load(&one) == 0);
}

/* --- the C library's mutexes --- */

static pthread_mutex_t mutex;
static long counter;

static void *count(void *arg)
{
	for (int i = 0; i < 3000; i++) {
		pthread_mutex_lock(&mutex);
		counter++;
		pthread_mutex_unlock(&mutex);
	}
	return arg;
}

static void make_mutex(pthread_mutex_t *m, int protocol, int robust, int shared)
{
	pthread_mutexattr_t attr;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, protocol);
	pthread_mutexattr_setrobust(&attr, robust);
	pthread_mutexattr_setpshared(&attr, shared);
	printf("init: %d\n", pthread_mutex_init(m, &attr));
	pthread_mutexattr_destroy(&attr);
}

static void inheriting_mutex(void)
{
	pthread_t threads[4];
	make_mutex(&mutex, PTHREAD_PRIO_INHERIT, PTHREAD_MUTEX_STALLED, PTHREAD_PROCESS_PRIVATE);
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, count, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	printf("counted %ld\n", counter);
	pthread_mutex_destroy(&mutex);
}

static void *dies(void *arg)
{
	pthread_mutex_lock(&mutex);
	return arg;
}

static void *waits(void *arg)
{
	int result = pthread_mutex_lock(&mutex);
	printf("waiter: %s\n", strerror(result));
	pthread_mutex_consistent(&mutex);
	pthread_mutex_unlock(&mutex);
	return arg;
}

static void *dies_while_another_waits(void *arg)
{
	pthread_mutex_lock(&mutex);
	store(&step, 1);
	wait_for_bits((uint32_t *)&mutex.__data.__lock, FUTEX_WAITERS);
	return arg;
}

static void robust_mutex(int protocol)
{
	pthread_t a, b;
	make_mutex(&mutex, protocol, PTHREAD_MUTEX_ROBUST, PTHREAD_PROCESS_PRIVATE);
	pthread_create(&a, NULL, dies, NULL);
	pthread_join(a, NULL);
	printf("after its owner's end: %s\n", strerror(pthread_mutex_lock(&mutex)));
	printf("consistent: %d\n", pthread_mutex_consistent(&mutex));
	printf("unlock: %d\n", pthread_mutex_unlock(&mutex));
	printf("lock: %d\n", pthread_mutex_lock(&mutex));
	pthread_mutex_unlock(&mutex);
	store(&step, 0);
	pthread_create(&a, NULL, dies_while_another_waits, NULL);
	while (load(&step) != 1)
		sched_yield();
	pthread_create(&b, NULL, waits, NULL);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	printf("then: %s\n", strerror(pthread_mutex_lock(&mutex)));
	pthread_mutex_unlock(&mutex);
	pthread_mutex_destroy(&mutex);
}

static void shared_between_processes(int protocol)
{
	pthread_mutex_t *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	make_mutex(shared, protocol, PTHREAD_MUTEX_ROBUST, PTHREAD_PROCESS_SHARED);
	fflush(stdout);
	pid_t child = fork();
	if (child == 0) {
		pthread_mutex_lock(shared);
		wait_for_bits((uint32_t *)&shared->__data.__lock, FUTEX_WAITERS);
		_exit(0);
	}
	while (!load((uint32_t *)&shared->__data.__lock))
		sched_yield();
	printf("after the other process's end: %s\n", strerror(pthread_mutex_lock(shared)));
	pthread_mutex_consistent(shared);
	printf("unlock: %d\n", pthread_mutex_unlock(shared));
	waitpid(child, NULL, 0);
	munmap(shared, 4096);
}

/* --- requeue --- */

static uint32_t condition, lock_word, done;

static void *waits_on_condition(void *arg)
{
	(void)arg;
	long result = futex(&condition, FUTEX_WAIT_REQUEUE_PI, 0, NULL, &lock_word, 0);
	if (result == 0 && (load(&lock_word) & FUTEX_TID_MASK) == gettid_()) {
		__atomic_fetch_add(&done, 1, __ATOMIC_SEQ_CST);
		result = futex(&lock_word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0);
	}
	return (void *)result;
}

static long requeue_until(long wanted)
{
	long total = 0;
	while (total < wanted) {
		long n = futex(&condition, FUTEX_CMP_REQUEUE_PI, 1, (void *)(long)INT_MAX, &lock_word, 0);
		if (n < 0)
			return n;
		total += n;
		sched_yield();
	}
	return total;
}

static void requeue_to_owner(int held)
{
	pthread_t threads[3];
	void *result;
	long failed = 0;
	store(&condition, 0);
	store(&lock_word, 0);
	store(&done, 0);
	if (held)
		futex(&lock_word, FUTEX_LOCK_PI, 0, NULL, NULL, 0);
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, waits_on_condition, NULL);
	say("moved", requeue_until(3));
	if (held)
		say("unlock", futex(&lock_word, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
	for (int i = 0; i < 3; i++) {
		pthread_join(threads[i], &result);
		failed += result != NULL;
	}
	printf("owned by %u, failed %ld, free %d\n", load(&done), failed, (load(&lock_word) & FUTEX_TID_MASK) == 0);
}

static void requeue_errors(void)
{
	struct timespec soon = { 1, 0 };
	say("wakes two", futex(&condition, FUTEX_CMP_REQUEUE_PI, 2, (void *)1L, &lock_word, 0));
	say("to itself", futex(&condition, FUTEX_CMP_REQUEUE_PI, 1, (void *)1L, &condition, 0));
	say("another value", futex(&condition, FUTEX_CMP_REQUEUE_PI, 1, (void *)1L, &lock_word, 5));
	say("waits with another value", futex(&condition, FUTEX_WAIT_REQUEUE_PI, 7, NULL, &lock_word, 0));
	say("waits in time", futex(&condition, FUTEX_WAIT_REQUEUE_PI, 0, &soon, &lock_word, 0));
	say("waits to be moved to itself", futex(&condition, FUTEX_WAIT_REQUEUE_PI, 0, NULL, &condition, 0));
	say("negative count", futex(&condition, FUTEX_REQUEUE, 0, (void *)-1L, &lock_word, 0));
}

static void *waits_plainly(void *arg)
{
	return (void *)futex(arg, FUTEX_WAIT, 0, NULL, NULL, 0);
}

static void plain_requeue(void)
{
	pthread_t thread;
	void *result;
	store(&one, 0);
	store(&two, 0);
	pthread_create(&thread, NULL, waits_plainly, &one);
	long n;
	while ((n = futex(&one, FUTEX_REQUEUE, 0, (void *)1L, &two, 0)) == 0)
		sched_yield();
	say("requeue counts those it moves", n);
	say("wake where it was", futex(&one, FUTEX_WAKE, 1, NULL, NULL, 0));
	say("wake where it is", futex(&two, FUTEX_WAKE, 1, NULL, NULL, 0));
	pthread_join(thread, &result);
	say("waited", (long)result);
}

/* --- the newer calls --- */

static void *waits_modern(void *arg)
{
	return (void *)call(SYS_FUTEX_WAIT, (long)arg, 0, 1, SIZE_U32 | PRIVATE, 0, CLOCK_MONOTONIC);
}

static void modern_calls(void)
{
	pthread_t thread;
	void *result;
	struct timespec past = { 1, 0 };
	struct waitv words[2] = { { 0, (uintptr_t)&one, SIZE_U32 | PRIVATE, 0 }, { 0, (uintptr_t)&two, SIZE_U32 | PRIVATE, 0 } };
	long one_at = (long)&one;
	store(&one, 0);
	store(&two, 0);
	say("futex_wake of nobody", call(SYS_FUTEX_WAKE, one_at, ~0u, 1, SIZE_U32 | PRIVATE, 0, 0));
	say("futex_wake of 64-bit words", call(SYS_FUTEX_WAKE, one_at, ~0u, 1, 3 | PRIVATE, 0, 0));
	say("futex_wake without bits", call(SYS_FUTEX_WAKE, one_at, 0, 1, SIZE_U32 | PRIVATE, 0, 0));
	say("futex_wait for another value", call(SYS_FUTEX_WAIT, one_at, 4, ~0u, SIZE_U32 | PRIVATE, 0, CLOCK_MONOTONIC));
	say("futex_wait for a wide value", call(SYS_FUTEX_WAIT, one_at, 1L << 32, ~0u, SIZE_U32 | PRIVATE, 0, CLOCK_MONOTONIC));
	say("futex_wait in time", call(SYS_FUTEX_WAIT, one_at, 0, ~0u, SIZE_U32 | PRIVATE, (long)&past, CLOCK_REALTIME));
	say("futex_wait by a CPU clock", call(SYS_FUTEX_WAIT, one_at, 0, ~0u, SIZE_U32 | PRIVATE, (long)&past, CLOCK_PROCESS_CPUTIME_ID));
	say("futex_waitv in time", call(SYS_futex_waitv, (long)words, 2, 0, (long)&past, CLOCK_MONOTONIC, 0));
	say("futex_waitv by a CPU clock", call(SYS_futex_waitv, (long)words, 2, 0, (long)&past, CLOCK_THREAD_CPUTIME_ID, 0));
	say("futex_waitv of nothing", call(SYS_futex_waitv, (long)words, 0, 0, 0, CLOCK_MONOTONIC, 0));
	say("futex_requeue with flags", call(SYS_FUTEX_REQUEUE, (long)words, 1, 1, 1, 0, 0));
	pthread_create(&thread, NULL, waits_modern, &one);
	long n;
	while ((n = call(SYS_FUTEX_REQUEUE, (long)words, 0, 0, 1, 0, 0)) == 0)
		sched_yield();
	say("futex_requeue", n);
	say("futex_wake with other bits", call(SYS_FUTEX_WAKE, (long)&two, 6, 1, SIZE_U32 | PRIVATE, 0, 0));
	say("futex_wake", call(SYS_FUTEX_WAKE, (long)&two, 3, 1, SIZE_U32 | PRIVATE, 0, 0));
	pthread_join(thread, &result);
	say("futex_wait", (long)result);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	lock_errors();
	held_by_another();
	owner_ends();
	deadlock();
	inheritance();
	inheriting_mutex();
	robust_mutex(PTHREAD_PRIO_NONE);
	robust_mutex(PTHREAD_PRIO_INHERIT);
	shared_between_processes(PTHREAD_PRIO_NONE);
	shared_between_processes(PTHREAD_PRIO_INHERIT);
	requeue_to_owner(1);
	requeue_to_owner(0);
	requeue_errors();
	plain_requeue();
	modern_calls();
	return 0;
}

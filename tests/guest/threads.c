/* POSIX threads over futex: mutexes, condition variables, barriers, semaphores, time-outs, thread-local data, cancellation. */
#include "check.h"
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/syscall.h>
#include <time.h>

#define THREADS 8
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static __thread long local = 17;
static long counter, once_count, destroyed, serial_threads, torn, pair[2];
static sem_t sem;

static long futex(unsigned *word, int op, unsigned value, const struct timespec *timeout, unsigned *word2, unsigned value3)
{
	return syscall(SYS_futex, word, op, value, timeout, word2, value3);
}

static void *add(void *arg)
{
	long id = (long)arg;
	for (int i = 0; i < 20000; i++) {
		pthread_mutex_lock(&mutex);
		counter++;
		pthread_mutex_unlock(&mutex);
	}
	local += id;
	return (void *)local;
}

static int queue[16], head, tail, produced_sum, consumed_sum;
static pthread_cond_t not_full = PTHREAD_COND_INITIALIZER;
static void *produce(void *arg)
{
	(void)arg;
	for (int i = 1; i <= 5000; i++) {
		pthread_mutex_lock(&mutex);
		while (tail - head == 16)
			pthread_cond_wait(&not_full, &mutex);
		queue[tail++ & 15] = i;
		produced_sum += i;
		pthread_cond_signal(&cond);
		pthread_mutex_unlock(&mutex);
	}
	return NULL;
}
static void *consume(void *arg)
{
	(void)arg;
	for (int i = 0; i < 5000; i++) {
		pthread_mutex_lock(&mutex);
		while (head == tail)
			pthread_cond_wait(&cond, &mutex);
		consumed_sum += queue[head++ & 15];
		pthread_cond_signal(&not_full);
		pthread_mutex_unlock(&mutex);
	}
	return NULL;
}

static void once_routine(void)
{
	once_count++;
}
static void *rounds(void *arg)
{
	pthread_once(&once, once_routine);
	pthread_setspecific(key, arg);
	for (int i = 0; i < 100; i++)
		if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
			__atomic_add_fetch(&serial_threads, 1, __ATOMIC_RELAXED);
	return NULL;
}
static void destroy(void *arg)
{
	__atomic_add_fetch(&destroyed, (long)arg, __ATOMIC_RELAXED);
}

static void *read_write(void *arg)
{
	for (int i = 0; i < 3000; i++) {
		if ((long)arg % 4 == 0) {
			pthread_rwlock_wrlock(&rwlock);
			pair[0]++;
			pair[1]++;
		} else {
			pthread_rwlock_rdlock(&rwlock);
			if (pair[0] != pair[1])
				torn++;
		}
		pthread_rwlock_unlock(&rwlock);
	}
	return NULL;
}

static void *post(void *arg)
{
	(void)arg;
	for (int i = 0; i < 1000; i++)
		sem_post(&sem);
	return NULL;
}

static unsigned words[2];
static long about_to_wait, woken;
static void *wait_word(void *arg)
{
	(void)arg;
	__atomic_add_fetch(&about_to_wait, 1, __ATOMIC_SEQ_CST);
	futex(&words[0], FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	__atomic_add_fetch(&woken, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void *cancelled(void *arg)
{
	pthread_cleanup_push(destroy, (void *)1000000);
	for (;;)
		pause();
	pthread_cleanup_pop(0);
	return arg;
}
static void unlock(void *m)
{
	pthread_mutex_unlock(m);
}
static void *waits_forever(void *arg)
{
	pthread_mutex_lock(&mutex);
	pthread_cleanup_push(unlock, &mutex);
	for (;;)
		pthread_cond_wait(&cond, &mutex);
	pthread_cleanup_pop(1);
	return arg;
}

static void *locks_and_ends(void *m)
{
	pthread_mutex_lock(m);
	return NULL;
}

static void spawn(pthread_t *t, void *(*f)(void *))
{
	for (long i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, f, (void *)(i + 1));
}
static void join(pthread_t *t)
{
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
}

static struct timespec from_now(clockid_t clock, long ms)
{
	struct timespec t;
	clock_gettime(clock, &t);
	t.tv_nsec += ms * 1000000;
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	return t;
}

int main(void)
{
	pthread_t t[THREADS];
	long total = 0;
	void *result;

	spawn(t, add);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(t[i], &result);
		total += (long)result;
	}
	CHECK(counter == THREADS * 20000);
	CHECK(total == 17 * THREADS + 36 && local == 17);

	for (int i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, i % 2 ? produce : consume, NULL);
	join(t);
	CHECK(produced_sum == consumed_sum && produced_sum == 4 * 5000 * 5001 / 2);

	pthread_key_create(&key, destroy);
	pthread_barrier_init(&barrier, NULL, THREADS);
	spawn(t, rounds);
	join(t);
	CHECK(serial_threads == 100 && once_count == 1 && destroyed == 36);

	spawn(t, read_write);
	join(t);
	CHECK(torn == 0 && pair[0] == 2 * 3000 && pair[1] == pair[0]);

	sem_init(&sem, 0, 0);
	spawn(t, post);
	for (int i = 0; i < THREADS * 1000; i++)
		sem_wait(&sem);
	join(t);
	FAILS(sem_trywait(&sem), EAGAIN);

	/* Time-outs. */
	struct timespec deadline = from_now(CLOCK_REALTIME, 30);
	FAILS(sem_timedwait(&sem, &deadline), ETIMEDOUT);
	pthread_mutex_lock(&mutex);
	deadline = from_now(CLOCK_REALTIME, 30);
	CHECK(pthread_cond_timedwait(&cond, &mutex, &deadline) == ETIMEDOUT);
	deadline = from_now(CLOCK_MONOTONIC, 30);
	CHECK(pthread_cond_clockwait(&cond, &mutex, CLOCK_MONOTONIC, &deadline) == ETIMEDOUT);
	deadline = from_now(CLOCK_REALTIME, 10);
	CHECK(pthread_mutex_timedlock(&mutex, &deadline) == ETIMEDOUT);
	CHECK(pthread_mutex_trylock(&mutex) == EBUSY);
	pthread_mutex_unlock(&mutex);

	/* The futex call itself. */
	unsigned word = 5;
	struct timespec short_time = { 0, 10000000 };
	FAILS(futex(&word, FUTEX_WAIT_PRIVATE, 4, NULL, NULL, 0), EAGAIN);
	FAILS(futex(&word, FUTEX_WAIT_PRIVATE, 5, &short_time, NULL, 0), ETIMEDOUT);
	FAILS(futex((unsigned *)((char *)&word + 1), FUTEX_WAIT_PRIVATE, 5, &short_time, NULL, 0), EINVAL);
	FAILS(futex((unsigned *)4096, FUTEX_WAIT, 5, &short_time, NULL, 0), EFAULT);
	FAILS(futex(&word, 77, 0, NULL, NULL, 0), ENOSYS);
	FAILS(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 5, NULL, NULL, 0), EINVAL);
	deadline = from_now(CLOCK_MONOTONIC, 10);
	FAILS(futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 5, &deadline, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
	deadline = from_now(CLOCK_REALTIME, 10);
	FAILS(futex(&word, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 5, &deadline, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
	CHECK(futex(&word, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0) == 0);
	spawn(t, wait_word);
	while (__atomic_load_n(&about_to_wait, __ATOMIC_SEQ_CST) < THREADS)
		sleep_ms(10);
	sleep_ms(300);
	CHECK(futex(&words[0], FUTEX_WAKE_PRIVATE, 3, NULL, NULL, 0) == 3);
	CHECK(futex(&words[0], FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)INT_MAX, &words[1], 0) == 5);
	FAILS(futex(&words[0], FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)INT_MAX, &words[1], 9), EAGAIN);
	CHECK(futex(&words[0], FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0) == 0);
	CHECK(futex(&words[1], FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0) == 4);
	join(t);
	CHECK(woken == THREADS);

	/* Cancellation. */
	destroyed = 0;
	pthread_create(&t[0], NULL, cancelled, NULL);
	sleep_ms(20);
	CHECK(pthread_cancel(t[0]) == 0 && pthread_join(t[0], &result) == 0 && result == PTHREAD_CANCELED && destroyed == 1000000);
	pthread_create(&t[0], NULL, waits_forever, NULL);
	sleep_ms(20);
	CHECK(pthread_cancel(t[0]) == 0 && pthread_join(t[0], &result) == 0 && result == PTHREAD_CANCELED);
	CHECK(pthread_mutex_trylock(&mutex) == 0);

	/* A robust mutex whose owner ended. */
	pthread_mutexattr_t attr;
	static pthread_mutex_t robust;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attr);
	pthread_create(&t[0], NULL, locks_and_ends, &robust);
	pthread_join(t[0], NULL);
	CHECK(pthread_mutex_lock(&robust) == EOWNERDEAD);
	CHECK(pthread_mutex_consistent(&robust) == 0 && pthread_mutex_unlock(&robust) == 0);

	/* Threads come and go. */
	pthread_mutex_unlock(&mutex);
	int made = 0;
	for (int i = 0; i < 300; i++)
		if (pthread_create(&t[0], NULL, post, NULL) == 0 && pthread_join(t[0], NULL) == 0)
			made++;
	CHECK(made == 300);
	pthread_attr_t small;
	pthread_attr_init(&small);
	CHECK(pthread_attr_setstacksize(&small, PTHREAD_STACK_MIN) == 0);
	CHECK(pthread_create(&t[0], &small, post, NULL) == 0 && pthread_join(t[0], NULL) == 0);
	pthread_exit((void *)(long)DONE());
}

/* The ways to give a turn: a futex word, a pipe each way, an eventfd each way, a condition variable. */
#include "pingpong.h"
#include <limits.h>
#include <linux/futex.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

static inline long futex(uint32_t *word, int op, uint32_t value)
{
	register long timeout __asm__("r10") = 0;
	long result;
	__asm__ volatile("mov $202, %%eax\n syscall"
			 : "=a"(result)
			 : "D"(word), "S"((long)op), "d"((long)value), "r"(timeout)
			 : "rcx", "r11", "memory");
	return result;
}

static uint32_t turn;

static inline void futex_give(int side)
{
	__atomic_store_n(&turn, side, __ATOMIC_RELEASE);
	futex(&turn, FUTEX_WAKE_PRIVATE, 1);
}

static inline void futex_take(int side)
{
	while (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) != (uint32_t)side)
		futex(&turn, FUTEX_WAIT_PRIVATE, !side);
}

static int pipes[2][2];

static inline void open_pipes(void)
{
	check(pipe(pipes[0]) == 0 && pipe(pipes[1]) == 0, "pipe");
}

static inline void pipe_give(int side)
{
	check(write(pipes[side][1], "", 1) == 1, "write");
}

static inline void pipe_take(int side)
{
	char byte;
	check(read(pipes[side][0], &byte, 1) == 1, "read");
}

static int events[2];

static inline void open_events(void)
{
	check((events[0] = eventfd(0, 0)) >= 0 && (events[1] = eventfd(0, 0)) >= 0, "eventfd");
}

static inline void event_give(int side)
{
	uint64_t one = 1;
	check(write(events[side], &one, sizeof one) == sizeof one, "write");
}

static inline void event_take(int side)
{
	uint64_t count;
	check(read(events[side], &count, sizeof count) == sizeof count, "read");
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed[2] = {PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER};
static int whose;

static inline void condvar_give(int side)
{
	pthread_mutex_lock(&lock);
	whose = side;
	pthread_cond_signal(&changed[side]);
	pthread_mutex_unlock(&lock);
}

static inline void condvar_take(int side)
{
	pthread_mutex_lock(&lock);
	while (whose != side)
		pthread_cond_wait(&changed[side], &lock);
	pthread_mutex_unlock(&lock);
}

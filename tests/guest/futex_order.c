/* Who waits at a futex is woken in the order of real-time priorities, first come first among equals; so it is, too, after a move to another word. Without the
 * right to real-time priorities only the last of these can be seen, and nothing else is shown. */
#include "check.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#define COUNT 8

static uint32_t words[2];
static atomic_int tid, woken;
static int order[COUNT];
static int may_be_urgent;

struct waiter {
	int number, priority;
	uint32_t *word;
	pthread_t thread;
};

static long futex(uint32_t *word, int op, uint32_t val, long val2, uint32_t *word2)
{
	return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, val, val2, word2, 0);
}

static void set_priority(int priority)
{
	struct sched_param param = { .sched_priority = priority };
	sched_setscheduler(0, priority ? SCHED_FIFO : SCHED_OTHER, &param);
}

static void *wait_(void *argument)
{
	struct waiter *waiter = argument;
	set_priority(waiter->priority);
	tid = gettid();
	while (futex(waiter->word, FUTEX_WAIT, 0, 0, NULL) != 0)
		;
	order[woken] = waiter->number;
	woken++;
	return NULL;
}

/* Starts threads that wait, each once the one before it does. */
static void start(struct waiter *waiters, int count)
{
	for (int i = 0; i < count; i++) {
		tid = 0;
		pthread_create(&waiters[i].thread, NULL, wait_, &waiters[i]);
		while (tid == 0)
			usleep(1000);
		until_asleep(tid);
	}
}

/* Wakes them one by one; whether that was in the order of `expected`, or of their coming for those who cannot have priorities. */
static int wakes(uint32_t *word, struct waiter *waiters, int count, const int *expected)
{
	int good = 1;
	woken = 0;
	for (int i = 0; i < count; i++) {
		good &= futex(word, FUTEX_WAKE, 1, 0, NULL) == 1;
		while (woken == i)
			usleep(1000);
		good &= order[i] == (may_be_urgent ? expected[i] : i);
	}
	for (int i = 0; i < count; i++)
		pthread_join(waiters[i].thread, NULL);
	return good;
}

static void in_order_of_priority(void)
{
	struct waiter waiters[] = { { 0, 0, words, 0 },	 { 1, 20, words, 0 }, { 2, 50, words, 0 }, { 3, 20, words, 0 },
				    { 4, 0, words, 0 },	 { 5, 1, words, 0 },  { 6, 50, words, 0 }, { 7, 99, words, 0 } };
	static const int expected[] = { 7, 2, 6, 1, 3, 5, 0, 4 };
	start(waiters, 8);
	CHECK(wakes(words, waiters, 8, expected));
}

static void after_a_move(void)
{
	struct waiter waiters[] = { { 0, 0, &words[1], 0 }, { 1, 30, &words[1], 0 }, { 2, 0, words, 0 }, { 3, 30, words, 0 }, { 4, 40, words, 0 } };
	static const int expected[] = { 4, 1, 3, 0, 2 };
	start(waiters, 5);
	CHECK(futex(words, FUTEX_REQUEUE, 0, 9, &words[1]) == 3);
	CHECK(wakes(&words[1], waiters, 5, expected));
}

int main(void)
{
	set_priority(1);
	may_be_urgent = sched_getscheduler(0) == SCHED_FIFO;
	set_priority(0);
	in_order_of_priority();
	after_a_move();
	return DONE();
}

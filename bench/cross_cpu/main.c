/* Threads pinned to two CPUs take turns, each turn a wake-up across: nanoseconds per turn, the best of ten batches. */
#include "../ways.h"

int main(void)
{
	open_pipes();
	open_events();
	result("cross_cpu_futex", cross_cpu_turn(futex_give, futex_take));
	result("cross_cpu_pipe", cross_cpu_turn(pipe_give, pipe_take));
	result("cross_cpu_eventfd", cross_cpu_turn(event_give, event_take));
	result("cross_cpu_condvar", cross_cpu_turn(condvar_give, condvar_take));
	return 0;
}

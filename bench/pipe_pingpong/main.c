/* Two threads on one CPU take turns through two pipes: guest instructions per turn, which is one write, one read and one switch. */
#include "../ways.h"

int main(void)
{
	open_pipes();
	result("pipe_pingpong", best_turn(pipe_give, pipe_take));
	return 0;
}

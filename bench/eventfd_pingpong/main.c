/* Two threads on one CPU take turns through two eventfds: guest instructions per turn, which is one write, one read and one switch. */
#include "../ways.h"

int main(void)
{
	open_events();
	result("eventfd_pingpong", best_turn(event_give, event_take));
	return 0;
}

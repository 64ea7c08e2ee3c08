/* Two threads on one CPU take turns through glibc's mutex and condition variables: guest instructions per turn, one signal and one wait. */
#include "../ways.h"

int main(void)
{
	result("condvar_pingpong", best_turn(condvar_give, condvar_take));
	return 0;
}

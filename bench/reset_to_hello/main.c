/* Guest instructions from reset to behind the first line of output: the time-stamp counter starts at 0. Idle time counts too. */
#include "../bench.h"

int main(void)
{
	printf("hello\n");
	fflush(stdout);
	result("reset_to_hello", counter());
	return 0;
}

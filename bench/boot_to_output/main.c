/* The smallest program with output; the runner takes the time from starting the emulator to this line. */
#include "../bench.h"

int main(void)
{
	result("boot_to_output", 1);
	return 0;
}

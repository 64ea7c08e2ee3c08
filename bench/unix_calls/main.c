/* Local sockets on one CPU, in guest instructions: a byte written and read by one thread, a turn between two threads (a write, a read and
 * the switch between them), and a datagram with the same two calls. */
#include "../pingpong.h"
#include <sys/socket.h>

#define COUNT 500

static int stream[2], datagram[2], sides[2];
static char byte;

static void through(int *pair)
{
	check(write(pair[1], &byte, 1) == 1 && read(pair[0], &byte, 1) == 1, "socket");
}

static double cost(int *pair)
{
	uint64_t best = UINT64_MAX;
	for (int i = 0; i < 30; i++) {
		uint64_t start = counter();
		for (int j = 0; j < COUNT; j++)
			through(pair);
		best = smaller(best, counter() - start);
	}
	return (double)best / COUNT;
}

static void give(int side)
{
	check(write(sides[!side], &byte, 1) == 1, "write");
}

static void take(int side)
{
	check(read(sides[side], &byte, 1) == 1, "read");
}

int main(void)
{
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0, "socketpair");
	check(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagram) == 0, "socketpair");
	check(socketpair(AF_UNIX, SOCK_STREAM, 0, sides) == 0, "socketpair");
	result("unix_stream", cost(stream));
	result("unix_datagram", cost(datagram));
	result("unix_turn", best_turn(give, take));
	return 0;
}

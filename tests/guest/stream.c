/* `stream out BYTES SEED`: writes a reproducible stream. `stream in`: copies stdin to stdout. `stream sum`: hashes stdin. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t state;
static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static int write_all(const char *p, size_t n)
{
	while (n) {
		ssize_t done = write(1, p, n);
		if (done < 0)
			return 1;
		p += done;
		n -= done;
	}
	return 0;
}

int main(int argc, char **argv)
{
	static char buf[65536];
	ssize_t n;
	if (argc > 1 && !strcmp(argv[1], "out")) {
		size_t left = strtoul(argv[2], NULL, 0);
		state = strtoul(argv[3], NULL, 0);
		while (left) {
			for (size_t i = 0; i < sizeof buf; i += 8) {
				uint64_t x = next();
				memcpy(buf + i, &x, 8);
			}
			size_t now = left < sizeof buf ? left : sizeof buf;
			if (write_all(buf, now))
				return 1;
			left -= now;
		}
	} else if (argc > 1 && !strcmp(argv[1], "in")) {
		while ((n = read(0, buf, sizeof buf)) > 0)
			if (write_all(buf, n))
				return 1;
		return n < 0;
	} else {
		uint64_t hash = 14695981039346656037u, total = 0;
		while ((n = read(0, buf, sizeof buf)) > 0) {
			for (ssize_t i = 0; i < n; i++)
				hash = (hash ^ (unsigned char)buf[i]) * 1099511628211u;
			total += n;
		}
		printf("%llu bytes, %016llx\n", (unsigned long long)total, (unsigned long long)hash);
	}
	return 0;
}

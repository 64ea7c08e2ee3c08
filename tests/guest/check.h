/* Shared by the C guest programs: each check prints one line, so host and guest outputs can be compared. */
#ifndef CHECK_H
#define CHECK_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int failures;

static inline int check_(int ok, const char *what, int line)
{
	int e = errno;
	if (ok) {
		printf("ok %d: %s\n", line, what);
	} else {
		printf("FAIL %d: %s (errno %d %s)\n", line, what, e, strerror(e));
		failures++;
	}
	fflush(stdout);
	return ok;
}

/* The condition holds. */
#define CHECK(cond) check_(!!(cond), #cond, __LINE__)
/* The call returns -1 with this errno. */
#define FAILS(call, err) check_((errno = 0, (long)(call) == -1 && errno == (err)), #call " => " #err, __LINE__)
/* Ends main. */
#define DONE() (printf(failures ? "failures: %d\n" : "done\n", failures), failures ? 1 : 0)

static inline void sleep_ms(long ms)
{
	usleep(ms * 1000);
}

/* Whether a thread of this process sleeps at this instant. */
static inline int is_asleep(int tid)
{
	char path[64], text[512] = "";
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	FILE *file = fopen(path, "r");
	if (!file)
		return 0;
	size_t length = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[length] = 0;
	/* The name before the state may contain anything. */
	const char *end = strrchr(text, ')');
	return end && end[1] == ' ' && end[2] == 'S';
}

/* Waits until a thread of this process sleeps. */
static inline void until_asleep(int tid)
{
	while (!is_asleep(tid))
		usleep(1000);
}
#endif

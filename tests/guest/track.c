/*
 * Which pages were written and used: soft-dirty bits (clear_refs, pagemap) and PAGEMAP_SCAN. A Linux may be built without the first, or be older
 * than the second: what it cannot do counts as done.
 */
#include "memory.h"
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

struct scan {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, all_of, any_of, shown;
};
struct region {
	uint64_t start, end, categories;
};
#define SCAN _IOWR('f', 16, struct scan)
enum { WPALLOWED = 1, WRITTEN = 2, FILE_PAGE = 4, PRESENT = 8, ZERO = 32, HUGE = 64, SOFT = 128 };

static int map_fd, clear_fd, soft, scans;

/* Bit 55 of each page's word, as a number in binary, the first page lowest. */
static unsigned dirty(char *p, int pages)
{
	uint64_t words[32];
	unsigned bits = 0;
	if (pread(map_fd, words, pages * 8, (uintptr_t)p / P * 8) != pages * 8)
		return -1;
	for (int i = 0; i < pages; i++)
		bits |= (words[i] >> 55 & 1) << i;
	return bits;
}

static int clear(const char *what)
{
	return write(clear_fd, what, strlen(what)) == (ssize_t)strlen(what);
}

static void soft_dirty(void)
{
	char *p = anon(8 * P, RW);
	p[0] = p[P] = 1;
	volatile char sum = p[2 * P];
	soft = dirty(p, 1);
	CHECK(soft || !in_oxv());
	CHECK(!soft || dirty(p, 8) == 0xff); /* a new mapping is dirty as a whole */
	CHECK(clear("4") && dirty(p, 8) == 0);
	p[P] = 2;
	sum += p[3 * P] + p[0];
	p[5 * P] = 3;
	CHECK(!soft || dirty(p, 8) == 0x22);
	CHECK(p[0] == 1 && p[P] == 2 && p[4 * P] == 0);
	/* Rights that come and go are no writes. */
	CHECK(clear("4\n") && mprotect(p, 8 * P, PROT_READ) == 0 && mprotect(p, 8 * P, RW) == 0 && dirty(p, 8) == 0);
	p[0] = 4;
	CHECK(!soft || dirty(p, 8) == 1);
	/* The kernel's writes count. */
	int ends[2];
	CHECK(clear("4") && pipe(ends) == 0 && write(ends[1], "x", 1) == 1 && read(ends[0], p + 6 * P, 1) == 1);
	CHECK(!soft || dirty(p, 8) == 0x40);
	/* A child's copies are its own. */
	CHECK(clear("4"));
	pid_t child = fork();
	if (child == 0) {
		p[P] = 7;
		_exit(0);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child && status == 0 && dirty(p, 8) == 0 && p[P] == 2);
	p[P] = 8;
	CHECK(!soft || dirty(p, 8) == 2);
	/* New and moved mappings are dirty. */
	char *q = anon(2 * P, PROT_READ);
	CHECK(!soft || dirty(q, 2) == 3);
	CHECK(clear("4"));
	char *moved = mremap(p, 8 * P, 16 * P, MREMAP_MAYMOVE | MREMAP_FIXED, anon(16 * P, PROT_NONE));
	CHECK(moved != MAP_FAILED && moved[P] == 8 && (!soft || dirty(moved, 8) == 0xff));
	/* Shared memory: reading maps the page, writing is noticed. */
	char *s = mmap(NULL, 4 * P, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	s[0] = 1;
	CHECK(clear("4"));
	sum += s[0] + s[P];
	CHECK(dirty(s, 4) == 0);
	s[P] = 1;
	CHECK(!soft || dirty(s, 4) == 2);
	/* Large pages. */
	char *large = anon(2 * L, RW), *start = (char *)(((uintptr_t)large + L - 1) & -L);
	madvise(start, L, MADV_HUGEPAGE);
	memset(start, 1, L);
	CHECK(clear("4") && dirty(start, 32) == 0 && dirty(start + L - 32 * P, 32) == 0);
	start[5 * P] = 2;
	CHECK(!soft || (dirty(start, 32) & 32));
	CHECK(start[5 * P] == 2 && start[6 * P] == 1);
}

static void other_values(void)
{
	char *p = anon(4 * P, RW);
	memset(p, 1, 4 * P);
	for (const char *value = "1235"; *value; value++)
		CHECK(write(clear_fd, value, 1) == 1);
	CHECK(p[0] == 1);
	for (const char *value = "06x"; *value; value++)
		FAILS(write(clear_fd, value, 1), EINVAL);
	char *once = anon(64 * L, RW);
	memset(once, 1, 64 * L);
	munmap(once, 64 * L);
	long before = field("/proc/self/status", "VmHWM");
	CHECK(before > 128 << 10 && clear("5") && field("/proc/self/status", "VmHWM") < before / 2);
	/* What is used after its bit was cleared is referenced again. */
	char *q = anon(L, RW);
	madvise(q, L, MADV_NOHUGEPAGE);
	memset(q, 1, L);
	CHECK(clear("1"));
	long few = field("/proc/self/smaps", "Referenced");
	volatile char sum = 0;
	for (size_t at = 0; at < L; at += P)
		sum += q[at];
	CHECK(field("/proc/self/smaps", "Referenced") - few >= 1024);
}

static long scan(char *p, size_t pages, struct region *out, size_t room, uint64_t flags, uint64_t max_pages, const uint64_t masks[4], uint64_t *walk_end)
{
	struct scan args = { sizeof args, flags, (uintptr_t)p, (uintptr_t)p + pages * P, 0, (uintptr_t)out, room, max_pages, masks[0], masks[1], masks[2], masks[3] };
	long found = ioctl(map_fd, SCAN, &args);
	if (walk_end)
		*walk_end = args.walk_end - (uintptr_t)p;
	return found;
}

static int is(const struct region *region, char *base, size_t from, size_t to, uint64_t categories)
{
	return region->start == (uintptr_t)base + from * P && region->end == (uintptr_t)base + to * P && (region->categories & ~SOFT) == categories;
}

static void scanning(void)
{
	static const uint64_t any[4] = { 0, 0, 0, 0x7f }, present[4] = { 0, PRESENT, 0, PRESENT }, absent[4] = { PRESENT, PRESENT, 0, PRESENT },
			      either[4] = { 0, 0, ZERO | FILE_PAGE, ZERO | FILE_PAGE }, none[4] = { 0, PRESENT, 0, 0 };
	struct region out[64];
	uint64_t end;
	char *p = anon(16 * P, RW);
	errno = 0;
	scans = scan(p, 16, NULL, 0, 0, 0, any, NULL) == 0 || errno != ENOTTY;
	CHECK(scans || !in_oxv());
	if (!scans)
		p = anon(16 * P, RW);
	p[0] = p[P] = p[5 * P] = 1;
	volatile char sum = p[2 * P] + p[3 * P];
	CHECK(!scans || (scan(p, 16, out, 64, 0, 0, any, &end) == 5 && end == 16 * P));
	CHECK(!scans || (is(out, p, 0, 2, WRITTEN | PRESENT) && is(out + 1, p, 2, 4, WRITTEN | PRESENT | ZERO) && is(out + 2, p, 4, 5, WRITTEN)));
	CHECK(!scans || (is(out + 3, p, 5, 6, WRITTEN | PRESENT) && is(out + 4, p, 6, 16, WRITTEN)));
	CHECK(!scans || (scan(p, 16, out, 64, 0, 0, present, NULL) == 2 && is(out, p, 0, 4, PRESENT) && is(out + 1, p, 5, 6, PRESENT)));
	CHECK(!scans || (scan(p, 16, out, 64, 0, 0, absent, NULL) == 2 && is(out, p, 4, 5, 0) && is(out + 1, p, 6, 16, 0)));
	CHECK(!scans || (scan(p, 16, out, 64, 0, 0, either, NULL) == 1 && is(out, p, 2, 4, ZERO)));
	CHECK(!scans || (scan(p, 16, out, 64, 0, 0, none, NULL) == 2 && is(out, p, 0, 4, 0)));
	/* Room for regions, room for pages. */
	CHECK(!scans || (scan(p, 16, out, 1, 0, 0, present, &end) == 1 && is(out, p, 0, 4, PRESENT) && end == 5 * P));
	CHECK(!scans || (scan(p, 16, out, 64, 0, 3, present, &end) == 1 && is(out, p, 0, 3, PRESENT) && end == 3 * P));
	CHECK(!scans || (scan(p, 16, out, 64, 0, 4, present, &end) == 1 && is(out, p, 0, 4, PRESENT) && end == 5 * P));
	CHECK(!scans || (scan(p, 16, NULL, 0, 0, 0, present, &end) == 0 && end == 16 * P));
	CHECK(!scans || (scan(p, 0, out, 64, 0, 0, present, &end) == 0 && end == 0));
	/* Holes between mappings are passed over. */
	munmap(p + 2 * P, 3 * P);
	CHECK(!scans || (scan(p, 16, out, 64, 0, 0, present, NULL) == 2 && is(out, p, 0, 2, PRESENT) && is(out + 1, p, 5, 6, PRESENT)));
	/* Pages of a file. */
	int fd = open("/proc/self/exe", O_RDONLY);
	char *f = mmap(NULL, P, PROT_READ, MAP_PRIVATE, fd, 0);
	sum += f[0];
	CHECK(!scans || (scan(f, 1, out, 64, 0, 0, any, NULL) == 1 && is(out, f, 0, 1, WRITTEN | PRESENT | FILE_PAGE)));
	/* More regions than are handed out at a time. */
	enum { MANY = 1400 };
	struct region *all = malloc(MANY * sizeof *all);
	char *q = anon(2 * MANY * P, RW);
	madvise(q, 2 * MANY * P, MADV_NOHUGEPAGE);
	for (int i = 0; i < MANY; i++)
		q[2 * i * P] = 1;
	int wrong = 0;
	CHECK(!scans || scan(q, 2 * MANY, all, MANY, 0, 0, present, &end) == MANY);
	for (int i = 0; scans && i < MANY; i++)
		wrong += !is(all + i, q, 2 * i, 2 * i + 1, PRESENT);
	CHECK(wrong == 0);
	CHECK(!scans || (scan(q, 2 * MANY, all, 700, 0, 0, present, &end) == 700 && end == 1400 * P));

	/* Mistakes. */
	struct scan args = { sizeof args, 0, (uintptr_t)p, (uintptr_t)p + P, 0, 0, 0, 0, 0, 0, 0, 0 };
	CHECK(!scans || ioctl(map_fd, SCAN, &args) == 0);
#define BAD(change, error)                                                                                                         \
	do {                                                                                                                       \
		struct scan bad = args;                                                                                            \
		change;                                                                                                            \
		errno = 0;                                                                                                         \
		CHECK(!scans || (ioctl(map_fd, SCAN, &bad) == -1 && errno == (error)));                                            \
	} while (0)
	BAD(bad.size = 95, EINVAL);
	BAD(bad.flags = 8, EINVAL);
	BAD(bad.start++, EINVAL);
	BAD(bad.all_of = 1ul << 40, EINVAL);
	BAD(bad.vec_len = 1, EINVAL);
	BAD(bad.end = ~0ul, EFAULT);
	BAD((bad.vec = 8, bad.vec_len = 4), EFAULT);
	CHECK(!scans || ioctl(map_fd, SCAN, NULL) == -1);
	/* Nobody watches these pages. */
	BAD(bad.flags = 2, EPERM);
	BAD(bad.flags = 3, EPERM);
}

struct uffd_api {
	uint64_t api, features, ioctls;
};
struct uffd_register {
	uint64_t start, len, mode, ioctls;
};
struct uffd_protect {
	uint64_t start, len, mode;
};
#define UFFD_API _IOWR(0xaa, 0x3f, struct uffd_api)
#define UFFD_REGISTER _IOWR(0xaa, 0, struct uffd_register)
#define UFFD_UNREGISTER _IOR(0xaa, 1, struct region64)
#define UFFD_PROTECT _IOWR(0xaa, 6, struct uffd_protect)
struct region64 {
	uint64_t start, len;
};

/* Pages written since they were last looked at, which are watched anew: what a garbage collector asks. */
static void watching(void)
{
	static const uint64_t written[4] = { 0, WRITTEN, 0, WRITTEN };
	enum { TAKE = 3 };
	struct region out[64];
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
	struct uffd_api api = { 0xaa, 1ul << 13 | 1ul << 15, 0 };
	int have = scans && fd >= 0 && ioctl(fd, UFFD_API, &api) == 0;
	CHECK(have || !in_oxv());
	char *p = anon(16 * P, RW);
	madvise(p, 16 * P, MADV_NOHUGEPAGE);
	memset(p, 1, 16 * P);
	struct uffd_register all = { (uintptr_t)p, 16 * P, 2, 0 };
	struct uffd_protect protect = { (uintptr_t)p, 16 * P, 1 };
	CHECK(!have || (ioctl(fd, UFFD_PROTECT, &protect) == -1 && errno == ENOENT));
	CHECK(!have || (ioctl(fd, UFFD_REGISTER, &all) == 0 && (all.ioctls >> 6 & 1)));
	CHECK(!have || ioctl(fd, UFFD_PROTECT, &protect) == 0);
	CHECK(!have || scan(p, 16, out, 64, TAKE, 0, written, NULL) == 0);
	p[0] = p[5 * P] = p[6 * P] = 2;
	CHECK(p[P] == 1 && p[5 * P] == 2);
	CHECK(!have || (scan(p, 16, out, 64, 0, 0, written, NULL) == 2 && is(out, p, 0, 1, WRITTEN) && is(out + 1, p, 5, 7, WRITTEN)));
	CHECK(!have || scan(p, 16, out, 64, TAKE, 0, written, NULL) == 2);
	CHECK(!have || scan(p, 16, out, 64, TAKE, 0, written, NULL) == 0);
	/* The kernel writes, too; a few pages at a time. */
	int ends[2];
	CHECK(pipe(ends) == 0 && write(ends[1], "xy", 2) == 2 && read(ends[0], p + 9 * P, 1) == 1 && read(ends[0], p + 11 * P, 1) == 1);
	CHECK(!have || (scan(p, 16, out, 64, TAKE, 1, written, NULL) == 1 && is(out, p, 9, 10, WRITTEN)));
	CHECK(!have || (scan(p, 16, out, 64, TAKE, 1, written, NULL) == 1 && is(out, p, 11, 12, WRITTEN)));
	CHECK(!have || scan(p, 16, out, 64, TAKE, 1, written, NULL) == 0);
	/* Rights that come and go are no writes; protection that is taken back counts as one. */
	CHECK(mprotect(p, 16 * P, PROT_READ) == 0 && mprotect(p, 16 * P, RW) == 0 && (!have || scan(p, 16, out, 64, TAKE, 0, written, NULL) == 0));
	protect = (struct uffd_protect){ (uintptr_t)p + 3 * P, P, 0 };
	CHECK(!have || (ioctl(fd, UFFD_PROTECT, &protect) == 0 && scan(p, 16, out, 64, TAKE, 0, written, NULL) == 1 && is(out, p, 3, 4, WRITTEN)));
	/* A large page is split where a part of it is watched. */
	char *large = anon(2 * L, RW), *start = (char *)(((uintptr_t)large + L - 1) & -L);
	madvise(start, L, MADV_HUGEPAGE);
	memset(start, 1, L);
	struct uffd_register part = { (uintptr_t)start, L, 2, 0 };
	CHECK(!have || (ioctl(fd, UFFD_REGISTER, &part) == 0 && scan(start, 8, out, 64, TAKE, 0, written, NULL) == 1));
	start[3 * P] = 2;
	CHECK(!have || (scan(start, 8, out, 64, TAKE, 0, written, NULL) == 1 && is(out, start, 3, 4, WRITTEN)));
	CHECK(start[3 * P] == 2 && start[4 * P] == 1 && start[100 * P] == 1);
	/* Mistakes. */
	CHECK(!have || (part.len = 1, ioctl(fd, UFFD_REGISTER, &part) == -1 && errno == EINVAL));
	CHECK(!have || (ioctl(fd, UFFD_API, &api) == -1 && errno == EINVAL));
	char byte;
	CHECK(!have || (read(fd, &byte, 1) == -1));
	struct region64 range = { (uintptr_t)p, 16 * P };
	CHECK(!have || (ioctl(fd, UFFD_UNREGISTER, &range) == 0 && scan(p, 16, out, 64, TAKE, 0, written, NULL) == -1 && errno == EPERM));
	p[0] = 3;
	CHECK(p[0] == 3);
	close(fd);
	CHECK(!have || (scan(start, 8, out, 64, TAKE, 0, written, NULL) == -1 && errno == EPERM));
}

int main(void)
{
	map_fd = open("/proc/self/pagemap", O_RDONLY);
	clear_fd = open("/proc/self/clear_refs", O_WRONLY);
	CHECK(map_fd >= 0 && clear_fd >= 0);
	soft_dirty();
	other_values();
	scanning();
	watching();
	return DONE();
}
